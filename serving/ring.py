"""The ring that records are written to: one memory-mapped file with one writer (a gateway worker) and any readers.

The writer never waits: it overwrites the oldest frames. Frames are numbered and carry the rows written before them,
so a gap in the numbers is the exact count of what a reader lost. A frame becomes visible by a single store of `head`,
so a writer killed at any point leaves a readable ring, which its successor continues. A ring outlives processes;
after a loss of power it is still readable, but its counts may be low.
"""

import fcntl
import mmap
import os
import secrets
import struct
import zlib
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from serving.errors import GaugewayError

# Ring file: one page of header, then `capacity` bytes of frames, each padded to 8 bytes.
# head and tail count bytes since the ring was made; their place is their value modulo capacity.
_MAGIC = b"GWRING01"
_PAGE = 4096
_CAPACITY, _HEAD, _TAIL, _UID, _NEXT = 8, 16, 24, 32, 48
_FRAME = struct.Struct("<IIQQQ")  # payload bytes, checksum of what follows, number, rows before it, rows in it
_PREFIX = struct.Struct("<II")  # the first two of _FRAME
_NUMBERS = struct.Struct("<QQQ")  # the last three
_NEXT_FRAME = struct.Struct("<QQ")  # number of the next frame, rows before it
_UNUSED = b"\xff\xff\xff\xff"  # as payload bytes: so is the rest, up to the end of the ring
_LARGEST = 4  # a frame takes at most this part of the ring, so one frame never drives out all others
_SHARE = 64  # the oldest frames are given up in parts of this many to a ring
_CHUNK = 2**18  # bytes that a reader copies at once, unless a frame is larger


class RingError(GaugewayError):
    """The file is no ring of this format, is cut short, has a writer already, or there is no room for it."""


class Frame(msgspec.Struct, frozen=True, gc=False):
    number: int
    rows_before: int
    rows: int
    payload: bytes
    end: int = 0  # bytes since the ring was made, up to the next frame


class Position(msgspec.Struct, frozen=True):
    """Where a reader stands, to be committed together with what it counted."""

    ring: str  # identity of the ring file
    offset: int = 0
    number: int = 0
    rows: int = 0


class RingWriter:
    """Appends frames; opens and continues an existing ring, whose size then stands.

    One writer a ring, held by a lock on the file that ends with the process; not thread-safe.
    Raises RingError. The file's blocks are reserved when it is made: a disk that fills up later kills nobody.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     writer = RingWriter(Path(folder) / "w.ring", 2**16)
    ...     written = writer.append(b"payload", rows=3)
    ...     RingReader(Path(folder) / "w.ring").read()
    [Frame(number=0, rows_before=0, rows=3, payload=b'payload', end=40)]
    """

    def __init__(self, path: Path, capacity_bytes: int) -> None:
        if not path.exists():
            _create(path, capacity_bytes // 8 * 8)
        with path.open("r+b") as file:
            self._map = _locked(file, path)
        self._capacity = _get(self._map, _CAPACITY)
        self._head, self._tail = _get(self._map, _HEAD), _get(self._map, _TAIL)
        self.number, self.rows = _NEXT_FRAME.unpack_from(self._map, _NEXT)
        self._opened = self._mark = self._head
        self._expected = 0  # rows that are announced and not yet written
        self._marks: deque[int] = deque()  # beginnings of frames of this writer, a `_SHARE` of the ring apart

    def expect(self, rows: int) -> None:
        """Announce rows that `append` writes soon: if this process dies before, they count as lost."""
        self._expected += rows
        self._tell()

    def forfeit(self, rows: int) -> None:
        """Rows that were announced and cannot be written count as lost."""
        self._pass(rows)

    def append(self, payload: bytes, rows: int) -> bool:
        """Write one frame; False (and a gap in the numbers) when it is too large for this ring.

        Who announces rows announces all that it appends.
        """
        body = _NUMBERS.pack(self.number, self.rows, rows) + payload
        self._pass(rows)
        size = _padded(len(payload))
        if size > self._capacity // _LARGEST:
            return False
        place = self._head % self._capacity
        if place + size > self._capacity:
            place = self._skip_to_start(place)
        if self._head + size - self._tail > self._capacity:
            self._free(self._head + size)
        if self._head >= self._mark:
            self._marks.append(self._head)
            self._mark = self._head + self._capacity // _SHARE
        frame = _PREFIX.pack(len(payload), zlib.crc32(body)) + body
        at = _PAGE + place
        self._map[at : at + len(frame)] = frame
        self._head += size
        self._map[_HEAD : _HEAD + 8] = self._head.to_bytes(8, "little")
        return True

    def close(self) -> None:
        self._map.close()

    def _pass(self, rows: int) -> None:
        """A number is taken, and with it so many rows."""
        self.number += 1
        self.rows += rows
        self._expected = max(0, self._expected - rows)
        self._tell()

    def _tell(self) -> None:
        """A successor where to go on: what is announced now will be lost, under one number more."""
        number = self.number + 1 if self._expected else self.number
        self._map[_NEXT : _NEXT + 16] = _NEXT_FRAME.pack(number, self.rows + self._expected)

    def _skip_to_start(self, place: int) -> int:
        self._free(self._head + self._capacity - place)
        self._map[_PAGE + place : _PAGE + place + 4] = _UNUSED
        self._head += self._capacity - place
        return 0

    def _free(self, until: int) -> None:
        """Advance tail, before anything is overwritten, past every frame that `until` would reach.

        Frames of this writer are given up by the marks that it set, those of its predecessor one by one.
        """
        moved = self._tail
        while until - moved > self._capacity:
            if moved < self._opened:
                moved = min(moved + _size_at(self._map, moved, self._capacity), self._head)
            else:
                moved = self._marks.popleft() if self._marks else self._head
        if moved > self._tail:
            self._tail = moved
            _put(self._map, _TAIL, moved)


class RingReader:
    """Reads frames in order. `lost_frames` and `lost_rows` count what was overwritten unread.

    Raises RingError. A frame that is still broken at a second `read` is damage (the machine lost power):
    the reader goes on at the head, and the numbers say what it missed.
    """

    def __init__(self, path: Path, position: Position | None = None) -> None:
        with path.open("rb") as file:
            self._map = _mapped(file, path, mmap.PROT_READ)
        self._capacity = _get(self._map, _CAPACITY)
        uid = self._map[_UID : _UID + 16].hex()
        known = position is not None and position.ring == uid
        self.position = position if known and position else Position(uid)
        self.lost_frames = self.lost_rows = 0
        self._broken_at = -1

    @property
    def lag_bytes(self) -> int:
        return _get(self._map, _HEAD) - self.position.offset

    def read(self, max_frames: int = 1024) -> list[Frame]:
        """The next frames, at most `max_frames`; empty when there is nothing new."""
        frames: list[Frame] = []
        at = self.position.offset
        while len(frames) < max_frames and (chunk := self._chunk(at)):
            at, broken = _frames(*chunk, self._capacity, max_frames - len(frames), frames)
            if broken:
                at = at if frames else self._passed(at)
                break
        self._advance(frames, at)
        return frames

    def close(self) -> None:
        self._map.close()

    def _chunk(self, offset: int) -> tuple[int, bytes] | None:
        """Where it begins, at `offset` or behind it, and the bytes of one frame at least; None: nothing new."""
        while (start := max(offset, _get(self._map, _TAIL))) < (head := _get(self._map, _HEAD)):
            place, size = start % self._capacity, _size_at(self._map, start, self._capacity)
            most = min(max(size, _CHUNK), head - start, self._capacity - place)
            data = self._map[_PAGE + place : _PAGE + place + most]
            overwritten = max(_get(self._map, _TAIL) - start, 0)  # while it was copied
            if overwritten < most:
                return start + overwritten, data[overwritten:] if overwritten else data
        return None

    def _passed(self, offset: int) -> int:
        """Stores may become visible out of order: a frame that is broken now may be whole at the next look."""
        if self._broken_at == offset:
            return _get(self._map, _HEAD)
        self._broken_at = offset
        return offset

    def _advance(self, frames: list[Frame], offset: int) -> None:
        if frames:
            frames_lost, rows_lost = lost(frames, self.position)
            self.lost_frames += frames_lost
            self.lost_rows += rows_lost
            self.position = position_after(frames[-1], self.position.ring)
        self.position = msgspec.structs.replace(self.position, offset=offset)


def position_after(frame: Frame, ring: str) -> Position:
    """Where a reader stands who took this frame."""
    return Position(ring, frame.end, frame.number + 1, frame.rows_before + frame.rows)


def lost(frames: Sequence[Frame], since: Position) -> tuple[int, int]:
    """Frames and rows that are missing between `since` and the last of `frames`, by their numbers."""
    after, rows = position_after(frames[-1], since.ring), sum([frame.rows for frame in frames])
    return max(after.number - since.number - len(frames), 0), max(after.rows - since.rows - rows, 0)


def _frames(start: int, data: bytes, capacity: int, most: int, found: list[Frame]) -> tuple[int, bool]:
    """Add the whole frames of a chunk that begins at `start`; where they end, and whether a broken one follows."""
    at, head, unpack, crc = 0, _FRAME.size, _FRAME.unpack_from, zlib.crc32
    while most and at + head <= len(data) and data[at : at + 4] != _UNUSED:
        length, checksum, number, rows_before, rows = unpack(data, at)
        end = at + (head + length + 7) // 8 * 8
        if end - at > capacity // _LARGEST:
            return start + at, True
        if end > len(data):
            return start + at, not at
        if crc(data[at + 8 : at + head + length]) != checksum:
            return start + at, True
        found.append(Frame(number, rows_before, rows, data[at + head : at + head + length], start + end))
        at, most = end, most - 1
    unused = _unused(start + at, capacity, data[at : at + 4]) if most and at < len(data) else 0
    return start + at + unused, not at and not unused


def _unused(offset: int, capacity: int, beginning: bytes) -> int:
    """Bytes up to the end of the ring when the rest of it is unused, else 0."""
    rest = capacity - offset % capacity
    return rest if rest < _FRAME.size or beginning == _UNUSED else 0


def _padded(payload_bytes: int) -> int:
    return (_FRAME.size + payload_bytes + 7) // 8 * 8


def _get(ring: mmap.mmap, at: int) -> int:
    return int.from_bytes(ring[at : at + 8], "little")


def _put(ring: mmap.mmap, at: int, value: int) -> None:
    ring[at : at + 8] = value.to_bytes(8, "little")


def _size_at(ring: mmap.mmap, offset: int, capacity: int) -> int:
    """Bytes from `offset` to the next frame."""
    place = offset % capacity
    beginning = ring[_PAGE + place : _PAGE + place + 4]
    return _unused(offset, capacity, beginning) or _padded(int.from_bytes(beginning, "little"))


def _locked(file: BinaryIO, path: Path) -> mmap.mmap:
    """The ring, writable; its map keeps a duplicate of the descriptor and so the lock."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RingError(f"{path} has a writer already") from None
    return _mapped(file, path, mmap.PROT_READ | mmap.PROT_WRITE)


def _mapped(file: BinaryIO, path: Path, protection: int) -> mmap.mmap:
    header, size = file.read(_NEXT), os.fstat(file.fileno()).st_size
    if len(header) < _NEXT or not header.startswith(_MAGIC):
        raise RingError(f"{path} is not a ring of this version: it starts with {header[:8]!r}, expected {_MAGIC!r}")
    expected = _PAGE + int.from_bytes(header[_CAPACITY : _CAPACITY + 8], "little")
    if size != expected:
        raise RingError(f"{path} is cut short or damaged: it has {size} bytes, expected {expected}")
    return mmap.mmap(file.fileno(), 0, prot=protection)


def _create(path: Path, capacity: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_suffix(".new")
    try:
        with staged.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, _PAGE + capacity)
            file.write(_MAGIC + capacity.to_bytes(8, "little") + bytes(16) + secrets.token_bytes(16))
    except OSError as error:
        staged.unlink(missing_ok=True)
        raise RingError(f"cannot make {path} of {_PAGE + capacity} bytes: {error.strerror}") from None
    staged.rename(path)
