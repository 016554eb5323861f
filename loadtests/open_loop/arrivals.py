"""When requests arrive and who sends them, fixed in advance from a seed: however slow the answers, none comes later.

A closed loop asks again only when it was answered, so it asks less of a gateway that is in trouble and does not see
the requests that real users would have sent meanwhile (coordinated omission).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.float64]

BURST_S, QUIET_S = 0.25, 1.0  # mean lengths of the two states of `bursty`


@dataclass(frozen=True)
class Plan:
    """Arrivals in seconds from the start, ascending; the index of each one's priority class and client."""

    times_s: Times
    priorities: npt.NDArray[np.int64]
    clients: npt.NDArray[np.int64]
    names: tuple[str, ...]  # of the priority classes

    def __len__(self) -> int:
        return len(self.times_s)


def plan(
    shape: str, rate: float, seconds: float, mix: Mapping[str, float], clients: int, peak: float, seed: int
) -> Plan:
    """`rate` is the mean of every shape but `step`, whose middle third has `peak` times the rate of the others.

    >>> len(plan("constant", 100, 2, {"default": 1.0}, 1, 1.0, seed=1))
    200
    """
    rng = np.random.default_rng(seed)
    times = SHAPES[shape](rate, seconds, peak, rng)
    names, shares = tuple(mix), np.array(list(mix.values()))
    priorities = rng.choice(len(names), len(times), p=shares / shares.sum())
    return Plan(times, priorities, rng.integers(clients, size=len(times)), names)


def constant(rate: float, seconds: float, peak: float, rng: np.random.Generator) -> Times:
    """Evenly, as a clock ticks."""
    return np.arange(round(rate * seconds)) / rate


def poisson(rate: float, seconds: float, peak: float, rng: np.random.Generator) -> Times:
    """Many users who know nothing of each other: gaps are exponential."""
    return np.sort(rng.uniform(0.0, seconds, rng.poisson(rate * seconds)))


def bursty(rate: float, seconds: float, peak: float, rng: np.random.Generator) -> Times:
    """A Poisson process that switches at random between quiet and `peak` times the quiet rate, with mean `rate`."""
    quiet = rate * (BURST_S + QUIET_S) / (peak * BURST_S + QUIET_S)
    parts, start, burst = [np.empty(0)], 0.0, bool(rng.uniform() < BURST_S / (BURST_S + QUIET_S))
    while start < seconds:
        end = min(seconds, start + rng.exponential(BURST_S if burst else QUIET_S))
        parts.append(start + poisson(quiet * (peak if burst else 1.0), end - start, peak, rng))
        start, burst = end, not burst
    return np.concatenate(parts)


def step(rate: float, seconds: float, peak: float, rng: np.random.Generator) -> Times:
    """Poisson: a third at `rate`, a third at `peak` times it, a third at `rate`."""
    third = seconds / 3
    rates = (rate, rate * peak, rate)
    return np.concatenate([i * third + poisson(one, third, peak, rng) for i, one in enumerate(rates)])


SHAPES: dict[str, Callable[[float, float, float, np.random.Generator], Times]] = {
    "poisson": poisson,
    "bursty": bursty,
    "constant": constant,
    "step": step,
}
