import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitors.sampling import blocks, correlation_s, dispersion, fewest_rows, most_cells, reference_error


@settings(deadline=None)
@given(rows=st.integers(300, 10**7))
def test_most_cells_is_the_most(rows: int) -> None:
    most = most_cells(rows)
    assert reference_error(most, rows) <= 0.1 + 1e-12 or most == 0
    assert reference_error(most + 1, rows) > 0.1


def test_the_reference_is_as_far_from_the_truth_as_it_says() -> None:
    """Total variation over a fixed partition: beyond `reference_error` in at most alpha of the references."""
    rng, p = np.random.default_rng(2), np.full(13, 1 / 13)
    distance = 0.5 * np.abs(rng.multinomial(1_200, p, 2_000) / 1_200 - p).sum(1)
    assert (distance > reference_error(13, 1_200)).mean() <= 0.01
    assert distance.mean() > reference_error(13, 1_200) / 4


@settings(deadline=None)
@given(size=st.integers(1, 100))
def test_fewest_rows_are_the_fewest(size: int) -> None:
    assert reference_error(size, fewest_rows(size)) <= 0.1 < reference_error(size, fewest_rows(size) - 1)


def design_effect(cells: np.ndarray, size: int, block: np.ndarray) -> float:
    number, rows = np.unique(block, return_inverse=True)
    return dispersion(np.bincount(rows * size + cells, minlength=len(number) * size).reshape(-1, size))


def test_design_effect_needs_four_blocks() -> None:
    cells = np.arange(90, dtype=np.intp) // 30
    assert design_effect(cells, 3, np.arange(90) // 30) == 1.0
    assert design_effect(cells, 3, np.arange(90) // 20) > 1.0


@pytest.mark.parametrize("cluster", [1, 5, 40])
def test_design_effect_is_the_size_of_equal_clusters_in_blocks_of_any_size(cluster: int) -> None:
    rng = np.random.default_rng(1)
    cells = np.repeat(rng.integers(0, 8, 2_000), cluster).astype(np.intp)
    block = np.repeat(np.sort(rng.integers(0, 100, 2_000)), cluster)
    assert design_effect(cells, 8, block) == pytest.approx(cluster, rel=0.35)


def test_one_cell_alone_has_no_spread() -> None:
    assert design_effect(np.zeros(100, np.intp), 3, np.arange(100) // 10) == 1.0


def test_blocks_begin_at_marks_of_time() -> None:
    assert blocks(np.array([-0.5, 0.0, 86_399.9, 86_400.0]), 86_400.0).tolist() == [-1, 0, 0, 1]


def waves(r: float, blocks: int, seed: int, rows: int = 20_000) -> np.ndarray:
    """Counts of two cells, shape (blocks, 2), whose shares are autoregressive with coefficient r."""
    rng = np.random.default_rng(seed)
    z = np.empty(blocks)
    z[0] = rng.normal()
    for b in range(1, blocks):
        z[b] = r * z[b - 1] + np.sqrt(1 - r**2) * rng.normal()
    first = rng.binomial(rows, 0.5 + 0.05 * np.tanh(z))
    return np.stack([first, rows - first], 1)


@pytest.mark.parametrize("r", [0.5, 0.8, 0.95])
def test_correlation_time_of_autoregressive_shares(r: float) -> None:
    """Bartlett: the error of an autocorrelation is about sqrt((1 - r^2) / blocks)."""
    found = correlation_s(waves(r, 5_000, seed=1), np.arange(5_000), 3_600.0)
    off = 4 * np.sqrt((1 - r**2) / 5_000)
    assert found is not None
    assert -3_600 / np.log(r - off - 0.02) < found < -3_600 / np.log(min(0.999, r + off))  # tanh bends it a little


def test_blocks_that_are_independent_have_no_correlation_time() -> None:
    rng = np.random.default_rng(2)
    found = [correlation_s(rng.multinomial(300, np.full(13, 1 / 13), 60), np.arange(60), 60.0) for _ in range(400)]
    assert sum(bool(seconds) for seconds in found) <= 4  # binomial(400, 0.001): the 99.99 % quantile


def test_neighbours_are_as_far_apart_as_most_are() -> None:
    """Every second day is held out, a reference has a hole, blocks come without any order."""
    counts = waves(0.95, 400, seed=3)
    once = correlation_s(counts, np.arange(400), 60.0)
    assert once is not None and once > 300
    assert correlation_s(counts, np.arange(400) * 2, 60.0) == pytest.approx(2 * once)
    holed = correlation_s(counts, np.arange(400) + 100 * (np.arange(400) >= 200), 60.0)
    assert holed == pytest.approx(once, rel=0.05)
    assert correlation_s(counts[:20], np.cumsum(np.arange(20)), 60.0) is None
    assert correlation_s(counts[:3], np.arange(3), 60.0) is None


def test_a_correlation_is_no_longer_than_what_was_seen() -> None:
    step = np.stack([np.arange(60) // 30 * 100, 100 - np.arange(60) // 30 * 100], 1)
    found = correlation_s(step, np.arange(60), 60.0)
    assert found is not None and 0.4 * 59 * 60 < found <= 59 * 60
    assert correlation_s(np.full((60, 2), 50), np.arange(60), 60.0) == 0
