"""Streams in which nothing changes: every kind of data that the promise covers, up to its boundary."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from monitors.drift.e_detector import Bettor, Floats, accumulated, log_mean_exp
from monitors.reference import Kind, Marginal, marginal
from serving.protocol import Array

TOLERANCE = 0.02
LIMIT = 0.999  # probability with which a count of alarms stays below its limit

Sample = Callable[[np.random.Generator, int], Array]


@dataclass(frozen=True)
class Stream:
    """One reference and the blocks that follow it, counted; counts have shape (blocks, K)."""

    law: Marginal
    counts: NDArray[np.int64]
    tolerance: float


@dataclass(frozen=True)
class Null:
    """Where rows come from: `live` is within the tolerance of `reference`. `clusters` are of equal rows."""

    reference: Sample
    live: Sample
    reference_rows: int = 20_000
    block_rows: int = 200
    cluster_rows: int = 1
    kind: Kind = "numeric"
    tolerance: float = TOLERANCE

    def stream(self, rng: np.random.Generator, blocks: int) -> Stream:
        values = np.repeat(self.reference(rng, self.reference_rows // self.cluster_rows), self.cluster_rows)
        block = np.arange(len(values)) // self.block_rows if self.cluster_rows > 1 else None
        law = marginal(values, self.kind, block=block)
        live = np.repeat(self.live(rng, blocks * self.block_rows // self.cluster_rows), self.cluster_rows)
        place = np.repeat(np.arange(blocks), self.block_rows) * law.size + law.cells(live)
        return Stream(law, np.bincount(place, minlength=blocks * law.size).reshape(blocks, -1), self.tolerance)


def _ties(rng: np.random.Generator, n: int) -> Array:
    return np.round(rng.normal(size=n) * 2) / 2


def _missing(rng: np.random.Generator, n: int) -> Array:
    return np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n))


def _categories(rng: np.random.Generator, n: int) -> Array:
    return np.array([f"c{number}" for number in rng.zipf(1.6, n)], object)


def _normal(rng: np.random.Generator, n: int) -> Array:
    return rng.normal(size=n).astype(np.float32)


def _log_normal(rng: np.random.Generator, n: int) -> Array:
    return rng.lognormal(size=n)


def _cauchy(rng: np.random.Generator, n: int) -> Array:
    return rng.standard_cauchy(n)


def _poisson(rng: np.random.Generator, n: int) -> Array:
    return rng.poisson(3, n)


def _moved(share: float) -> Sample:
    """Normal, but for a share of the rows, taken from all, that became large: as far as the tolerance allows."""
    return lambda rng, n: np.where(rng.random(n) < share / 0.9, 2.0, rng.normal(size=n)).astype(np.float32)


NULLS = {
    "normal": Null(_normal, _normal),
    "log-normal": Null(_log_normal, _log_normal),
    "Cauchy": Null(_cauchy, _cauchy),
    "Poisson": Null(_poisson, _poisson),
    "ties": Null(_ties, _ties),
    "missing": Null(_missing, _missing),
    "categories": Null(_categories, _categories, kind="categorical", reference_rows=5_000),
    "boundary": Null(_normal, _moved(0.1), tolerance=0.1, block_rows=1_000),
    "clusters": Null(_normal, _normal, cluster_rows=50),
    "small blocks": Null(_normal, _normal, reference_rows=100_000, block_rows=20),
    "reference of 1,000": Null(_normal, _normal, reference_rows=1_000, block_rows=2_000),
    "reference of 10,000": Null(_normal, _normal, reference_rows=10_000, block_rows=2_000),
    "reference of 100,000": Null(_normal, _normal, reference_rows=100_000),
}


def limit(blocks: int, run_blocks: float) -> int:
    """The promise allows blocks / A alarms on average; their count exceeds this with probability 0.001 at most."""
    return int(stats.poisson.ppf(LIMIT, blocks / run_blocks))


def alarms(streams: Iterable[Stream], run_blocks: float, bettor: type[Bettor] = Bettor) -> int:
    """Alarms at A = `run_blocks` of all streams, run side by side where they have as many cells."""
    sizes = defaultdict(list)
    for stream in streams:
        sizes[stream.law.size].append(stream)
    return sum(_alarms(same, run_blocks, bettor) for same in sizes.values())


def _alarms(streams: Sequence[Stream], run_blocks: float, bettor: type[Bettor]) -> int:
    bets = bettor(
        np.stack([stream.law.theta for stream in streams]),
        np.array([stream.tolerance + stream.law.error for stream in streams]),
    )
    design_effects = np.array([stream.law.design_effect for stream in streams])
    blocks = np.stack([stream.counts for stream in streams], axis=1)
    return alarms_of((bets.update(counts, design_effects) for counts in blocks), run_blocks)


def alarms_of(won: Iterable[Floats], run_blocks: float) -> int:
    """Of detectors side by side, which begin again after an alarm: `won` are log winnings by block, (streams, …)."""
    s: Floats = np.zeros(1)
    found = 0
    for winnings in won:
        s = accumulated(s, winnings)
        alarm = log_mean_exp(s.reshape(len(s), -1)) >= np.log(run_blocks)
        s[alarm] = 0.0
        found += int(alarm.sum())
    return found
