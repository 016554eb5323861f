"""The promise of the detector, that it can be broken, and how soon it sees a change.

Over T blocks a detector of threshold A that restarts after each alarm alarms T/A times on average at most: exp(S) is
below the Shiryaev-Roberts sum, which a safe bet raises by at most 1 a block and an alarm lowers by at least A.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from monitors.drift.e_detector import CLIPS, Bettor, Floats, accumulated, log_mean_exp
from monitors.reference import Kind, Marginal, marginal
from serving.protocol import Array

A = 20.0
STREAMS = 90  # a law; thirteen laws
BLOCKS = 80
TOLERANCE = 0.02

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

    def stream(self, rng: np.random.Generator) -> Stream:
        values = np.repeat(self.reference(rng, self.reference_rows // self.cluster_rows), self.cluster_rows)
        block = np.arange(len(values)) // self.block_rows if self.cluster_rows > 1 else None
        law = marginal(values, self.kind, block=block)
        live = np.repeat(self.live(rng, BLOCKS * self.block_rows // self.cluster_rows), self.cluster_rows)
        place = np.repeat(np.arange(BLOCKS), self.block_rows) * law.size + law.cells(live)
        return Stream(law, np.bincount(place, minlength=BLOCKS * law.size).reshape(BLOCKS, -1), self.tolerance)


def _ties(rng: np.random.Generator, n: int) -> Array:
    return np.round(rng.normal(size=n) * 2) / 2


def _missing(rng: np.random.Generator, n: int) -> Array:
    return np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n))


def _categories(rng: np.random.Generator, n: int) -> Array:
    return np.array([f"c{number}" for number in rng.zipf(1.6, n)], object)


def _normal(rng: np.random.Generator, n: int) -> Array:
    return rng.normal(size=n).astype(np.float32)


def _moved(share: float) -> Sample:
    """Normal, but for a share of the rows, taken from all, that became large: as far as the tolerance allows."""
    return lambda rng, n: np.where(rng.random(n) < share / 0.9, 2.0, rng.normal(size=n)).astype(np.float32)


NULLS = {
    "normal": Null(_normal, _normal),
    "log-normal": Null(lambda rng, n: rng.lognormal(size=n), lambda rng, n: rng.lognormal(size=n)),
    "Cauchy": Null(lambda rng, n: rng.standard_cauchy(n), lambda rng, n: rng.standard_cauchy(n)),
    "Poisson": Null(lambda rng, n: rng.poisson(3, n), lambda rng, n: rng.poisson(3, n)),
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


@pytest.fixture(scope="module")
def streams() -> dict[str, list[Stream]]:
    rng = np.random.default_rng(20131)
    return {name: [null.stream(rng) for _ in range(STREAMS)] for name, null in NULLS.items()}


def alarms(streams: Iterable[Stream], bettor: type[Bettor] = Bettor) -> int:
    """Alarms of all streams, run side by side where they have as many cells."""
    sizes = defaultdict(list)
    for stream in streams:
        sizes[stream.law.size].append(stream)
    return sum(_alarms(same, bettor) for same in sizes.values())


def _alarms(streams: list[Stream], bettor: type[Bettor]) -> int:
    bets = bettor(
        np.stack([stream.law.theta for stream in streams]),
        np.array([stream.tolerance + stream.law.error for stream in streams]),
    )
    design_effects = np.array([stream.law.design_effect for stream in streams])
    s, found = np.zeros((len(streams), len(CLIPS))), 0
    for counts in np.stack([stream.counts for stream in streams], axis=1):
        s = accumulated(s, bets.update(counts, design_effects))
        alarm = log_mean_exp(s) >= np.log(A)
        s[alarm] = 0.0
        found += int(alarm.sum())
    return found


def most(streams: int) -> int:
    """The upper limit of the promise: the count of alarms exceeds it with probability 0.001."""
    return int(stats.poisson.ppf(0.999, streams * BLOCKS / A))


class Peeking(Bettor):
    """A mutant: learns from a block before it bets on it."""

    def update(self, counts: NDArray[np.int64], design_effect: Floats | float = 1.0) -> Floats:
        super().update(counts, design_effect)
        learnt = self.q
        won = super().update(counts, design_effect)
        self.q = learnt
        return won


class Intolerant(Bettor):
    """A mutant: its bets are not divided."""

    def log_e(self) -> Floats:
        self.tolerance = np.zeros_like(self.tolerance)
        return super().log_e()


def test_there_are_a_thousand_null_streams() -> None:
    assert len(NULLS) * STREAMS >= 1_000


@pytest.mark.parametrize("name", NULLS)
def test_false_alarms_stay_below_the_promise(name: str, streams: dict[str, list[Stream]]) -> None:
    assert alarms(streams[name]) <= most(STREAMS)


def test_bets_that_are_not_divided_break_the_promise_on_the_boundary(streams: dict[str, list[Stream]]) -> None:
    assert alarms(streams["boundary"], Intolerant) > most(STREAMS)


def test_bets_that_know_the_block_break_the_promise(streams: dict[str, list[Stream]]) -> None:
    assert alarms(streams["small blocks"], Peeking) > most(STREAMS)


def test_untempered_bets_break_the_promise_on_clusters(streams: dict[str, list[Stream]]) -> None:
    untempered = [replace(s, law=_with(s.law, design_effect=1.0)) for s in streams["clusters"]]
    assert alarms(untempered) > most(STREAMS)


def test_a_reference_taken_for_the_truth_breaks_the_promise(streams: dict[str, list[Stream]]) -> None:
    trusted = [replace(s, tolerance=s.tolerance - s.law.error) for s in streams["reference of 1,000"]]
    assert alarms(trusted) > most(STREAMS)


def _with(law: Marginal, design_effect: float) -> Marginal:
    return msgspec.structs.replace(law, design_effect=design_effect)


weights = st.lists(st.floats(0.001, 1.0), min_size=13, max_size=13).map(lambda w: np.array(w) / sum(w))


@settings(deadline=None)
@given(theta=weights, q=weights, tolerance=st.floats(0.0, 0.5))
def test_no_law_within_the_tolerance_wins_on_average(theta: Floats, q: Floats, tolerance: float) -> None:
    """The law that wins most takes mass from the cells that pay least and lays it on the one that pays most."""
    bettor = Bettor(theta, tolerance)
    bettor.q = q
    for e in np.exp(bettor.log_e()):
        law, left = theta.copy(), tolerance
        for cell in np.argsort(e)[:-1]:
            taken = min(left, law[cell])
            law[cell], left = law[cell] - taken, left - taken
        law[np.argmax(e)] += tolerance - left
        assert (law * e).sum() <= 1 + 1e-9


@settings(deadline=None)
@given(s=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8))
def test_the_mean_of_evidence_does_not_overflow(s: list[float]) -> None:
    mean = log_mean_exp(np.array(s))
    assert max(s) - np.log(len(s)) - 1e-6 <= mean <= max(s) + 1e-6


def test_a_feature_that_left_its_range_for_good_stays_finite() -> None:
    bettor, s = Bettor(np.full(13, 1 / 13), 0.02), np.zeros(len(CLIPS))
    for _ in range(1_000):
        s = accumulated(s, bettor.update(np.eye(13, dtype=np.int64)[12] * 10**9))
    assert np.isfinite(s).all() and log_mean_exp(s) > 1e11


@pytest.mark.parametrize(
    ("sigma", "tolerance", "blocks", "margin"),
    [(0.2, 0.02, 10, 2), (0.3, 0.02, 5, 1), (0.5, 0.02, 3, 0), (1.0, 0.02, 2, 0), (0.3, 0.05, 9, 1)],
)
def test_median_delay(sigma: float, tolerance: float, blocks: int, margin: int) -> None:
    """Blocks of 200 independent rows, 13 cells, A = 1000; `margin` in blocks."""
    rng = np.random.default_rng(7)
    law = marginal(rng.normal(size=200_000), "numeric")
    bettor, s = Bettor(law.theta, tolerance), np.zeros((200, len(CLIPS)))
    first = np.full(200, np.inf)
    for number in range(1, 4 * blocks):
        rows = rng.normal(sigma, 1.0, (200, 200))
        s = accumulated(s, bettor.update(np.stack([law.count(row) for row in rows])))
        first = np.minimum(first, np.where(log_mean_exp(s) >= np.log(1_000), number, np.inf))
    assert law.size == 13
    assert abs(np.median(first) - blocks) <= margin


@pytest.mark.parametrize(
    ("tolerance", "moved", "blocks"),
    [(0.55, 0.85, 14), (0.55, 1.0, 8), (0.65, 0.9, 17), (0.75, 0.95, 20), (0.75, 1.0, 13), (0.85, 0.85, None)],
)
def test_how_blunt_a_reference_may_be(tolerance: float, moved: float, blocks: int | None) -> None:
    """Blocks to log 180 when a share of the rows moved above all of the reference; a block is worth 2.5 rows."""
    theta = np.array([4e-5, *[0.1] * 10, 4e-5, 4e-5])
    bettor, s = Bettor(theta / theta.sum(), tolerance), np.zeros(len(CLIPS))
    live = 10**6 * ((1 - moved) * bettor.theta + moved * np.eye(13)[11])
    first = None
    for number in range(1, 401):
        s = accumulated(s, bettor.update(live.astype(np.int64), 10**6 / 2.5))
        first = first or (number if log_mean_exp(s) >= np.log(180) else None)
    assert first == blocks
