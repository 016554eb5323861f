"""From the rings to the capture log, beside the counting and never in its way: a reader of its own.

The ring is the queue, and its size the bound: what is overwritten before it is read counts as dropped. A frame's
number says whether the version's segments have it already, so that after a `kill -9` no row is lost and none written
twice, as long as the ring still holds what the checkpoint has not.
"""

import logging
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from monitors.bundle import Bundle, join
from monitors.capture import columns
from monitors.capture.figures import Figures, Name, Written
from monitors.capture.log import CaptureLog
from monitors.capture.segment import sync_folder
from monitors.capture.shelf import span
from monitors.source import decode
from serving.config import Capture
from serving.packed import Layout, Packed, Unpacker
from serving.ring import Frame, Position, RingError, RingReader, lost, position_after

log = logging.getLogger("gaugeway.capture")

MAX_FRAMES = 4096  # that are written at once
CHECKPOINT = "position.json"

_Run = tuple[Any, Frame]  # rows, and the frame they end with


class Checkpoint(msgspec.Struct):
    """What lasts beside the segments. All rows before `positions` are captured, or need not be."""

    positions: dict[str, Position] = {}
    written: dict[str, dict[str, Written]] = {}
    dropped: dict[str, int] = {}
    expired: dict[str, int] = {}
    settings: dict[str, Capture] = {}  # also of models that are no longer served


class Tap:
    """All rings in a folder, into captures below `root`. Raises OSError when the disk does not take them."""

    def __init__(self, rings: Path, root: Path) -> None:
        self._rings, self._root = rings, root
        last = _read(root / CHECKPOINT)
        self._positions = dict(last.positions)
        self.dropped = Counter[str]({"lost": 0, "undecodable": 0} | last.dropped)
        written = {(model, version): n for model, some in last.written.items() for version, n in some.items()}
        self.log = CaptureLog(root, written)
        self.log.expired.update(last.expired)
        self.log.settings = last.settings
        self._unpack = Unpacker()
        self._followed: dict[str, _Ring] = {}
        self._refused: dict[str, str] = {}
        self._kept = b""
        self._newest = -math.inf
        self._drained = True

    def poll(self, now: float) -> bool:
        """Capture what is new; whether there is more to read at once."""
        self._drained = False
        self._discover()
        more = [self._take(name, ring, now) for name, ring in list(self._followed.items())]
        self._drained = not any(more)
        return any(more)

    def tidy(self, settings: Mapping[str, Capture], now: float) -> None:
        """Have what is written outlast a loss of power, and keep the places behind it; then seal and expire."""
        self.log.settings = {**self.log.settings, **settings}
        try:
            self.log.sync()
            self._keep()
        finally:  # a full disk gets room
            removed = self.log.tidy(now)
        if removed:
            self._keep()

    def _keep(self) -> None:
        written: dict[str, dict[str, Written]] = {}
        for (model, version), n in self.log.written.items():
            written.setdefault(model, {})[version] = n
        checkpoint = msgspec.json.encode(
            Checkpoint(self._positions, written, self.dropped, self.log.expired, dict(self.log.settings))
        )
        if checkpoint != self._kept:
            _store(self._root / CHECKPOINT, checkpoint)
            self._kept = checkpoint

    def figures(self, now: float) -> Figures:
        lag_s = 0.0 if self._drained or self._newest < 0 else max(0.0, now - self._newest)
        return Figures(self.log.written, self.log.stored, dict(self.dropped), dict(self.log.expired), lag_s)

    def rest(self) -> None:
        """Nothing is captured for a while: what is overwritten meanwhile is not dropped."""
        for ring in self._followed.values():
            ring.reader.close()
        self._followed.clear()
        self._positions.clear()

    def close(self) -> None:
        """Seal all segments. The places stay, for a successor."""
        self.log.close()
        for ring in self._followed.values():
            ring.reader.close()

    def _discover(self) -> None:
        for path in sorted(self._rings.glob("*.ring")):
            known = self._followed.get(path.name)
            try:
                if known is not None and (known.inode == path.stat().st_ino or known.reader.lag_bytes):
                    continue
                self._followed[path.name] = _Ring(path, self._positions.get(path.name))
                if known is not None:
                    known.reader.close()
            except (OSError, RingError) as error:
                self._complain(path.name, str(error))

    def _complain(self, of: str, complaint: str) -> None:
        """Once, until it is another."""
        if self._refused.get(of) != complaint:
            self._refused[of] = complaint
            log.warning("%s", complaint)

    def _take(self, name: str, ring: "_Ring", now: float) -> bool:
        frames = ring.reader.read(MAX_FRAMES)
        if not frames:
            return False
        since = self._positions.get(name)
        try:
            undecodable = self._write(name, ring.uid, frames, now)
        except BaseException:
            self._followed.pop(name).reader.close()  # read again from where it is captured
            raise
        self.dropped["undecodable"] += undecodable
        if since is not None and since.ring == ring.uid:  # else what was overwritten before the first look is not ours
            self.dropped["lost"] += lost(frames, since)[1]
        self._positions[name] = ring.reader.position
        return ring.reader.lag_bytes > 0

    def _write(self, ring: str, uid: str, frames: Sequence[Frame], now: float) -> int:
        """What is to be captured and is not yet, by version in the order of frames; returns rows that are no record."""
        undecodable, found = 0, dict[Name, list[tuple[Packed, Frame]]]()
        for frame in frames:
            record = decode(frame, self._unpack)
            if isinstance(record, str):
                undecodable += frame.rows
            elif record.layout.excerpt is not None and self._is_new(record.layout, ring, uid, frame):
                found.setdefault(record.layout.identity[:2], []).append((record, frame))
        for name, records in found.items():
            runs, unfit = self._runs(records)
            undecodable += unfit
            for rows, last in _batches(runs):
                self.log.write(name, rows, ring, position_after(last, uid), now)
                self._newest = max(self._newest, *span(rows))
        return undecodable

    def _runs(self, records: Sequence[tuple[Packed, Frame]]) -> tuple[list[_Run], int]:
        """Of one version. Records whose tensors are not as their layout says are left out; how many rows these have."""
        runs, unfit = list[_Run](), 0
        for layout, run in groupby(records, key=lambda found: found[0].layout):
            packed, frames = zip(*run, strict=True)
            try:
                rows = columns.rows(Bundle(layout, packed, join(packed)), columns.schema(layout))
            except (LookupError, TypeError, ValueError, pa.ArrowCapacityError) as error:
                unfit += sum(frame.rows for frame in frames)
                who = f"{layout.model!r} version {layout.version!r}"
                self._complain(who, f"rows of {who} are not captured, they do not fit their layout: {error!r}")
            else:
                runs += [(rows, frames[-1])] if rows.num_rows else []
        return runs, unfit

    def _is_new(self, layout: Layout, ring: str, uid: str, frame: Frame) -> bool:
        captured = self.log.position((layout.model, layout.version), ring)
        return captured is None or captured.ring != uid or frame.number >= captured.number


class _Ring:
    """One ring, from `position` if that is in it, else from its oldest frame."""

    def __init__(self, path: Path, position: Position | None) -> None:
        self.inode = os.stat(path).st_ino
        self.reader = RingReader(path, position)
        self.uid = self.reader.position.ring


def _batches(runs: Sequence[_Run]) -> Iterator[_Run]:
    """Of rows of one version: as few batches as their schemas allow."""
    for _, same in groupby(runs, key=lambda found: found[0].schema):
        batches, ends = zip(*same, strict=True)
        yield (batches[0] if len(batches) == 1 else pa.concat_batches(batches)), ends[-1]


def _read(path: Path) -> Checkpoint:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Checkpoint)
    except FileNotFoundError:
        return Checkpoint()
    except msgspec.DecodeError as error:
        log.warning("%s cannot be read: %s; what the segments have is not captured twice", path, error)
        return Checkpoint()


def _store(path: Path, checkpoint: bytes) -> None:
    staged = path.with_suffix(".new")
    with staged.open("wb") as file:
        file.write(checkpoint)
        file.flush()
        os.fsync(file.fileno())
    staged.rename(path)
    sync_folder(path.parent)
