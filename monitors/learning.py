"""A reference from the first blocks of live traffic, for a version that was published without one.

Of each slot come its rows of the smallest hashes. A row is in the sample if its hash is at most the bound of every
slot, and among the `ROWS` smallest, or fewer where rows are large: so each row of the time is in it as likely as any
other, and which ones they are depends on the rows alone, not on nodes, deliveries or restarts. The sample becomes a
profile by the code that `publish` uses, and its size is what the error of the reference is charged by.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property

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
from serving.errors import PublishRefused
from serving.manifest import REFERENCE_FILE, Manifest
from serving.protocol import Array

ROWS, BYTES = 8192, 2**24  # of the sample: rows, and bytes, but for the last row


class SavedLearning(msgspec.Struct, array_like=True):
    """What was learned so far, as it is stored; times in seconds since 1970 UTC."""

    block: SavedBlock
    blocks: int = 0
    bound: int = LARGEST
    rows: list[bytes] = []  # stored apart
    since: float | None = None  # the beginning of the first slot with rows
    until: float = 0.0  # the end of the newest block
    tried: int = 0  # blocks, when the sample was last looked at
    done: bool = False
    slot_s: float = 0.0
    block_s: float = 0.0


class Learning:
    """Slots of a version in, in their order, until `settings.learn_blocks` blocks are sealed; if no feature could be
    judged by them, until twice as many are, and so on.

    >>> from serving.manifest import Feature
    >>> from serving.protocol import Signature, TensorSpec
    >>> of = Manifest(model="m", version="1", files={}, signature=Signature((TensorSpec("x", "FP32", (-1, 1)),), ()),
    ...               rows_independent=True, features=(Feature("x", "x", 0),))
    >>> learning = Learning(of, Monitors(slot_s=60, block_s=120, block_rows=1, learn_blocks=2))
    >>> for slot in range(10):
    ...     rows = WholeRows.of(slot, np.arange(100, dtype=np.uint64) + 100 * slot, [np.arange(100.0).tolist()])
    ...     learning.fold(slot, Counts(100, learned=rows))
    >>> learning.blocks, learning.done, learning.rows
    (4, True, 800)
    """

    def __init__(self, of: Manifest, settings: Monitors) -> None:
        self._of, self._settings = of, settings
        self._blocks = Blocks(Counts(), settings.slot_s, settings.block_s, settings.block_rows)
        self._state = SavedLearning(self._blocks.save(), slot_s=settings.slot_s, block_s=settings.block_s)
        self._changed = True

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
        """Whether the sample is a reference; it stays as it is then."""
        return self._state.done

    @property
    def progress(self) -> str:
        tried = 0 if self.done else self._state.tried
        few = f"; by those of the first {tried} no feature can be judged" if tried else ""
        return f"learning: {self.blocks} of {self._wanted} blocks{few}"

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
            if self.blocks >= self._wanted:
                self._state.done, self._state.tried = self._fit(), self.blocks

    @cached_property
    def profile(self) -> Profile:
        """The sample as the reference of the version, once it is `done`. Raises PublishRefused."""
        return self._built(*self._read())

    @property
    def _wanted(self) -> int:
        """Blocks after which the sample is looked at."""
        return self.blocks if self.done else max(self._settings.learn_blocks, 2 * self._state.tried)

    def _fit(self) -> bool:
        """Whether any feature could be judged by the sample. One by one, since most often the first can."""
        time, columns = self._read()
        try:
            return any(not self._built(time, {name: columns[name]}).features[name].unfit for name in columns)
        except PublishRefused:
            return False

    def _built(self, time: Array, columns: Mapping[str, Array]) -> Profile:
        """A profile of some of what `_read` gave."""
        of, values, block_s = self._of, dict(columns), self._settings.block_s
        prediction = values.pop(PREDICTION, None)
        kinds = {feature.name: feature.kind for feature in of.features}
        made = build(values, kinds, prediction=prediction, task=of.task, time=time, block_s=block_s)
        return msgspec.structs.replace(made, repeats=None)  # rows that are drawn one by one repeat more seldom

    def _read(self) -> tuple[Array, dict[str, Array]]:
        """Of the rows of the sample, in the order of their slots, the time and what they have of each column."""
        wholes = sorted(map(value, self._state.rows), key=lambda whole: whole[0])
        time = (np.array([slot for slot, _ in wholes]) + 0.5) * self._settings.slot_s
        values = zip(*(values for _, values in wholes), strict=True)
        return time, {name: _column(column, dtype) for (name, dtype), column in zip(fed(self._of), values, strict=True)}

    def save(self) -> SavedLearning:
        """All but the rows of the sample."""
        return msgspec.structs.replace(self._state, block=self._blocks.save(), rows=[])

    def news(self) -> bytes:
        """The rows of the sample, encoded, if they changed since they were asked for; else empty."""
        changed, self._changed = self._changed, False
        return msgspec.msgpack.encode(self._state.rows) if changed else b""

    def load(self, saved: SavedLearning, rows: bytes) -> None:
        """Go on from what `save` and `news` gave. What was learned in other slots or blocks is left aside."""
        if (saved.slot_s, saved.block_s) == (self._settings.slot_s, self._settings.block_s):
            self._state = msgspec.structs.replace(saved, rows=msgspec.msgpack.decode(rows, type=list[bytes]))
            self._blocks.load(saved.block, decode(saved.block.counts))
            self._changed = False

    def _draw(self, found: WholeRows) -> None:
        state = self._state
        state.bound = min(state.bound, found.bound)
        before, rows = state.rows, sorted({*state.rows, *found.rows})
        state.rows = first([row for row in rows if hashed(row) <= state.bound], ROWS, BYTES)
        self._changed |= state.rows != before
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
