import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from monitors import slot
from monitors.reference import build
from monitors.slot import Counts, LabelCounts, count

RNG = np.random.default_rng(1)
PROFILE = build(
    {"x": RNG.normal(size=2_000).astype(np.float32), "c": np.array([b"a", b"b"] * 1_000, object)},
    {"x": "numeric", "c": "categorical"},
)
rows = st.lists(st.tuples(st.floats(width=32), st.sampled_from([b"a", b"b", b"new", b""])), max_size=50)


def counted(rows: list[tuple[float, bytes]]) -> Counts:
    carriers = np.empty(len(rows), object)
    carriers[:] = [text for _, text in rows]
    return count(PROFILE, {"x": np.array([x for x, _ in rows], np.float32), "c": carriers, "not declared": carriers})


@settings(deadline=None)
@given(rows=rows, cut=st.integers(0, 50))
def test_counts_of_the_parts_add_up_to_those_of_the_whole(rows: list[tuple[float, bytes]], cut: int) -> None:
    parts, whole = counted(rows[:cut]), counted(rows)
    parts.add(counted(rows[cut:]))
    assert parts == whole
    assert whole.rows == len(rows) == whole.cells["x"].sum() == whole.cells["c"].sum()
    assert slot.decode(whole.encode()) == whole


def test_adding_leaves_the_other_as_it_was() -> None:
    a, b = Counts(), counted([(0.0, b"a")])
    before = b.encode()
    a.add(b)
    a.add(b)
    assert b.encode() == before and a.rows == 2


def test_what_the_profile_does_not_know_is_left_out() -> None:
    assert set(counted([(0.0, b"a")]).cells) == {"x", "c"}


units = st.lists(st.integers(0, 2**32), max_size=50)


def labelled(units: list[int]) -> LabelCounts:
    return LabelCounts(len(units), len(units), sum(units))


@settings(deadline=None)
@given(units=units, cut=st.integers(0, 50))
def test_labels_add_exactly_in_any_order(units: list[int], cut: int) -> None:
    parts = labelled(units[cut:][::-1])
    parts.add(labelled(units[:cut]))
    assert parts == labelled(units) == slot.decode_labels(parts.encode())
    assert abs(parts.mean - sum(units) / 2**32 / max(1, len(units))) < 1e-9


def test_coverage() -> None:
    assert LabelCounts(4, 1).coverage == 0.25
    assert LabelCounts().coverage == LabelCounts().mean == 0.0


def test_the_largest_sum_is_stored_exactly() -> None:
    most = LabelCounts(2**31 - 1, 2**31 - 1, (2**31 - 1) * 2**32)
    assert slot.decode_labels(most.encode()) == most and most.mean == 1.0


def test_counts_say_which_reference_they_are_of_and_those_of_the_published_one_are_as_before() -> None:
    counts = Counts(2, {"x": np.array([2, 0])})
    assert len(msgspec.msgpack.decode(counts.encode())) == 2
    later = Counts(2, {"x": np.array([2, 0])}, reference=7)
    assert slot.decode(later.encode()) == later != counts
    merged = Counts()
    merged.add(later)
    assert merged == later
