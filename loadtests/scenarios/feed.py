"""Which flight is asked for next, and how: real rows, as requests of the Open Inference Protocol v2. Pure."""

from dataclasses import dataclass

import msgspec
import numpy as np

from loadtests.scenarios.scenario import Scenario
from serving.demo import setup
from serving.demo.flights import utc
from serving.demo.traffic import Traffic, rfc3339
from serving.protocol import Array

_JSON = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Flight:
    """One request: times in seconds since 1970 UTC; `label` is 0 or 1. Without a label, `lands` is NaN."""

    request_id: str
    key: str
    row: Array
    departs: float
    lands: float
    label: float

    @property
    def labelled(self) -> bool:
        return bool(np.isfinite(self.lands))


class Feed:
    """The flights of a scenario, in order of departure.

    Request ids begin with `prefix`, which should be new with every run: the monitors join labels by them.
    """

    def __init__(self, every: Traffic, scenario: Scenario, seconds: float, prefix: str) -> None:
        first, last = map(utc, scenario.days)
        begin, end = np.searchsorted(every.times, (first, last))
        self._every, self._range, self._prefix = every, range(int(begin), int(end)), prefix
        self._in_step = scenario.speed is None
        self.speed = scenario.speed or (last - first) / seconds  # event seconds a second
        self._sent = 0

    def next(self, part: float) -> Flight:
        """The next one, from the first again after the last; in step with the run, the one at `part` of the days."""
        place = int(part * len(self._range)) if self._in_step else self._sent
        index = self._range[place % len(self._range)]
        self._sent += 1
        every = self._every
        return Flight(
            f"{every.ids[index]}.{self._prefix}-{self._sent}", every.keys[index], every.rows[index],
            float(every.times[index]), float(every.label_times[index]), float(every.labels[index]),
        )  # fmt: skip

    def lands_in_s(self, flight: Flight) -> float:
        """Seconds of the run until the label is known."""
        return (flight.lands - flight.departs) / self.speed


def request(flight: Flight, with_time: bool = False) -> tuple[dict[str, str], bytes]:
    """Headers and body: JSON where the row is complete, else binary, since NaN has no JSON form."""
    headers = {"x-request-id": flight.request_id, setup.KEY_HEADER: flight.key}
    if with_time:
        headers["x-gaugeway-event-time"] = rfc3339(flight.departs)
    columns = len(flight.row)
    tensor: dict[str, object] = {"name": setup.INPUT, "datatype": "FP32", "shape": [1, columns]}
    document = {"inputs": [tensor], "outputs": [{"name": setup.OUTPUT}]}
    if np.isfinite(flight.row).all():
        tensor["data"] = flight.row.tolist()
        return headers | {"content-type": "application/json"}, _JSON.encode(document)
    tensor["parameters"] = {"binary_data_size": 4 * columns}
    head = _JSON.encode(document)
    binary = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))}
    return headers | binary, head + flight.row.astype("<f4").tobytes()


def label(flight: Flight, with_time: bool) -> bytes:
    """A line of NDJSON."""
    document = {"id": flight.request_id, "row": 0, "label": flight.label}
    return _JSON.encode(document | ({"time": rfc3339(flight.lands)} if with_time else {})) + b"\n"
