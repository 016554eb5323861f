import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from monitors.drift.ks import ks

cells = st.lists(st.integers(0, 50), min_size=4, max_size=4).map(np.array)


@settings(deadline=None)
@given(a=cells, b=cells)
def test_it_is_the_distance_of_the_binned_rows(a: np.ndarray, b: np.ndarray) -> None:
    if a.sum() and b.sum():
        rows = np.repeat(np.arange(4), a), np.repeat(np.arange(4), b)
        assert ks(a, b) == pytest.approx(stats.ks_2samp(*rows, method="asymp").statistic)


def test_one_side_without_rows() -> None:
    assert ks(np.zeros(3, np.int64), np.array([1, 2, 3])) == 0.0
