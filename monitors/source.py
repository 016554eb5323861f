"""Tails the rings of a node's gateway workers: records in their order of arrival, and exactly what was lost.

A `Batch` carries the positions to be committed together with what was counted from it; what was not committed is
read again after a restart.
"""

import heapq
import math
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sized
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path

import msgspec

from serving import record
from serving.errors import GaugewayError
from serving.protocol import DATATYPES
from serving.record import Column, Frame, Position, Record, RingError, RingReader

MAX_FRAMES = 4096  # read ahead per ring


class BadRecord(GaugewayError):
    """A frame whose payload is not a Record v1, or one that contradicts itself."""


@dataclass
class Batch:
    """What one look at the rings brought. `drained` says that nothing was left behind."""

    records: list[Record] = field(default_factory=list)
    positions: dict[str, Position] = field(default_factory=dict)
    lost_frames: int = 0
    lost_rows: int = 0
    bad_rows: int = 0
    errors: list[str] = field(default_factory=list)
    drained: bool = True


@dataclass(slots=True)
class _Entry:
    """A frame that was read: `key` orders it among the rings, `after` is the position behind it."""

    key: float
    after: Position
    frame: Frame
    lost_frames: int
    lost_rows: int
    record: Record | None
    error: str


class Source:
    """All rings in a folder. `positions` are those last committed, by the ring file's name."""

    def __init__(self, folder: Path, positions: Mapping[str, Position], *, max_frames: int = MAX_FRAMES) -> None:
        self._folder, self._max_frames = folder, max_frames
        self._positions = dict(positions)
        self._tails: dict[str, _Tail] = {}
        self._refused: dict[str, str] = {}

    @property
    def lag_bytes(self) -> int:
        """Written by the workers and not yet returned by `read`; frames read ahead are not in it."""
        return sum(tail.lag_bytes for tail in self._tails.values())

    def read(self) -> Batch:
        """The next records of all rings, merged by arrival as far as every ring is known.

        A ring with more frames than were read ahead holds the others back at its last one, so that after a
        pause one worker's backlog does not make the rows of another late.
        """
        batch = Batch()
        self._discover(batch)
        for tail in self._tails.values():
            tail.fill(self._max_frames)
        limit = min((tail.last for tail in self._tails.values() if tail.more), default=math.inf)
        ready = [tail.until(limit) for tail in self._tails.values()]
        for entry in heapq.merge(*ready, key=attrgetter("key")):
            _put(entry, batch)
        for name, tail in self._tails.items():
            if tail.returned is not None:
                self._positions[name] = batch.positions[name] = tail.returned
                tail.returned = None
            batch.drained = batch.drained and tail.empty
        return batch

    def close(self) -> None:
        for tail in self._tails.values():
            tail.close()
        self._tails.clear()

    def _discover(self, batch: Batch) -> None:
        for path in sorted(self._folder.glob("*.ring")):
            try:
                self._follow(path)
            except (OSError, RingError) as error:
                if self._refused.get(path.name) != str(error):
                    self._refused[path.name] = str(error)
                    batch.errors.append(str(error))

    def _follow(self, path: Path) -> None:
        tail = self._tails.get(path.name)
        if tail is not None:
            if tail.inode == path.stat().st_ino or not tail.empty:
                return
            tail.close()  # the file was replaced, and all of the old one is read
        self._tails[path.name] = _Tail(path, self._positions.get(path.name))
        self._refused.pop(path.name, None)


class _Tail:
    """One ring, read ahead."""

    def __init__(self, path: Path, position: Position | None) -> None:
        self.inode = os.stat(path).st_ino
        self._reader = RingReader(path, position)
        self._ahead: deque[_Entry] = deque()
        self.returned: Position | None = None
        self.last = -math.inf  # key of the last frame read
        self.more = False

    @property
    def lag_bytes(self) -> int:
        return self._reader.lag_bytes

    @property
    def empty(self) -> bool:
        return not self._ahead and self._reader.lag_bytes == 0

    def fill(self, max_frames: int) -> None:
        while len(self._ahead) < max_frames:
            lost = self._reader.lost_frames, self._reader.lost_rows
            frames = self._reader.read(1)
            if not frames:
                self.more = False
                return
            self._ahead.append(self._entry(frames[0], *lost))
        self.more = self._reader.lag_bytes > 0

    def until(self, limit: float) -> Iterator[_Entry]:
        while self._ahead and self._ahead[0].key <= limit:
            entry = self._ahead.popleft()
            self.returned = entry.after
            yield entry

    def close(self) -> None:
        self._reader.close()

    def _entry(self, frame: Frame, lost_frames: int, lost_rows: int) -> _Entry:
        reader, found, error = self._reader, None, ""
        try:
            found = decode(frame)
            self.last = max(self.last, *found.arrival_times)
        except BadRecord as refused:
            error = str(refused)
        lost = reader.lost_frames - lost_frames, reader.lost_rows - lost_rows
        return _Entry(self.last, reader.position, frame, *lost, found, error)


def decode(frame: Frame) -> Record:
    """The record of a frame. Raises BadRecord for one that the monitors cannot rely on."""
    try:
        found = record.decode(frame.payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRecord(f"frame {frame.number} is not a record: {error}") from None
    if why := _contradiction(found, frame):
        raise BadRecord(f"record {frame.number} of {found.model!r} version {found.version!r}: {why}")
    return found


def _contradiction(found: Record, frame: Frame) -> str:
    lists: tuple[Sized, ...] = (
        found.ids, found.first_rows, found.counts, found.reasons, found.propensities, found.keys,
        found.event_times, found.arrival_times, found.statuses, found.queue_s,
    )  # fmt: skip
    if found.v != 1:
        return f"it has version {found.v}, expected 1"
    if not found.ids or len(set(map(len, lists))) != 1:
        return f"its lists have lengths {[*map(len, lists)]}"
    if min(found.counts) < 0 or found.rows != frame.rows:
        return f"its requests have {found.counts} rows, the frame {frame.rows}"
    for columns in (found.inputs, found.outputs):
        for name, column in columns.items():
            if why := _bad_column(column, frame.rows):
                return f"column {name!r} {why}"
    return ""


def _bad_column(column: Column, rows: int) -> str:
    if column.datatype not in DATATYPES:
        return f"has the datatype {column.datatype!r}"
    if not column.shape or column.shape[0] != rows or min(column.shape) < 0:
        return f"has shape {column.shape} in a batch of {rows} rows"
    size = math.prod(column.shape) * DATATYPES[column.datatype].itemsize
    if column.datatype != "BYTES" and size != len(column.data):
        return f"has {len(column.data)} bytes, expected {size}"
    return ""


def _put(entry: _Entry, batch: Batch) -> None:
    batch.lost_frames += entry.lost_frames
    batch.lost_rows += entry.lost_rows
    if entry.record is None:
        batch.bad_rows += entry.frame.rows
        batch.errors.append(entry.error)
    else:
        batch.records.append(entry.record)
