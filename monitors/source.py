"""Tails the rings of a node's gateway workers: records in their order of arrival, and exactly what was lost.

A `Batch` carries the positions to be committed together with what was counted from it; what was not committed is
read again after a restart.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.packed import REQUEST, BadRecord, Packed, Unpacker
from serving.ring import Frame, Position, RingError, RingReader, lost, position_after

MAX_FRAMES = 4096  # read ahead per ring


@dataclass
class Batch:
    """What one look at the rings brought. `drained` says that nothing was left behind."""

    records: list[Packed] = field(default_factory=list)
    positions: dict[str, Position] = field(default_factory=dict)
    newest: float = -math.inf  # arrival time of the newest request
    lost_frames: int = 0
    lost_rows: int = 0
    bad_rows: int = 0
    errors: list[str] = field(default_factory=list)
    drained: bool = True


class Source:
    """All rings in a folder. `positions` are those last committed, by the ring file's name."""

    def __init__(self, folder: Path, positions: Mapping[str, Position], *, max_frames: int = MAX_FRAMES) -> None:
        self._folder, self._max_frames = folder, max_frames
        self._positions = dict(positions)
        self._unpack = Unpacker()
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
        taken = {name: tail.take(limit) for name, tail in self._tails.items()}
        for name, ahead in taken.items():
            if ahead.frames:
                self._put(name, ahead, batch)
        batch.records = _merged([ahead for ahead in taken.values() if ahead.frames])
        batch.drained = all(tail.empty for tail in self._tails.values())
        return batch

    def close(self) -> None:
        for tail in self._tails.values():
            tail.close()
        self._tails.clear()

    def _put(self, name: str, ahead: "_Ahead", batch: Batch) -> None:
        """Account for frames that were taken from one ring."""
        tail = self._tails[name]
        frames_lost, rows_lost = lost(ahead.frames, tail.taken)
        batch.lost_frames += frames_lost
        batch.lost_rows += rows_lost
        batch.newest = max(batch.newest, float(ahead.keys[-1]))
        for i, why in ahead.bad.items():
            batch.bad_rows += ahead.frames[i].rows
            batch.errors.append(why)
        tail.taken = self._positions[name] = batch.positions[name] = position_after(ahead.frames[-1], tail.taken.ring)

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
        self._tails[path.name] = _Tail(path, self._positions.get(path.name), self._unpack)
        self._refused.pop(path.name, None)


@dataclass
class _Ahead:
    """Frames that were read: `records` has a sentence for one that is bad, `keys` orders them among the rings."""

    frames: list[Frame] = field(default_factory=list)
    records: list[Packed | str] = field(default_factory=list)
    keys: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    @property
    def bad(self) -> dict[int, str]:
        """Why the monitors cannot rely on a record, by its place."""
        if set(map(type, self.records)) <= {Packed}:
            return {}
        return {i: found for i, found in enumerate(self.records) if isinstance(found, str)}

    def split(self, at: int) -> "tuple[_Ahead, _Ahead]":
        if at == len(self.frames):
            return self, _Ahead()
        first = _Ahead(self.frames[:at], self.records[:at], self.keys[:at])
        return first, _Ahead(self.frames[at:], self.records[at:], self.keys[at:])

    def add(self, frames: list[Frame], records: list[Packed | str], keys: NDArray[np.float64]) -> None:
        self.frames += frames
        self.records += records
        self.keys = np.concatenate([self.keys, keys])


class _Tail:
    """One ring, read ahead."""

    def __init__(self, path: Path, position: Position | None, unpack: Unpacker) -> None:
        self.inode = os.stat(path).st_ino
        self._reader, self._unpack = RingReader(path, position), unpack
        self._ahead = _Ahead()
        self.taken = self._reader.position
        self.last = -math.inf  # key of the last frame read
        self.more = False

    @property
    def lag_bytes(self) -> int:
        return self._reader.lag_bytes

    @property
    def empty(self) -> bool:
        return not self._ahead.frames and self._reader.lag_bytes == 0

    def fill(self, max_frames: int) -> None:
        if frames := self._reader.read(max_frames - len(self._ahead.frames)):
            records = [decode(frame, self._unpack) for frame in frames]
            keys = self._keys(records)
            self.last = float(keys[-1])
            self._ahead.add(frames, records, keys)
        self.more = len(self._ahead.frames) >= max_frames and self._reader.lag_bytes > 0

    def take(self, limit: float) -> _Ahead:
        """What is at most `limit`."""
        taken, self._ahead = self._ahead.split(int(np.searchsorted(self._ahead.keys, limit, side="right")))
        return taken

    def close(self) -> None:
        self._reader.close()

    def _keys(self, records: list[Packed | str]) -> NDArray[np.float64]:
        """The largest arrival time up to each frame. A record that contradicts itself becomes a sentence."""
        keys = np.full(len(records), -math.inf)
        found = [one for one in records if isinstance(one, Packed)]
        if found:
            table = np.frombuffer(b"".join([one.table for one in found]), REQUEST)
            starts = np.cumsum([0, *[one.requests for one in found]])[:-1]
            whole = np.flatnonzero([isinstance(one, Packed) for one in records])
            keys[whole] = np.fmax.reduceat(table["arrival_time"], starts)
            rows = np.add.reduceat(table["rows"], starts, dtype=np.int64) - [one.rows for one in found]
            ids = np.add.reduceat(table["id_bytes"], starts, dtype=np.int64) - [len(one.ids) for one in found]
            for k in np.flatnonzero((rows != 0) | (ids != 0)).tolist():
                records[whole[k]] = f"a record contradicts itself: {rows[k]} rows and {ids[k]} bytes of ids too many"
        keys[np.isnan(keys)] = -math.inf
        return np.maximum(np.maximum.accumulate(keys), self.last)


def decode(frame: Frame, unpack: Unpacker) -> Packed | str:
    """The record of a frame, or why the monitors cannot rely on it."""
    try:
        found = unpack(frame.payload)
    except BadRecord as error:
        return f"frame {frame.number} is not a record: {error}"
    if found.rows != frame.rows:
        return f"frame {frame.number} is not a record: it has {found.rows} rows, the frame {frame.rows}"
    return found


def _merged(taken: list[_Ahead]) -> list[Packed]:
    """By key, of equal ones in the order of the rings."""
    records = list(chain.from_iterable(ahead.records for ahead in taken))
    if len(taken) > 1:
        order = np.argsort(np.concatenate([ahead.keys for ahead in taken]), kind="stable")
        records = [records[i] for i in order.tolist()]
    return [found for found in records if not isinstance(found, str)]
