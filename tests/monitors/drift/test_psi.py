import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from monitors.drift.psi import psi


def test_a_published_shift() -> None:
    """0.2 sigma over deciles is 0.038, 0.5 sigma 0.238 (nothing taken off for large samples)."""
    edges = stats.norm.ppf(np.linspace(0, 1, 11))
    reference = np.full(10, 10**7)
    for sigma, expected in ((0.2, 0.038), (0.5, 0.238)):
        shifted = np.rint(np.diff(stats.norm.cdf(edges - sigma)) * 10**8).astype(np.int64)
        assert psi(shifted, reference) == pytest.approx(expected, abs=0.001)


def test_it_is_zero_about_half_the_time_where_nothing_changed() -> None:
    rng = np.random.default_rng(3)
    p = np.full(10, 0.1)
    values = [psi(rng.multinomial(500, p), rng.multinomial(2_000, p)) for _ in range(500)]
    assert min(values) == 0.0 and 0.4 < np.mean(np.equal(values, 0.0)) < 0.65
    assert np.mean(values) < 9 * (1 / 500 + 1 / 2_000) / 4  # what is taken off is far larger


def test_clusters_on_either_side_take_off_more() -> None:
    rng = np.random.default_rng(4)
    p, many = np.full(10, 0.1), np.full(10, 10**6)
    few = [20 * rng.multinomial(100, p) for _ in range(500)]
    assert np.mean([psi(counts, many, 20.0) for counts in few]) < 0.03
    assert np.mean([psi(many, counts, 1.0, 20.0) for counts in few]) < 0.03
    assert np.mean([psi(counts, many) for counts in few]) > 0.08


@given(counts=st.lists(st.integers(0, 500), min_size=5, max_size=5), design_effect=st.floats(1, 1_000))
def test_it_is_never_negative(counts: list[int], design_effect: float) -> None:
    assert psi(np.array(counts), np.full(5, 100), design_effect, design_effect) >= 0.0


def test_cells_empty_on_both_sides_do_not_count() -> None:
    counts, reference = np.array([70, 30]), np.array([500, 500])
    assert psi(np.append(counts, [0, 0]), np.append(reference, [0, 0])) == psi(counts, reference)


def test_one_side_without_rows() -> None:
    assert psi(np.zeros(3, np.int64), np.array([1, 2, 3])) == 0.0


def test_an_unseen_cell_is_finite() -> None:
    assert 0 < psi(np.array([0, 1_000]), np.array([1_000, 0])) < 20
