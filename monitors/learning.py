"""A reference from the first blocks of live traffic, for a version that was published without one.

Of each slot come its rows of the smallest hashes. A row is in the sample if its hash is at most the bound of every
slot, and among the `ROWS` smallest, or fewer where rows are large: so each row of the time is in it as likely as any
other, and which ones they are depends on the rows alone, not on nodes, deliveries or restarts. The sample becomes a
profile by the code that `publish` uses, and its size is what the error of the reference is charged by.
"""

from collections.abc import Sequence

import msgspec
import numpy as np

from monitors.block import Blocks, SavedBlock
from monitors.bottom_k import LARGEST
from monitors.explain.wording import when
from monitors.profile import PREDICTION, Profile
from monitors.reference import build
from monitors.schema import fed
from monitors.slot import Counts, decode
from monitors.whole_rows import Value, WholeRows, first, full, hashed, value
from serving.config import Monitors
from serving.manifest import REFERENCE_FILE, Manifest
from serving.protocol import Array

ROWS, BYTES = 8192, 2**23  # of the sample: rows, and bytes, but for the last row


class SavedLearning(msgspec.Struct, array_like=True):
    """What was learned so far, as it is stored; times in seconds since 1970 UTC."""

    block: SavedBlock
    blocks: int = 0
    bound: int = LARGEST
    rows: list[bytes] = []
    since: float | None = None  # the beginning of the first slot with rows
    until: float = 0.0  # the end of the newest block


class Learning:
    """Slots in, in their order, until `settings.learn_blocks` blocks are sealed.

    >>> learning = Learning(Monitors(slot_s=60, block_s=120, block_rows=1, learn_blocks=2))
    >>> for slot in range(6):
    ...     rows = WholeRows.of(slot, np.array([slot], np.uint64), [[0.5]])
    ...     learning.fold(slot, Counts(1, learned=rows))
    >>> learning.blocks, learning.done, learning.rows
    (2, True, 4)
    """

    def __init__(self, settings: Monitors) -> None:
        self._settings = settings
        self._blocks = Blocks(Counts(), settings.slot_s, settings.block_s, settings.block_rows)
        self._state = SavedLearning(self._blocks.save())

    @property
    def blocks(self) -> int:
        """Sealed so far."""
        return self._state.blocks

    @property
    def rows(self) -> int:
        """Of the sample."""
        return len(self._state.rows)

    @property
    def done(self) -> bool:
        return self.blocks >= self._settings.learn_blocks

    @property
    def progress(self) -> str:
        return f"learning: {min(self.blocks, self._settings.learn_blocks)} of {self._settings.learn_blocks} blocks"

    @property
    def said(self) -> str:
        """Which rows these are."""
        state = self._state
        return (
            f"{self.rows} rows of live traffic, drawn at random from {self.blocks} blocks, {when(state.since or 0.0)}"
            f" to {when(state.until)}; what was wrong from the start is not seen"
        )

    def fold(self, slot: int, counts: Counts) -> None:
        """Take the counts of a sealed slot. Slots come in increasing order, each at most once."""
        self.advance(slot)
        if not self.done and counts.learned is not None:
            if self._state.since is None:
                self._state.since = slot * self._settings.slot_s
            self._blocks.fold(slot, Counts(counts.rows))
            self._draw(counts.learned)

    def advance(self, slot: int) -> None:
        """All slots before `slot` are sealed."""
        if not self.done and (closed := self._blocks.advance(slot)):
            self._state.blocks, self._state.until = self.blocks + 1, closed.end_s

    def profile(self, of: Manifest) -> Profile:
        """The sample as the reference of a version."""
        wholes = sorted(map(value, self._state.rows), key=lambda whole: whole[0])
        time = (np.array([slot for slot, _ in wholes]) + 0.5) * self._settings.slot_s
        values = zip(*(values for _, values in wholes), strict=True)
        columns = {name: _column(column, dtype) for (name, dtype), column in zip(fed(of), values, strict=True)}
        prediction = columns.pop(PREDICTION, None)
        kinds = {feature.name: feature.kind for feature in of.features}
        made = build(columns, kinds, prediction=prediction, task=of.task, time=time, block_s=self._settings.block_s)
        return msgspec.structs.replace(made, repeats=None)  # rows that are drawn one by one repeat more seldom

    def save(self) -> SavedLearning:
        return msgspec.structs.replace(self._state, block=self._blocks.save())

    def load(self, saved: SavedLearning) -> None:
        self._state = saved
        self._blocks.load(saved.block, decode(saved.block.counts))

    def _draw(self, found: WholeRows) -> None:
        state = self._state
        state.bound = min(state.bound, found.bound)
        rows = sorted({*state.rows, *found.rows})
        state.rows = first([row for row in rows if hashed(row) <= state.bound], ROWS, BYTES)
        if full(state.rows, ROWS, BYTES):
            state.bound = hashed(state.rows[-1])


def learns(of: Manifest, settings: Monitors) -> bool:
    """Whether a version gets its reference from live traffic. With clusters as units a sample of rows is none."""
    lacks = REFERENCE_FILE not in of.files and bool(of.features)
    return lacks and settings.learn_blocks > 0 and not settings.unit.startswith("cluster:")


def _column(values: Sequence[Value], dtype: str) -> Array:
    if dtype == "text":
        texts = np.empty(len(values), object)
        texts[:] = [b"" if one is None else one for one in values]
        return texts
    return np.array([np.nan if one is None else one for one in values], dtype)
