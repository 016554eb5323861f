"""What every effect size must do, and how often its interval covers the truth."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from scipy.spatial import distance

from monitors.drift import EFFECTS, Estimate, Table
from monitors.drift.effects import Seen, Side, effects
from monitors.drift.table import Floats
from monitors.drift.wasserstein import points
from monitors.reference import marginal
from tests.monitors.drift.oracles import cramers_v, psi

K = 8
ENDS = {"psi": np.inf, "wasserstein": np.inf}  # of the others: 1
POINTS = np.append(np.linspace(-2.0, 2.0, K - 1), np.nan)  # the last cell: missing

cells = st.lists(st.integers(0, 10**5) | st.integers(0, 10**15), min_size=K, max_size=K).map(np.array)
worth = st.floats(1.0, 1e4)


def table(counts: NDArray[np.int64], reference: NDArray[np.int64], d: float = 1.0, e: float = 1.0) -> Table:
    return Table(counts, reference, d, e, np.broadcast_to(POINTS, counts.shape))


def law(shift: float, missing: float = 0.05) -> NDArray[np.float64]:
    """Sextiles of a normal law, moved by so many standard deviations; at most 2 keep a row in five in each."""
    edges = np.array([-np.inf, *stats.norm.ppf(np.arange(1, K - 1) / (K - 1)), np.inf])
    return np.append(np.diff(stats.norm.cdf(edges - shift)) * (1 - missing), missing)


@pytest.fixture(params=EFFECTS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@settings(deadline=None, max_examples=50)
@given(counts=cells, reference=cells, d=worth, e=worth)
def test_estimates_lie_in_their_intervals_and_these_within_bounds(
    counts: NDArray[np.int64], reference: NDArray[np.int64], d: float, e: float
) -> None:
    for name, effect in EFFECTS.items():
        value, low, high = effect(table(counts, reference, d, e), 0.9)
        assert 0 <= low <= value <= high <= ENDS.get(name, 1.0), name


@pytest.mark.parametrize(
    ("counts", "reference"),
    [([0] * K, [0] * K), ([0] * K, [9] * K), ([9] * K, [0] * K), ([0] * (K - 1) + [5], [0] * (K - 1) + [9])],
)
def test_of_nothing_or_of_one_cell_it_is_zero(name: str, counts: list[int], reference: list[int]) -> None:
    estimate = EFFECTS[name](table(np.array(counts), np.array(reference)), 0.95)
    assert estimate.value == estimate.low == 0.0 and not np.isnan(estimate.high)


def test_without_rows_nothing_is_excluded(name: str) -> None:
    assert EFFECTS[name](table(np.zeros(K, np.int64), np.full(K, 9)), 0.95).high == ENDS.get(name, 1.0)


@pytest.mark.parametrize("times", [1, 7, 10**15])
def test_of_equal_counts_it_is_zero(name: str, times: int) -> None:
    counts = np.arange(1, K + 1)
    assert EFFECTS[name](table(counts * times, counts), 0.95).value == 0.0


def test_sides_that_share_no_cell_are_as_far_apart_as_can_be(name: str) -> None:
    left, right = np.array([10**9] + [0] * (K - 1)), np.array([0] * (K - 2) + [10**9, 0])
    assert EFFECTS[name](table(left, right), 0.95).value == pytest.approx(
        {"psi": 2 * np.log(2e9), "wasserstein": 4.0}.get(name, 1.0), rel=1e-3
    )


@settings(deadline=None, max_examples=50)
@given(counts=cells, reference=cells, d=worth, e=worth)
def test_it_is_symmetric(counts: NDArray[np.int64], reference: NDArray[np.int64], d: float, e: float) -> None:
    for name, effect in EFFECTS.items():
        one, two = effect(table(counts, reference, d, e), 0.9), effect(table(reference, counts, e, d), 0.9)
        np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-9, err_msg=name)


def test_it_does_not_grow_with_the_rows(name: str) -> None:
    """A statistic such as chi-squared's would grow with the rows of either side."""
    now, then = np.rint(law(0.5) * 10**6).astype(np.int64), np.rint(law(0.0) * 10**6).astype(np.int64)
    values = [float(EFFECTS[name](table(now * a, then * b), 0.95).value) for a, b in ((1, 1), (1000, 1), (1, 1000))]
    assert values == pytest.approx([values[0]] * 3, rel=1e-3)


def test_it_grows_with_the_shift(name: str) -> None:
    shifts = np.stack([np.rint(law(shift) * 10**6).astype(np.int64) for shift in np.arange(0, 3, 0.1)])
    value = EFFECTS[name](table(shifts, np.broadcast_to(shifts[0], shifts.shape)), 0.95).value
    assert value[0] == 0.0 and (np.diff(value) > 0).all()


def test_a_sample_without_drift_is_near_zero(name: str) -> None:
    """What the rows' chance adds is taken off, on clustered rows too; but for `ks`, of which nothing is."""
    rng = np.random.default_rng(5)
    now, then = (d * rng.multinomial(2000 // d, law(0.0), 500) for d in (20, 1))
    honest, naive = EFFECTS[name](table(now, then, 20.0), 0.95), EFFECTS[name](table(now, then), 0.95)
    assert honest.value.mean() < (0.75 if name != "ks" else 1.01) * naive.value.mean()
    assert (honest.low == 0).mean() > 0.97
    assert (naive.low == 0).mean() < 0.9


@dataclass(frozen=True)
class Sampling:
    """Rows of both sides come in clusters of equal rows; every cell expects at least five clusters."""

    rows: int
    reference_rows: int
    cluster: int = 1
    reference_cluster: int = 1

    def estimate(self, name: str, shift: float, rng: np.random.Generator, times: int = 2_000) -> Estimate:
        now = self.cluster * rng.multinomial(self.rows // self.cluster, law(shift), times)
        then = self.reference_cluster * rng.multinomial(self.reference_rows // self.reference_cluster, law(0.0), times)
        return EFFECTS[name](table(now, then, float(self.cluster), float(self.reference_cluster)), 0.95)


SAMPLINGS = [
    Sampling(500, 5_000),
    Sampling(2_000, 10_000),
    Sampling(100_000, 100_000),
    Sampling(20_000, 10_000, cluster=20),
    Sampling(10_000, 100_000, cluster=20, reference_cluster=50),
]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_an_interval_covers_the_truth_as_often_as_it_says(name: str, sampling: Sampling) -> None:
    """95 % of the time, but for one percent that large samples need not be as large as theory has them."""
    rng = np.random.default_rng(6)
    for shift in (0.0, 0.05, 0.1, 0.2, 0.5, 1.0):
        exact = np.rint(np.stack([law(shift), law(0.0)]) * 10**13).astype(np.int64)
        truth = EFFECTS[name](table(*exact), 0.95).value
        _, low, high = sampling.estimate(name, shift, rng)
        covered = int(((low <= truth) & (truth <= high)).sum())
        assert covered >= stats.binom.ppf(1e-4, len(low), 0.94), (shift, covered / len(low))


def test_intervals_that_ignore_clusters_cover_less(name: str) -> None:
    """That coverage is measured at all: twenty equal rows taken for twenty rows."""
    rng, exact = np.random.default_rng(7), np.rint(np.stack([law(0.3), law(0.0)]) * 10**13).astype(np.int64)
    truth = EFFECTS[name](table(*exact), 0.95).value
    now, then = 20 * rng.multinomial(1_000, law(0.3), 1_000), rng.multinomial(10_000, law(0.0), 1_000)
    _, low, high = EFFECTS[name](table(now, then), 0.95)
    assert ((low <= truth) & (truth <= high)).mean() < 0.8


def test_an_interval_narrows_with_rows_and_widens_with_confidence(name: str) -> None:
    widths = []
    for rows, confidence in ((10**3, 0.95), (10**5, 0.95), (10**5, 0.5)):
        counts = np.rint(np.stack([law(0.3), law(0.0)]) * rows).astype(np.int64)
        estimate = EFFECTS[name](table(*counts), confidence)
        widths.append(float(estimate.high - estimate.low))
    assert widths[0] > 5 * widths[1] > 5 * widths[2]


ORACLES: dict[str, Callable[[Floats, Floats], float]] = {
    "psi": psi,
    "ks": lambda p, q: np.abs(np.cumsum(p - q)).max(),
    "js": lambda p, q: distance.jensenshannon(p, q, 2) ** 2,
    "wasserstein": lambda p, q: stats.wasserstein_distance(POINTS[:-1], POINTS[:-1], p[:-1], q[:-1]),
    "hellinger": lambda p, q: distance.euclidean(np.sqrt(p), np.sqrt(q)) / np.sqrt(2),
    "tv": lambda p, q: distance.cityblock(p, q) / 2,
    "chi2": cramers_v,
}


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32 - 1))
def test_it_is_what_others_compute(seed: int) -> None:
    """Of so many rows that chance adds nothing."""
    counts = np.rint(10**12 * np.random.default_rng(seed).dirichlet(np.ones(K), 2)).astype(np.int64)
    p, q = counts / counts.sum(1, keepdims=True)
    for name, effect in EFFECTS.items():
        assert effect(table(*counts), 0.95).value == pytest.approx(ORACLES[name](p, q), rel=1e-3, abs=1e-6), name


def test_features_side_by_side_are_as_each_alone() -> None:
    rng = np.random.default_rng(8)
    laws = [
        marginal(rng.normal(size=20_000), "numeric"),
        marginal(rng.integers(0, 3, 9_000).astype(str).astype(object), "categorical"),
        marginal(np.ones(2_000), "numeric"),
    ]
    seen = [
        Seen(Side.of(law), rng.multinomial(10**3 * place, law.theta), 2.0 * (1 + place))
        for place, law in enumerate(laws)
    ]
    together = effects(seen)
    for alone, found in zip(seen, together, strict=True):
        assert effects([alone])[0].values == pytest.approx(found.values)
    assert [sizes.n for sizes in together] == [0, 1000, 2000]
    assert [sizes.values["wasserstein"] is None for sizes in together] == [False, True, True]
    assert together[0].intervals == {}
    assert together[1].intervals.keys() == EFFECTS.keys() - {"wasserstein"}
    assert effects([]) == []


@pytest.mark.parametrize("shift", [0.2, 0.5, 1.0])
def test_wasserstein_of_a_shift_is_the_shift_in_standard_deviations(shift: float) -> None:
    """As far as ten bins can tell."""
    rng = np.random.default_rng(9)
    law = marginal(1e6 + 3 * rng.normal(size=50_000), "numeric")
    moved = law.count(1e6 + 3 * rng.normal(shift, size=50_000))
    assert effects([Seen(Side.of(law), moved, 1.0)])[0].values["wasserstein"] == pytest.approx(shift, rel=0.1)


def test_points_that_cannot_be_in_standard_deviations_are_none() -> None:
    for values in (np.full(2_000, 3.0), np.full(2_000, np.nan), np.array([-1e308, 1e308] * 1_000)):
        assert np.isnan(points(marginal(values, "numeric"))).all()
    assert np.isnan(points(marginal(np.array(["a", "b"] * 1_000, object), "categorical"))).all()
