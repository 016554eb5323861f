"""References and live rows with a daily and a weekly season."""

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from monitors.reference import Marginal, Profile, build
from monitors.strata import hours_of_week
from serving.protocol import Array

HOUR_S = 3600.0
MONDAY = 96  # in hours since 1970

Season = Callable[[NDArray[np.intp]], Array]  # the mean by hour of the week, in standard deviations of an hour's rows


def days(hour: NDArray[np.intp]) -> Array:
    return 0.8 * np.sin(2 * np.pi * hour / 24)


def weeks(hour: NDArray[np.intp]) -> Array:
    return days(hour) + 0.4 * np.sin(2 * np.pi * hour / 168)


def none(hour: NDArray[np.intp]) -> Array:
    return np.zeros(len(hour))


def times(length: int, rows: int) -> Array:
    """So many weeks with `rows` rows an hour, from a Monday on, in seconds."""
    return np.repeat(MONDAY + np.arange(length * 168), rows) * HOUR_S


def values(rng: np.random.Generator, time: Array, season: Season) -> Array:
    return season(hours_of_week((time // HOUR_S).astype(np.int64))) + rng.normal(size=len(time))


def reference(season: Season, length: int = 8, rows: int = 300, seed: int = 1) -> Profile:
    """`x` has the season, `y` none."""
    rng, time = np.random.default_rng(seed), times(length, rows)
    columns = {"x": values(rng, time, season), "y": rng.normal(size=len(time))}
    return build(columns, {"x": "numeric", "y": "numeric"}, time=time, block_s=HOUR_S)


@cache
def law(season: Season, length: int = 8, rows: int = 300, seed: int = 1) -> Marginal:
    time = times(length, rows)
    x = values(np.random.default_rng(seed), time, season)
    return build({"x": x}, {"x": "numeric"}, time=time, block_s=HOUR_S).features["x"]
