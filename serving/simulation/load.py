"""Load over time: recorded in a file, or a shape."""

import csv
import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from serving.errors import BadRequest

COLUMNS = ("at_s", "requests_per_s")
RECORDED = "replicas"  # a third column, of what happened


@dataclass(frozen=True, slots=True)
class Moment:
    """From `at_s` on, until the next. `replicas` that took work then, where that is known."""

    at_s: float
    requests_per_s: float
    replicas: int | None = None


@dataclass(frozen=True)
class Trace:
    """Moments in order of time, the first at 0.

    >>> Trace((Moment(0, 5), Moment(10, 50)), seconds=20).at(9.9).requests_per_s
    5
    """

    moments: tuple[Moment, ...]
    seconds: float

    def at(self, at_s: float) -> Moment:
        return self.moments[max(0, bisect_right(self.moments, at_s, key=lambda moment: moment.at_s) - 1)]

    @property
    def recorded(self) -> bool:
        return all(moment.replicas is not None for moment in self.moments)


@dataclass(frozen=True)
class Shape:
    """`height(x)` in 0..1 over the run x in 0..1, between the quiet rate and the peak; as long as `seconds`."""

    seconds: float
    height: Callable[[float], float]


SHAPES: dict[str, Shape] = {
    "constant": Shape(600.0, lambda x: 1.0),
    "step": Shape(600.0, lambda x: 1.0 if 0.2 <= x < 0.6 else 0.0),
    "ramp": Shape(900.0, lambda x: 1.0 - abs(2.0 * x - 1.0)),
    "spike": Shape(900.0, lambda x: 1.0 if 0.4 <= x < 0.45 else 0.0),
    "diurnal": Shape(86_400.0, lambda x: 0.5 - 0.5 * math.cos(2.0 * math.pi * x)),  # midnight to midnight
}
POINTS = 1440  # of a shape: a minute each of a day


def shaped(name: str, quiet: float, peak: float, seconds: float | None = None) -> Trace:
    """A shape of `SHAPES` from `quiet` to `peak` requests a second.

    >>> [round(shaped("diurnal", 10, 100).at(hour * 3600).requests_per_s) for hour in (0, 6, 12, 18)]
    [10, 55, 100, 55]
    """
    shape = SHAPES[name]
    length_s = seconds or shape.seconds
    xs = [point / POINTS for point in range(POINTS)]
    return Trace(tuple(Moment(x * length_s, quiet + (peak - quiet) * shape.height(x)) for x in xs), length_s)


def read(path: Path) -> Trace:
    """A CSV file with the columns `at_s`, `requests_per_s` and perhaps `replicas`. Raises BadRequest."""
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadRequest(f"cannot read {path}: {error}") from None
    moments = [_moment(path, line, row) for line, row in enumerate(rows, start=2)]
    if len(moments) < 2 or any(a.at_s >= b.at_s for a, b in pairwise(moments)):
        raise BadRequest(f"{path}: expected at least two rows with rising at_s, got {len(moments)} rows")
    start, end = moments[0].at_s, moments[-1].at_s
    shifted = (Moment(m.at_s - start, m.requests_per_s, m.replicas) for m in moments)
    return Trace(tuple(shifted), end - start)


def write(path: Path, moments: Sequence[Moment]) -> None:
    """What `read` reads."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([*COLUMNS, RECORDED])
        rows.writerows([f"{m.at_s:.3f}", f"{m.requests_per_s:.3f}", m.replicas] for m in moments)


def _moment(path: Path, line: int, row: dict[str, str]) -> Moment:
    try:
        at_s, rate = (float(row[column]) for column in COLUMNS)
        replicas = int(row[RECORDED]) if row.get(RECORDED) else None
    except (KeyError, TypeError, ValueError):
        raise BadRequest(f"{path}, line {line}: expected numbers for {', '.join(COLUMNS)}, got {row}") from None
    if not (math.isfinite(at_s) and math.isfinite(rate) and rate >= 0):
        raise BadRequest(f"{path}, line {line}: expected finite numbers and a rate of at least 0, got {row}")
    return Moment(at_s, rate, replicas)
