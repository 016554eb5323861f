import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitors.block import Blocks, Closed
from monitors.slot import LabelCounts, decode_labels


def blocks(fewest_rows: int = 10) -> Blocks[LabelCounts]:
    return Blocks(LabelCounts(), slot_s=60.0, block_s=600.0, fewest_rows=fewest_rows)


def folded(slots: dict[int, int], looks: set[int] | None = None) -> list[tuple[int, float]]:
    """(rows, end) of the blocks that slots of so many rows make; `looks` are slots at which `advance` is called too."""
    blocks_, closed = blocks(), []
    for slot in sorted(slots.keys() | (looks or set())):
        closed.append(blocks_.advance(slot))
        if slot in slots:
            blocks_.fold(slot, LabelCounts(predictions=slots[slot]))
    closed.append(blocks_.advance(10**9))
    return [(block.counts.predictions, block.end_s) for block in closed if block]


def test_a_block_ends_at_its_mark() -> None:
    assert folded({0: 5, 9: 5, 10: 20, 25: 30}) == [(10, 600.0), (20, 1200.0), (30, 1800.0)]


def test_a_block_with_too_few_rows_is_joined_to_the_next() -> None:
    assert folded({3: 4, 55: 5, 71: 1, 80: 10}) == [(10, 4800.0), (10, 5400.0)]


def test_a_block_that_has_enough_rows_still_waits_for_its_mark() -> None:
    assert folded({0: 10, 4: 5, 9: 5, 10: 1}) == [(20, 600.0)]


def test_what_has_too_few_rows_waits() -> None:
    assert folded({3: 9}) == []


@settings(deadline=None)
@given(
    slots=st.dictionaries(st.integers(0, 100), st.integers(0, 20)),
    looks=st.sets(st.integers(0, 200)),
)
def test_looking_more_often_makes_the_same_blocks(slots: dict[int, int], looks: set[int]) -> None:
    assert folded(slots) == folded(slots, looks)


def test_a_slot_out_of_order_is_refused() -> None:
    folding = blocks()
    folding.fold(5, LabelCounts())
    for late in (5, 4):
        with pytest.raises(ValueError, match="comes after slot 5"):
            folding.fold(late, LabelCounts())


def test_an_open_block_goes_on_after_a_restart() -> None:
    one, two = blocks(), blocks()
    one.fold(7, LabelCounts(predictions=12, labelled=3, loss=2**40))
    two.load(one.save(), decode_labels(one.save().counts))
    assert two.advance(10) == Closed(LabelCounts(predictions=12, labelled=3, loss=2**40), 600.0)
    with pytest.raises(ValueError, match="once"):
        two.fold(7, LabelCounts())


def test_slots_before_1970_have_blocks_too() -> None:
    folding = blocks()
    folding.fold(-11, LabelCounts(predictions=10))
    assert folding.advance(-10) == Closed(LabelCounts(predictions=10), -600.0)
