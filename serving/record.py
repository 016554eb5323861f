"""Record v1, the contract between the gateway and the monitors, and the ring it is written to.

A ring is one memory-mapped file with one writer (a gateway worker) and any readers (the sidecar). The writer
never waits: it overwrites the oldest frames. Frames are numbered and carry the rows written before them, so a
gap in the numbers is the exact count of what a reader lost. A frame becomes visible by a single store of `head`,
so a writer killed at any point leaves a readable ring, which its successor continues.
"""

import mmap
import os
import secrets
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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
    request may be split over records). Times are seconds since 1970 UTC, stages seconds. Propensity is the
    probability with which routing chose this version for the request's key. A failed batch has no columns.
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
_CAPACITY, _HEAD, _TAIL, _UID = 8, 16, 24, 32
_FRAME = struct.Struct("<IIQQQ")  # payload bytes, checksum, number, rows before it, rows in it
_WRAP = 0xFFFFFFFF  # as payload bytes: the rest up to the end of the ring is unused


class RingError(GaugewayError):
    """The file is not a ring, or not one of this format."""


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
    """Appends frames; opens and continues an existing ring. Not thread-safe: one writer, one thread."""

    def __init__(self, path: Path, capacity_bytes: int) -> None:
        self._capacity = capacity_bytes // 8 * 8
        self._map = _open(path, self._capacity)
        self._capacity = _get(self._map, _CAPACITY)
        self._head, self._tail = _get(self._map, _HEAD), _get(self._map, _TAIL)
        self.number, self.rows = self._continue()

    def append(self, payload: bytes, rows: int) -> bool:
        """Write one frame; False (and a gap in the numbers) when it is too large for this ring."""
        number, rows_before = self.number, self.rows
        self.number, self.rows = number + 1, rows_before + rows
        size = _padded(len(payload))
        if size > self._capacity // 4:
            return False
        place = self._head % self._capacity
        if place + size > self._capacity:
            place = self._skip_to_start(place)
        self._free(self._head + size)
        self._map[_PAGE + place : _PAGE + place + _FRAME.size + len(payload)] = (
            _FRAME.pack(len(payload), _checksum(payload, number), number, rows_before, rows) + payload
        )
        self._head += size
        _put(self._map, _HEAD, self._head)
        return True

    def close(self) -> None:
        self._map.close()

    def _skip_to_start(self, place: int) -> int:
        self._free(self._head + self._capacity - place)
        if self._capacity - place >= 4:
            self._map[_PAGE + place : _PAGE + place + 4] = _WRAP.to_bytes(4, "little")
        self._head += self._capacity - place
        return 0

    def _free(self, until: int) -> None:
        """Advance tail, before anything is overwritten, past every frame that `until` would reach."""
        moved = self._tail
        while until - moved > self._capacity:
            moved += _size_at(self._map, moved, self._capacity)
        if moved != self._tail:
            self._tail = moved
            _put(self._map, _TAIL, moved)

    def _continue(self) -> tuple[int, int]:
        """Number and rows of the next frame, from the frames that are visible."""
        number = rows = 0
        for frame in _walk(self._map, self._tail, self._head, self._capacity):
            number, rows = frame.number + 1, frame.rows_before + frame.rows
        return number, rows


class RingReader:
    """Reads frames in order. `lost_frames` and `lost_rows` count what was overwritten unread."""

    def __init__(self, path: Path, position: Position | None = None) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            self._map = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
        finally:
            os.close(descriptor)
        _check(self._map, path)
        self._capacity = _get(self._map, _CAPACITY)
        uid = self._map[_UID : _UID + 16].hex()
        known = position is not None and position.ring == uid
        self.position = position if known and position else Position(uid)
        self.lost_frames = self.lost_rows = 0

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
        while (offset := max(self.position.offset, _get(self._map, _TAIL))) < _get(self._map, _HEAD):
            size = _size_at(self._map, offset, self._capacity)
            frame = _frame_at(self._map, offset, self._capacity)
            if _get(self._map, _TAIL) > offset:
                continue  # overwritten while it was read
            if frame is not None:
                self._advance(frame, offset + size)
                return frame
            if not _wraps(self._map, offset, self._capacity):
                return None  # stores became visible out of order: the frame is there at the next look
            self.position = msgspec.structs.replace(self.position, offset=offset + size)
        return None

    def _advance(self, frame: Frame, offset: int) -> None:
        self.lost_frames += frame.number - self.position.number
        self.lost_rows += frame.rows_before - self.position.rows
        rows = frame.rows_before + frame.rows
        self.position = Position(self.position.ring, offset, frame.number + 1, rows)


def _checksum(payload: bytes, number: int) -> int:
    return zlib.crc32(payload, number & 0xFFFFFFFF)


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
    place = offset % capacity
    if _wraps(ring, offset, capacity):
        return None
    size, checksum, number, rows_before, rows = _FRAME.unpack_from(ring, _PAGE + place)
    start = _PAGE + place + _FRAME.size
    payload = ring[start : start + size]
    return Frame(number, rows_before, rows, payload) if _checksum(payload, number) == checksum else None


def _walk(ring: mmap.mmap, tail: int, head: int, capacity: int) -> Iterator[Frame]:
    while tail < head:
        frame = _frame_at(ring, tail, capacity)
        tail += _size_at(ring, tail, capacity)
        if frame:
            yield frame


def _check(ring: mmap.mmap, path: Path) -> None:
    if len(ring) < _PAGE or ring[:8] != _MAGIC:
        raise RingError(f"{path} is not a ring of this version: it starts with {ring[:8]!r}, expected {_MAGIC!r}")


def _open(path: Path, capacity: int) -> mmap.mmap:
    if not path.exists():
        _create(path, capacity)
    with path.open("r+b") as file:
        ring = mmap.mmap(file.fileno(), 0)
    _check(ring, path)
    return ring


def _create(path: Path, capacity: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_suffix(".new")
    with staged.open("wb") as file:
        file.write(_MAGIC + capacity.to_bytes(8, "little") + bytes(16) + secrets.token_bytes(16))
        file.truncate(_PAGE + capacity)
    staged.rename(path)
