"""Interleaved rounds: who is driven when, and what is left of many runs. Pure.

Machines drift, and some runs disturb the next: every round drives every peer once, beginning with another one, and
only medians over the rounds are shown.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from loadtests.wrk import Run

T = TypeVar("T")
ABOVE = 5


@dataclass(frozen=True)
class Cell:
    """What is measured: a peer on a workload from so many connections."""

    workload: str
    connections: int
    peer: str


@dataclass(frozen=True)
class Measured:
    """One run, and the CPU seconds that the peer's processes took for it, by group."""

    run: Run
    cpu_s: Mapping[str, float]


@dataclass(frozen=True)
class Medians:
    """Of the rounds of a cell; `failed` is their sum. CPU is in seconds per 100,000 answered requests."""

    requests_per_s: float
    latency_s: Mapping[float, float]
    """Percentiles that a round's answers justify: at least `ABOVE` of them lie above."""
    failed: int
    cpu_s_per_100k: Mapping[str, float]

    @property
    def total_cpu_s_per_100k(self) -> float:
        return sum(self.cpu_s_per_100k.values())


def order(names: Sequence[T], turn: int) -> list[T]:
    """
    >>> order("abc", 1)
    ['b', 'c', 'a']
    """
    start = turn % len(names) if names else 0
    return [*names[start:], *names[:start]]


def plan(workloads: Mapping[str, Sequence[int]], peers: Mapping[str, Sequence[str]], turn: int) -> Iterator[Cell]:
    """One round: connections by workload, peers by workload."""
    for workload, connections in workloads.items():
        for count in connections:
            for peer in order(peers[workload], turn):
                yield Cell(workload, count, peer)


def medians(rounds: Sequence[Measured]) -> Medians:
    """Each number's own median; a group of processes that was not there in a round took nothing in it."""
    fewest = min(one.run.requests for one in rounds)
    percents = [p for p in rounds[0].run.latency_s if round(fewest * (100 - p) / 100, 6) >= ABOVE]
    latency_s = {p: statistics.median(one.run.latency_s[p] for one in rounds) for p in percents}
    groups = sorted({group for one in rounds for group in one.cpu_s})
    cpu = {group: statistics.median(_per_100k(one, group) for one in rounds) for group in groups}
    speed = statistics.median(one.run.requests_per_s for one in rounds)
    return Medians(speed, latency_s, sum(one.run.failed for one in rounds), cpu)


def _per_100k(one: Measured, group: str) -> float:
    return one.cpu_s.get(group, 0.0) / max(1, one.run.requests) * 1e5
