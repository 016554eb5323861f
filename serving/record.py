"""Record v1, the contract between the gateway and the monitors, and the ring it is written to.

A ring is one memory-mapped file with one writer (a gateway worker) and any readers (the sidecar). The writer
never waits: it overwrites the oldest frames. Frames are numbered and carry the rows written before them, so a
gap in the numbers is the exact count of what a reader lost. A frame becomes visible by a single store of `head`,
so a writer killed at any point leaves a readable ring, which its successor continues. A ring outlives processes;
after a loss of power it is still readable, but its counts may be low.
"""

import fcntl
import mmap
import os
import secrets
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec
import numpy as np

from serving.errors import GaugewayError
from serving.protocol import DATATYPES, Array

Role = Literal["primary", "shadow"]


class Column(msgspec.Struct, frozen=True, array_like=True):
    """A tensor of the batch: rows along axis 0, little-endian, row-major; BYTES as 4-byte length + bytes."""

    datatype: str
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, datatype: str, array: Array) -> "Column":
        if datatype == "BYTES":
            return cls(datatype, array.shape, b"".join(len(e).to_bytes(4, "little") + e for e in array.ravel()))
        return cls(datatype, array.shape, array.tobytes())

    def array(self) -> Array:
        """Shape `shape`; BYTES as an object array of `bytes`."""
        if self.datatype == "BYTES":
            elements = np.empty(int(np.prod(self.shape)), object)
            elements[:] = list(_elements(self.data))
            return elements.reshape(self.shape)
        return np.frombuffer(self.data, DATATYPES[self.datatype]).reshape(self.shape)


class Record(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """One batch of one version. Lists have an element per request, columns a row per row of the batch.

    Request i owns `counts[i]` consecutive rows; they are its rows `first_rows[i]`, `first_rows[i] + 1`, … (a large
    request may be split over records). Times are seconds since 1970 UTC, stages seconds; an event time of NaN was
    asked for and not given. Propensity is the probability with which routing chose this version for the request's
    key. A failed batch has no columns.
    """

    v: int = 1
    model: str
    version: str
    digest: str
    role: Role
    ids: list[str]
    first_rows: list[int]
    counts: list[int]
    reasons: list[str]
    propensities: list[float]
    sampling: float = 1.0
    keys: list[int]  # 64-bit hash of the sticky key; 0 where there was none
    clients: list[str] = []
    segments: dict[str, list[str]] = {}
    event_times: list[float]
    arrival_times: list[float]
    statuses: list[int]
    queue_s: list[float]
    infer_s: float
    inputs: dict[str, Column]
    outputs: dict[str, Column]

    @property
    def rows(self) -> int:
        return sum(self.counts)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Record)


def encode(record: Record) -> bytes:
    return _encoder.encode(record)


def decode(data: bytes) -> Record:
    return _decoder.decode(data)


# Ring file: one page of header, then `capacity` bytes of frames, each padded to 8 bytes.
# head and tail count bytes since the ring was made; their place is their value modulo capacity.
_MAGIC = b"GWRING01"
_PAGE = 4096
_CAPACITY, _HEAD, _TAIL, _UID, _NEXT = 8, 16, 24, 32, 48
_FRAME = struct.Struct("<IIQQQ")  # payload bytes, checksum of what follows, number, rows before it, rows in it
_NUMBERS = struct.Struct("<QQQ")  # the last three of _FRAME
_NEXT_FRAME = struct.Struct("<QQ")  # number of the next frame, rows before it
_WRAP = 0xFFFFFFFF  # as payload bytes: the rest up to the end of the ring is unused
_LARGEST = 4  # a frame takes at most this part of the ring, so one frame never drives out all others


class RingError(GaugewayError):
    """The file is no ring of this format, is cut short, has a writer already, or there is no room for it."""


@dataclass(frozen=True, slots=True)
class Frame:
    number: int
    rows_before: int
    rows: int
    payload: bytes


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
    [Frame(number=0, rows_before=0, rows=3, payload=b'payload')]
    """

    def __init__(self, path: Path, capacity_bytes: int) -> None:
        if not path.exists():
            _create(path, capacity_bytes // 8 * 8)
        with path.open("r+b") as file:
            self._map = _locked(file, path)
        self._capacity = _get(self._map, _CAPACITY)
        self._head, self._tail = _get(self._map, _HEAD), _get(self._map, _TAIL)
        self.number, self.rows = _NEXT_FRAME.unpack_from(self._map, _NEXT)

    def append(self, payload: bytes, rows: int) -> bool:
        """Write one frame; False (and a gap in the numbers) when it is too large for this ring.

        The numbers are stored before the frame is visible: what a killed writer did not finish counts as lost.
        """
        number, rows_before = self.number, self.rows
        self.number, self.rows = number + 1, rows_before + rows
        self._map[_NEXT : _NEXT + _NEXT_FRAME.size] = _NEXT_FRAME.pack(self.number, self.rows)
        size = _padded(len(payload))
        if size > self._capacity // _LARGEST:
            return False
        place = self._head % self._capacity
        if place + size > self._capacity:
            place = self._skip_to_start(place)
        self._free(self._head + size)
        numbers = _NUMBERS.pack(number, rows_before, rows)
        self._map[_PAGE + place : _PAGE + place + _FRAME.size + len(payload)] = b"".join(
            (len(payload).to_bytes(4, "little"), _checksum(numbers, payload).to_bytes(4, "little"), numbers, payload)
        )
        self._head += size
        _put(self._map, _HEAD, self._head)
        return True

    def close(self) -> None:
        self._map.close()

    def _skip_to_start(self, place: int) -> int:
        self._free(self._head + self._capacity - place)
        self._map[_PAGE + place : _PAGE + place + 4] = _WRAP.to_bytes(4, "little")
        self._head += self._capacity - place
        return 0

    def _free(self, until: int) -> None:
        """Advance tail, before anything is overwritten, past every frame that `until` would reach."""
        moved = self._tail
        while until - moved > self._capacity:
            moved = min(moved + _size_at(self._map, moved, self._capacity), self._head)
        if moved != self._tail:
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
        while len(frames) < max_frames and (frame := self._next()):
            frames.append(frame)
        return frames

    def close(self) -> None:
        self._map.close()

    def _next(self) -> Frame | None:
        while (offset := max(self.position.offset, _get(self._map, _TAIL))) < (head := _get(self._map, _HEAD)):
            size = _size_at(self._map, offset, self._capacity)
            unused = _wraps(self._map, offset, self._capacity)
            frame = None if unused else _frame_at(self._map, offset, self._capacity)
            if _get(self._map, _TAIL) > offset:
                continue  # overwritten while it was read
            if frame is not None:
                self._advance(frame, offset + size)
                return frame
            if unused:
                self._go_to(offset + size)
            elif not self._passed(offset, head):
                return None
        return None

    def _passed(self, offset: int, head: int) -> bool:
        """Stores may become visible out of order: a frame that is broken now may be whole at the next look."""
        if self._broken_at != offset:
            self._broken_at = offset
            return False
        self._go_to(head)
        return True

    def _go_to(self, offset: int) -> None:
        self.position = msgspec.structs.replace(self.position, offset=offset)

    def _advance(self, frame: Frame, offset: int) -> None:
        self.lost_frames += max(frame.number - self.position.number, 0)
        self.lost_rows += max(frame.rows_before - self.position.rows, 0)
        rows = frame.rows_before + frame.rows
        self.position = Position(self.position.ring, offset, frame.number + 1, rows)


def _checksum(numbers: bytes, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(numbers))


def _elements(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        yield data[at + 4 : at + 4 + size]
        at += 4 + size


def _padded(payload_bytes: int) -> int:
    return (_FRAME.size + payload_bytes + 7) // 8 * 8


def _get(ring: mmap.mmap, at: int) -> int:
    return int.from_bytes(ring[at : at + 8], "little")


def _put(ring: mmap.mmap, at: int, value: int) -> None:
    ring[at : at + 8] = value.to_bytes(8, "little")


def _wraps(ring: mmap.mmap, offset: int, capacity: int) -> bool:
    place = offset % capacity
    return capacity - place < _FRAME.size or ring[_PAGE + place : _PAGE + place + 4] == b"\xff\xff\xff\xff"


def _size_at(ring: mmap.mmap, offset: int, capacity: int) -> int:
    """Bytes from `offset` to the next frame."""
    place = offset % capacity
    if _wraps(ring, offset, capacity):
        return capacity - place
    return _padded(int.from_bytes(ring[_PAGE + place : _PAGE + place + 4], "little"))


def _frame_at(ring: mmap.mmap, offset: int, capacity: int) -> Frame | None:
    """The frame at `offset`, None when it is not whole."""
    at = _PAGE + offset % capacity
    size, checksum, number, rows_before, rows = _FRAME.unpack_from(ring, at)
    if _padded(size) > capacity // _LARGEST:
        return None
    payload = ring[at + _FRAME.size : at + _FRAME.size + size]
    whole = _checksum(_NUMBERS.pack(number, rows_before, rows), payload) == checksum
    return Frame(number, rows_before, rows, payload) if whole else None


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
