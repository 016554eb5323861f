"""Categories beyond the most common ones, by name and packed."""

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitors import profile
from monitors.binning import MAX_NAMED
from monitors.explain.points import points
from monitors.marginal import Marginal
from monitors.reference import build, marginal
from serving.protocol import Array


def named(law: Marginal, others: list[Any]) -> Marginal:
    """The same law as a profile of an earlier release has it."""
    return msgspec.structs.replace(law, others=tuple(others), packed=b"")


ROWS = np.arange(4_000) % 400  # each ten times
TEXTS = np.array([f"størrelse {n}" if n % 3 else f"c{n}" for n in ROWS], object)
OF_TEXTS, OF_CODES = marginal(TEXTS, "categorical"), marginal(ROWS.astype(np.float32), "categorical")


def test_many_other_categories_are_packed_and_few_are_not() -> None:
    assert len(OF_TEXTS.packed) == 4 * 390 and not OF_TEXTS.others
    few = marginal(TEXTS[ROWS < MAX_NAMED], "categorical")
    assert few.others and not few.packed


def test_a_packed_profile_reads_back_and_stays_small() -> None:
    found = build({"x": TEXTS}, {"x": "categorical"})
    again = profile.decode(found.encode())
    assert again.features["x"] == found.features["x"]
    assert again.features["x"].count(TEXTS).tolist() == found.features["x"].count(TEXTS).tolist()


texts = st.one_of(st.sampled_from([*TEXTS[:50], "", None]), st.text(max_size=8), st.binary(max_size=8))


@settings(deadline=None)
@given(values=st.lists(texts, max_size=20), as_bytes=st.booleans())
def test_packed_texts_fall_into_the_cells_of_named_ones(values: list[Any], as_bytes: bool) -> None:
    column = np.empty(len(values), object)
    column[:] = [v.encode(errors="replace") if as_bytes and isinstance(v, str) else v for v in values]
    others = sorted(set(TEXTS) - set(OF_TEXTS.categories))
    assert OF_TEXTS.cells(column).tolist() == named(OF_TEXTS, others).cells(column).tolist()


@settings(deadline=None)
@given(values=st.lists(st.one_of(st.integers(0, 500), st.floats(width=32)), max_size=20))
def test_packed_numbers_fall_into_the_cells_of_named_ones(values: list[float]) -> None:
    column: Array = np.array(values, np.float32)
    others = sorted(set(ROWS.tolist()) - set(OF_CODES.categories))
    assert OF_CODES.cells(column).tolist() == named(OF_CODES, others).cells(column).tolist()


@pytest.mark.parametrize("law", [OF_TEXTS, OF_CODES])
def test_points_of_a_packed_law_weigh_what_its_rows_do(law: Marginal) -> None:
    shares = points(law).shares(law)
    rows = np.array(law.counts) / law.rows
    assert shares[:10] == pytest.approx(rows[:10])
    assert shares[10] + shares[11] == pytest.approx(rows[10])
