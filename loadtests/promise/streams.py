"""Ninety days of twenty features in which nothing changes, and what follows a shift. NumPy alone: rivals run it too."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

FEATURES = 20
DAYS = 90
BLOCKS = 1440  # of a minute, in a day
ROWS = 200  # in a block
REFERENCE_ROWS = 10_000
SIGMA = 0.3  # the shift to be found, in standard deviations, in feature 0
FOUND_WITHIN = 240  # blocks, else it is not found

Floats = NDArray[np.float64]
Law = Callable[[np.random.Generator, tuple[int, ...]], Floats]

# Of mean 0 and standard deviation 1.
LAWS: tuple[Law, ...] = (
    lambda rng, shape: rng.normal(size=shape),
    lambda rng, shape: (rng.lognormal(0.0, 0.5, shape) - 1.1331484530668263) / 0.6039004322217466,
    lambda rng, shape: rng.exponential(size=shape) - 1.0,
    lambda rng, shape: rng.uniform(-(3**0.5), 3**0.5, shape),
    lambda rng, shape: rng.standard_t(5, shape) / (5 / 3) ** 0.5,
)


@dataclass(frozen=True)
class Outcome:
    """Of one way to look for drift. `calls` are windows with at least one alarm, `alarms` are of single features."""

    name: str
    rule: str
    window: str
    days: float  # that were looked at
    calls: float  # in 90 days
    alarms: float  # in 90 days
    delay_min: float  # median minutes until feature 0, shifted, is an alarm; infinite: not within `FOUND_WITHIN`
    promised: float | None = None  # calls in 90 days, at most


def reference(feature: int) -> Floats:
    """Shape (REFERENCE_ROWS,)."""
    return _law(feature)(np.random.default_rng([1, feature]), (REFERENCE_ROWS,))


def day(feature: int, number: int) -> Floats:
    """Rows of a day by block, shape (BLOCKS, ROWS)."""
    return _law(feature)(np.random.default_rng([2, feature, number]), (BLOCKS, ROWS))


def shifted(run: int) -> Iterator[Floats]:
    """Blocks of feature 0 from the shift on, shape (ROWS,) each."""
    rng = np.random.default_rng([3, run])
    return (LAWS[0](rng, (ROWS,)) + SIGMA for _ in range(FOUND_WITHIN))


def median_delay(alarmed: Callable[[], Callable[[Floats], bool]], runs: int) -> float:
    """Median of the block of the first alarm; `alarmed()` is a fresh detector that takes blocks of feature 0."""
    firsts = []
    for run in range(runs):
        detector = alarmed()
        found = (number for number, rows in enumerate(shifted(run), 1) if detector(rows))
        firsts.append(next(found, np.inf))
    return float(np.median(firsts))


def say(*outcomes: Outcome) -> None:
    """For the program that started this one."""
    json.dump([asdict(outcome) for outcome in outcomes], sys.stdout)


def _law(feature: int) -> Law:
    return LAWS[feature % len(LAWS)]
