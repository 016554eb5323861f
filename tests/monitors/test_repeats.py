import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitors.bottom_k import hashes
from monitors.reference import build
from monitors.repeats import contents, repeated, sketch
from monitors.slot import Counts, decode
from serving.protocol import Array


def own(rows: int, first: int = 0) -> Array:
    return hashes(np.arange(first, first + rows) + 1.7e9, np.zeros(rows, np.int64))


@settings(deadline=None)
@given(values=st.lists(st.integers(0, 30), min_size=1, max_size=100), cut=st.integers(0, 100))
def test_repeated_rows_are_counted_however_rows_were_split(values: list[int], cut: int) -> None:
    """Exactly while there are no more than the sketch holds."""
    found, rows = contents([np.array(values, np.float32)]), own(len(values))
    whole, parts = Counts(contents=sketch(found, rows)), Counts()
    for part in (slice(cut, None), slice(0, cut), slice(0, cut // 2)):  # the last of them came twice
        parts.add(decode(Counts(contents=sketch(found[part], rows[part])).encode()))
    assert parts == whole and whole.contents is not None
    assert repeated(whole.contents) == (len(values) - len(set(values)), len(values))


def test_a_sketch_of_many_rows_shows_their_share() -> None:
    rng = np.random.default_rng(1)
    values = np.where(rng.random(50_000) < 0.4, np.arange(50_000) // 2, np.arange(50_000) + 50_000)
    found = sketch(contents([values]), own(50_000))
    assert found is not None
    hits, rows = repeated(found)
    assert rows == 128
    assert hits / rows == pytest.approx(1 - len(np.unique(values)) / 50_000, abs=0.12)


def test_rows_are_equal_when_all_their_columns_are() -> None:
    x = np.array([[1, 2], [1, 2], [2, 1], [1, 2]], np.float32)
    name = np.array([b"a", b"a", b"a", b"b"], object)
    one, two, three, four = contents([x, name]).tolist()
    assert one == two and len({one, three, four}) == 3
    assert contents([np.array(["a", "a"], object)]).tolist() == contents([np.array([b"a", b"a"], object)]).tolist()


def test_what_the_reference_says_of_repeated_rows() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=8_000)
    x[1::10] = x[::10]  # a tenth is there twice
    found = build({"x": x}, {}, time=np.arange(8_000) * 864.0).repeats  # 80 days
    assert found is not None and found.block_rows == 100
    assert found.mean == pytest.approx(0.1, abs=0.01) and found.mean < found.bound < 0.12
    untimed = build({"x": x}, {}).repeats
    assert untimed is not None and untimed.bound > found.bound
    assert build({}, {}, prediction=x).repeats is None


def test_whole_numbers_as_float64_are_told_apart() -> None:
    """Their last bits are zeros, and what is left of them would run together in a sum of many columns."""
    x = np.random.default_rng(3).integers(0, 8, size=(100_000, 12)).astype(np.float64)
    assert len(np.unique(contents([x]))) == len(np.unique(x, axis=0))
