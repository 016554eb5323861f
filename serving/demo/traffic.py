"""What a replay sends: predictions in order of time, and labels at the time they become known. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from serving.protocol import Array


@dataclass(frozen=True, slots=True)
class Traffic:
    """`n` one-row requests in order of event time, and what they should have been answered.

    `ids` and `keys` (sticky) have n strings; `rows` is float32 of shape (n, features), NaN where a value is missing;
    `times`, `label_times` are seconds since 1970 UTC and `labels` numbers, all of shape (n,). A label that never
    comes has time NaN.
    """

    ids: list[str]
    keys: list[str]
    times: Array
    rows: Array
    label_times: Array
    labels: Array

    def __len__(self) -> int:
        return len(self.ids)

    def between(self, start: float, end: float) -> "Traffic":
        """Requests of [start, end); their labels only where they are known before `end`."""
        first, last = np.searchsorted(self.times, (start, end))
        part = slice(int(first), int(last))
        known = self.label_times[part] < end
        return Traffic(
            self.ids[part],
            self.keys[part],
            self.times[part],
            self.rows[part],
            np.where(known, self.label_times[part], np.nan),
            np.where(known, self.labels[part], np.nan),
        )

    @property
    def labelled(self) -> int:
        """How many labels there are."""
        return int(np.isfinite(self.label_times).sum())


@dataclass(frozen=True, slots=True)
class Tick:
    """Some seconds of event time: the requests sent in it, then the labels that became known in it (indices)."""

    start: float
    requests: range
    labels: list[int]


def ticks(traffic: Traffic, tick_s: float) -> Iterator[Tick]:
    """Cut `traffic` into ticks of `tick_s` seconds, in order; ticks in which nothing happens are left out.

    Every request and every label is in exactly one tick, and no label before its request.

    >>> times = np.array([0.0, 5.0, 70.0])
    >>> t = Traffic(list("abc"), list("kkl"), times, np.zeros((3, 1)), times + [50, 10, np.nan], np.ones(3))
    >>> [(tick.start, list(tick.requests), tick.labels) for tick in ticks(t, 60)]
    [(0.0, [0, 1], [1, 0]), (60.0, [2], [])]
    """
    due = np.argsort(traffic.label_times, kind="stable")[: traffic.labelled]
    in_tick = traffic.times // tick_s
    known_in = np.maximum(traffic.label_times, traffic.times)[due] // tick_s
    for number in np.union1d(in_tick, known_in):
        first, last = np.searchsorted(in_tick, (number, number + 1))
        known = due[slice(*np.searchsorted(known_in, (number, number + 1)))]
        yield Tick(float(number * tick_s), range(int(first), int(last)), known.tolist())


def rfc3339(seconds: float) -> str:
    """Seconds since 1970 as a UTC time.

    >>> rfc3339(1364774400.25)
    '2013-04-01T00:00:00.250Z'
    """
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
