"""Folding sealed slots into blocks, which end at fixed marks of time."""

import math
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

import msgspec


class Additive(Protocol):
    """Counts of a slot."""

    @property
    def size(self) -> int:
        """Rows that count towards a block's smallest size."""

    def add(self, other: Self) -> None: ...

    def encode(self) -> bytes: ...


C = TypeVar("C", bound=Additive)


@dataclass(frozen=True, slots=True)
class Closed(Generic[C]):
    """A block to be judged."""

    counts: C
    end_s: float  # seconds since 1970 UTC


class SavedBlock(msgspec.Struct, array_like=True):
    """An open block as it is stored."""

    counts: bytes
    block: int
    next_slot: int | None


class Blocks(Generic[C]):
    """The open block. A slot belongs to the block of its beginning, floor(slot * slot_s / block_s).

    A block is closed by the first slot behind its mark, if it has at least `fewest_rows`; else the next block is
    joined to it. `advance` may be called as often as one likes: it changes when a block is closed, never which.

    >>> from monitors.slot import LabelCounts
    >>> blocks = Blocks(LabelCounts(), slot_s=60, block_s=120, fewest_rows=3)
    >>> for slot in range(6):
    ...     if closed := blocks.advance(slot):
    ...         print(closed.counts.predictions, closed.end_s)
    ...     blocks.fold(slot, LabelCounts(predictions=1))
    4 240.0
    """

    def __init__(self, empty: C, slot_s: float, block_s: float, fewest_rows: int) -> None:
        self._slot_s, self._block_s, self._fewest_rows = slot_s, block_s, fewest_rows
        self._new = type(empty)
        self._open: C = empty
        self._block = 0
        self._next_slot: int | None = None

    def advance(self, slot: int) -> Closed[C] | None:
        """All slots before `slot` are sealed: the block that they end, if they end one."""
        if self._open.size < self._fewest_rows or self._block_of(slot) <= self._block:
            return None
        closed = Closed(self._open, float((self._block + 1) * self._block_s))
        self._open = self._new()
        return closed

    def fold(self, slot: int, counts: C) -> None:
        """Add a sealed slot to the open block; after `advance(slot)`. ValueError for a slot out of order."""
        if self._next_slot is not None and slot < self._next_slot:
            raise ValueError(f"slot {slot} comes after slot {self._next_slot - 1}: slots are folded in order, once")
        self._next_slot, self._block = slot + 1, self._block_of(slot)
        self._open.add(counts)

    def save(self) -> SavedBlock:
        return SavedBlock(self._open.encode(), self._block, self._next_slot)

    def load(self, saved: SavedBlock, counts: C) -> None:
        """Go on from what `save` gave; `counts` are its counts, decoded."""
        self._open, self._block, self._next_slot = counts, saved.block, saved.next_slot

    def _block_of(self, slot: int) -> int:
        return math.floor(slot * self._slot_s / self._block_s)


def last_slot(slot: int, slot_s: float, block_s: float) -> int:
    """Of the block that a slot belongs to; the slot itself where lengths that are no whole numbers hide it.

    >>> last_slot(61, 60.0, 3600.0)
    119
    """
    block = math.floor(slot * slot_s / block_s)
    last = math.ceil((block + 1) * block_s / slot_s) - 1
    return last if last > slot and math.floor(last * slot_s / block_s) == block else slot
