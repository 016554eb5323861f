import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitors.sampling import blocks, design_effect, fewest_rows, most_cells, reference_error


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
