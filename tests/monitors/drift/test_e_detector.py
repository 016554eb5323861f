"""The promise of the detector, that it can be broken, and how soon it sees a change.

Over T blocks a detector of threshold A that restarts after each alarm alarms T/A times on average at most: exp(S) is
below the Shiryaev-Roberts sum, which a safe bet raises by at most 1 a block and an alarm lowers by at least A.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.promise import delays
from loadtests.promise.mutants import MUTANTS
from loadtests.promise.nulls import NULLS, Stream, alarms, limit
from monitors.drift.e_detector import CLIPS, Bettor, BlockBettor, Floats, accumulated, log_mean_exp

A = 20.0
STREAMS = 90  # a law; thirteen laws
BLOCKS = 80


@pytest.fixture(scope="module")
def streams() -> dict[str, list[Stream]]:
    rng = np.random.default_rng(20131)
    return {name: [null.stream(rng, BLOCKS) for _ in range(STREAMS)] for name, null in NULLS.items()}


def most(streams: int) -> int:
    """The upper limit of the promise: the count of alarms exceeds it with probability 0.001."""
    return limit(streams * BLOCKS, A)


def test_there_are_a_thousand_null_streams() -> None:
    assert len(NULLS) * STREAMS >= 1_000


@pytest.mark.parametrize("name", NULLS)
def test_false_alarms_stay_below_the_promise(name: str, streams: dict[str, list[Stream]]) -> None:
    assert alarms(streams[name], A) <= most(STREAMS)


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_breaks_the_promise(name: str, streams: dict[str, list[Stream]]) -> None:
    mutant = MUTANTS[name]
    assert alarms(mutant.streams(streams[mutant.null]), A, mutant.bettor) > most(STREAMS)


def test_bets_on_blocks_keep_the_promise_whatever_rows_of_a_block_depend_on(streams: dict[str, list[Stream]]) -> None:
    """On clusters whose design effect nobody knows, where bets on rows do not."""
    unknown = MUTANTS["untempered"].streams(streams["clusters"])
    assert alarms(unknown, A, BlockBettor) <= most(STREAMS) < alarms(unknown, A)


numbers = st.lists(st.integers(0, 50), min_size=13, max_size=13)
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
@given(theta=weights, q=weights, tolerance=st.floats(0.0, 0.5), counts=numbers)
def test_a_block_wins_what_its_rows_win_on_average(
    theta: Floats, q: Floats, tolerance: float, counts: list[int]
) -> None:
    bettor, n = BlockBettor(theta, tolerance), np.array([1 + counts[0], *counts[1:]])
    bettor.q = q
    expected = (np.exp(bettor.log_e()) * n).sum(-1) / n.sum()
    assert np.exp(bettor.update(n)) == pytest.approx(expected)


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
    """`margin` in blocks."""
    assert abs(delays.of_drift(sigma, tolerance, most=2 * blocks) - blocks) <= margin


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
