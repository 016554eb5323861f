"""What a simulated run comes to, and how far it is from what happened."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from serving.protocol import Array
from serving.simulation.load import Trace
from serving.simulation.pool import Run

HOUR_S = 3600.0
WINDOW_S = 300.0  # in which reversals are counted
Change = tuple[float, int]  # when, and how many replicas from then on


@dataclass(frozen=True)
class Summary:
    requests: int
    wait_p50_s: float
    wait_p99_s: float
    wait_most_s: float
    most_waiting: int
    replicas_mean: float
    replicas_most: int
    replica_hours: float
    fixed_replica_hours: float  # with as many as there were at most, all the time
    changes: int
    reversals: int  # most of them within WINDOW_S


@dataclass(frozen=True)
class Match:
    """Simulated against recorded replicas that work."""

    equal_ratio: float  # of the time
    mean_difference: float
    most_difference: int
    recorded_replica_hours: float
    simulated_replica_hours: float


def summarise(run: Run) -> Summary:
    hours = float(np.maximum(run.wanted, run.ready).sum()) * run.step_s / HOUR_S  # those that start are paid, too
    many = changes(run.at_s, run.wanted)
    p50_s, p99_s = _percentiles(run.wait_s, run.arrived, (0.5, 0.99))
    return Summary(
        requests=int(run.arrived.sum()),
        wait_p50_s=p50_s,
        wait_p99_s=p99_s,
        wait_most_s=float(run.wait_s[run.arrived > 0].max(initial=0.0)),
        most_waiting=round(run.waiting.max()),
        replicas_mean=float(run.ready.mean()),
        replicas_most=int(run.wanted.max()),
        replica_hours=hours,
        fixed_replica_hours=float(run.wanted.max()) * len(run.at_s) * run.step_s / HOUR_S,
        changes=len(many) - 1,
        reversals=reversals(many),
    )


def match(trace: Trace, run: Run) -> Match:
    """Of a trace that says how many replicas there were."""
    recorded = np.array([trace.at(at).replicas for at in run.at_s], float)
    difference = np.abs(recorded - run.ready)
    hours = run.step_s / HOUR_S
    return Match(
        equal_ratio=float((difference == 0).mean()),
        mean_difference=float(difference.mean()),
        most_difference=int(difference.max()),
        recorded_replica_hours=float(recorded.sum()) * hours,
        simulated_replica_hours=float(run.ready.sum()) * hours,
    )


def changes(at_s: Array, replicas: Array) -> list[Change]:
    """The first number, and each that differs from the one before."""
    new = np.flatnonzero(np.diff(replicas, prepend=-1))
    return [(float(at_s[i]), int(replicas[i])) for i in new]


def reversals(many: Sequence[Change], window_s: float = WINDOW_S) -> int:
    """How often the direction turned among the changes of any `window_s`, at most.

    >>> reversals([(0, 1), (10, 4), (20, 2), (30, 4), (400, 1)])
    2
    """
    steps = [(at, now - before) for (_, before), (at, now) in pairwise(many)]
    windows = ([step for at, step in steps if start <= at < start + window_s] for start, _ in steps)
    return max((sum(a * b < 0 for a, b in pairwise(window)) for window in windows), default=0)


def _percentiles(values: Array, weights: Array, shares: Sequence[float]) -> list[float]:
    order = np.argsort(values)
    below = np.cumsum(weights[order])
    if not below[-1]:
        return [0.0] * len(shares)
    return [float(values[order][np.searchsorted(below, share * below[-1])]) for share in shares]
