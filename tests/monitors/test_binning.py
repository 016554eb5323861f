import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitors.binning import BINS, REPEATS, category_law, guess, number_law
from serving.protocol import Array

RNG = np.random.default_rng(1)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.array(["a", "b"] * 100, object), "categorical"),
        (np.array([b"1", b"2"] * 100, object), "categorical"),
        (np.arange(200) % 2 == 0, "categorical"),
        (np.arange(1_000) % 10, "categorical"),
        ((np.arange(1_000) % 10).astype(np.float32), "categorical"),
        (np.where(np.arange(1_000) % 7, np.arange(1_000) % 3, np.nan), "categorical"),
        (np.arange(1_100) % 11, "numeric"),  # more values than cells
        (np.arange(10 * REPEATS - 1) % 10, "numeric"),  # too few rows to tell codes from chance
        (np.arange(1_000) % 3 / 2, "numeric"),
        (np.full(1_000, np.nan), "numeric"),
        (np.full(1_000, np.inf), "numeric"),
        (np.array([], np.float32), "numeric"),
    ],
)
def test_kinds_are_guessed_from_values_whatever_their_type(values: Array, kind: str) -> None:
    assert guess(values) == kind


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 40), min_size=30, max_size=400), st.integers(2, BINS))
def test_a_bin_holds_its_share_or_one_value(numbers: list[int], bins: int) -> None:
    """A bin is larger than its share only by the rows that are equal to its edge, or when it holds one value alone."""
    values = np.array(numbers, np.float64)
    law = number_law(values, bins, 0.01)
    cell = np.searchsorted(law.edges, values, side="right")
    for number in np.unique(cell):
        inside = values[cell == number]
        common = np.unique(inside, return_counts=True)[1].max()
        assert len(np.unique(inside)) == 1 or len(inside) <= np.ceil(len(values) / bins) + common
    assert law.medians == tuple(float(np.sort(values[cell == n])[len(values[cell == n]) // 2]) for n in np.unique(cell))


def test_rare_categories_are_known_and_those_seen_once_are_pointed_at() -> None:
    values = np.array(["b"] * 5 + ["a"] * 5 + ["c"] * 3 + ["d", "", "e"], object)
    law, once = category_law(values, 2, 0.01)
    assert (law.categories, law.others) == (("a", "b"), ("c", "d", "e"))  # as common as each other: by their names
    assert [values[i] for i in once] == ["d", "e"]
    assert category_law(values, 5, 0.01)[1].tolist() == []  # they have cells of their own
