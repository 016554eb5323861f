"""Ninety days of twenty features in which nothing changes, and what follows a shift. NumPy alone: rivals run it too."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray

FEATURES = 20
DAYS = 90
BLOCKS = 1440  # of a minute, in a day
ROWS = 200  # in a block
REFERENCE_ROWS = 10_000
SIGMA = 0.3  # the shift to be found, in standard deviations, in feature 0
FOUND_WITHIN = 240  # blocks, else it is not found
MINUTES = {"row": 1, "minute": 1, "hour": 60}  # of a window, after which somebody may be called once

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
    """Of one way to look for drift, in runs with a reference and rows of their own.

    A rule that looks at every row is asked minute by minute whether it alarmed.
    """

    name: str
    rule: str
    window: str  # what it looks at, a key of `MINUTES`
    windows: int  # of a run
    called: tuple[int, ...]  # of each run's windows, those with an alarm
    firsts: tuple[float, ...]  # minutes until feature 0, shifted, is an alarm; infinite: not within `FOUND_WITHIN`
    promised: float | None = None  # calls in 90 days, at most

    @property
    def quarter(self) -> int:
        """Windows of 90 days."""
        return DAYS * BLOCKS // MINUTES[self.window]

    @property
    def looked_at(self) -> int:
        return self.windows * len(self.called)

    @property
    def calls(self) -> float:
        """In 90 days, if all windows are like those that were looked at."""
        return sum(self.called) / self.looked_at * self.quarter

    @property
    def delay_min(self) -> float:
        """Median; infinite where most shifts are not found, or none can be."""
        return float(np.median(self.firsts)) if self.firsts else np.inf


def merged(runs: Iterable[Outcome]) -> list[Outcome]:
    """Runs of the same rule as one outcome, in the order in which they come."""
    rules: dict[tuple[str, str, str, int], list[Outcome]] = {}
    for found in runs:
        rules.setdefault((found.name, found.rule, found.window, found.windows), []).append(found)
    return [
        replace(
            same[0],
            called=tuple(chain.from_iterable(found.called for found in same)),
            firsts=tuple(chain.from_iterable(found.firsts for found in same)),
        )
        for same in rules.values()
    ]


def reference(feature: int, run: int = 0) -> Floats:
    """Shape (REFERENCE_ROWS,)."""
    return _law(feature)(np.random.default_rng([1, feature, run]), (REFERENCE_ROWS,))


def day(feature: int, number: int) -> Floats:
    """Rows of a day by block, shape (BLOCKS, ROWS)."""
    return _law(feature)(np.random.default_rng([2, feature, number]), (BLOCKS, ROWS))


def shifted(trial: int) -> Iterator[Floats]:
    """Blocks of feature 0 from the shift on, shape (ROWS,) each."""
    rng = np.random.default_rng([3, trial])
    return (LAWS[0](rng, (ROWS,)) + SIGMA for _ in range(FOUND_WITHIN))


def firsts(alarmed: Callable[[], Callable[[Floats], bool]], trials: Iterable[int]) -> tuple[float, ...]:
    """The block of each trial's first alarm; `alarmed()` is a fresh detector that takes blocks of feature 0."""
    found = []
    for trial in trials:
        detector = alarmed()
        found.append(next((float(n) for n, rows in enumerate(shifted(trial), 1) if detector(rows)), np.inf))
    return tuple(found)


def asked() -> tuple[int, int]:
    """Which run, of how many windows: the arguments of a program that runs somebody else's detectors."""
    run, windows = map(int, sys.argv[1:])
    return run, windows


def say(*outcomes: Outcome) -> None:
    """For the program that started this one."""
    json.dump([asdict(outcome) for outcome in outcomes], sys.stdout)


def heard(said: str) -> list[Outcome]:
    """What `say` wrote in the last line."""
    found = json.loads(said.splitlines()[-1])
    return [Outcome(**one | {"called": tuple(one["called"]), "firsts": tuple(one["firsts"])}) for one in found]


def _law(feature: int) -> Law:
    return LAWS[feature % len(LAWS)]
