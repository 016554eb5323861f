import numpy as np
import pytest
from scipy import stats

from monitors.drift.psi import psi
from monitors.drift.table import Table


def test_a_published_shift() -> None:
    """0.2 sigma over deciles is 0.038, 0.5 sigma 0.238 (nothing taken off for large samples)."""
    edges = stats.norm.ppf(np.linspace(0, 1, 11))
    reference = np.full(10, 10**7)
    for sigma, expected in ((0.2, 0.038), (0.5, 0.238)):
        shifted = np.rint(np.diff(stats.norm.cdf(edges - sigma)) * 10**8).astype(np.int64)
        assert psi(Table(shifted, reference)).value == pytest.approx(expected, abs=0.001)


def test_it_is_zero_about_half_the_time_where_nothing_changed() -> None:
    rng = np.random.default_rng(3)
    p = np.full(10, 0.1)
    values = psi(Table(rng.multinomial(500, p, 500), rng.multinomial(2_000, p, 500))).value
    assert values.min() == 0.0 and 0.4 < np.mean(values == 0.0) < 0.65
    assert values.mean() < 9 * (1 / 500 + 1 / 2_000) / 4  # what is taken off is far larger


def test_clusters_on_either_side_take_off_more() -> None:
    rng = np.random.default_rng(4)
    many, few = np.full((500, 10), 10**6), 20 * rng.multinomial(100, np.full(10, 0.1), 500)
    assert psi(Table(few, many, 20.0)).value.mean() < 0.03
    assert psi(Table(many, few, 1.0, 20.0)).value.mean() < 0.03
    assert psi(Table(few, many)).value.mean() > 0.08


def test_an_unseen_cell_is_finite() -> None:
    assert 0 < psi(Table(np.array([0, 1_000]), np.array([1_000, 0]))).value < 20
