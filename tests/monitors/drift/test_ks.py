import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from monitors.drift.ks import ks
from monitors.drift.table import Table

cells = st.lists(st.integers(0, 50), min_size=4, max_size=4).map(np.array)


@settings(deadline=None)
@given(a=cells, b=cells)
def test_it_is_the_distance_of_the_binned_rows(a: np.ndarray, b: np.ndarray) -> None:
    if a.sum() and b.sum():
        rows = np.repeat(np.arange(4), a), np.repeat(np.arange(4), b)
        assert ks(Table(a, b)).value == pytest.approx(stats.ks_2samp(*rows, method="asymp").statistic)


def test_a_swap_of_neighbouring_cells_is_seen_less_than_a_shift() -> None:
    reference = np.array([100, 100, 100, 100])
    swapped, shifted = np.array([150, 50, 150, 50]), np.array([50, 50, 150, 150])
    assert ks(Table(swapped, reference)).value == 0.125 < ks(Table(shifted, reference)).value == 0.25
