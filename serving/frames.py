"""The wire format of the direct channel: length-prefixed frames that carry raw tensors.

A frame is a fixed header, a small msgpack part (`meta`) and raw little-endian tensors (`body`). Rows are the
outermost dimension, so the tensors of several requests are joined by joining their bytes. No pickle anywhere.
"""

import struct
from collections.abc import Sequence
from enum import IntEnum
from math import prod
from typing import Any, TypeVar

import msgspec
import numpy as np

from serving.errors import ChannelError
from serving.protocol import DATATYPES, Array, TensorSpec

VERSION = 2
MAX_META_BYTES, MAX_BODY_BYTES = 2**20, 2**31
# magic, protocol version, kind, priority, references, id, deadline (µs left when sent, 0: none), bytes of meta, of body
_HEAD = struct.Struct("<2sBBBxHQQI4xQ")
_MAGIC = b"GW"
_SMALL = 1 << 14
_ALIGN_BYTES = 64
_OBJECTS = DATATYPES["BYTES"]
_TIMING = struct.Struct("<QQQ")  # at the start of a RESULT's meta: queue µs, inference µs, rows waiting
_RESULT = struct.Struct(_HEAD.format + _TIMING.format[1:])  # both at once

T = TypeVar("T")


class Kind(IntEnum):
    HELLO = 1  # both ways, once: protocol versions offered; then who the replica is
    INFER = 2
    RESULT = 3
    ERROR = 4
    CANCEL = 5
    GOAWAY = 6  # the replica drains: it finishes what it has and takes nothing new
    PING = 7
    PONG = 8


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One message. `references`: the segments of a body of which a part lies in shared memory; 0: all is here."""

    kind: int
    priority: int
    references: int
    id: int
    deadline_us: int
    meta: bytes
    body: memoryview


def head(
    kind: Kind,
    id: int = 0,
    meta: int = 0,
    body: int = 0,
    priority: int = 0,
    deadline_us: int = 0,
    references: int = 0,
) -> bytes:
    return _HEAD.pack(_MAGIC, VERSION, kind, priority, references, id, deadline_us, meta, body)


def document(kind: Kind, value: Any, id: int = 0) -> bytes:
    """A frame that is nothing but a msgpack document."""
    meta = msgspec.msgpack.encode(value)
    return head(kind, id, len(meta)) + meta


class Splitter:
    """Frames out of a stream that is written into `space()`; a large frame is written where it stays.

    >>> splitter, data = Splitter(), head(Kind.PING, 7) + head(Kind.PING, 8)
    >>> splitter.space()[: len(data)] = data
    >>> [frame.id for frame in splitter.received(len(data))]
    [7, 8]
    """

    def __init__(self) -> None:
        self._small = memoryview(bytearray(_SMALL))
        self._large: memoryview | None = None  # a frame that is larger than that
        self._have = 0  # bytes of the frame that is not whole yet

    def space(self) -> memoryview:
        """Where the stream goes on; never empty."""
        return (self._small if self._large is None else self._large)[self._have :]

    def received(self, size: int) -> list[Frame]:
        """What is whole with these further bytes. Raises ChannelError on bytes that are not this protocol."""
        have = self._have + size
        if self._large is None:
            return self._split(bytes(self._small[:have]))
        self._have = have
        if have < len(self._large):
            return []
        data, self._large = self._large.toreadonly(), None
        return self._split(data)

    def _split(self, data: bytes | memoryview) -> list[Frame]:
        frames, at, view = [], 0, memoryview(data)
        while len(data) - at >= _HEAD.size:
            magic, version, kind, priority, references, id, deadline_us, meta, body = _HEAD.unpack_from(data, at)
            if magic != _MAGIC or version != VERSION or meta > MAX_META_BYTES or body > MAX_BODY_BYTES:
                raise ChannelError(f"not a frame of protocol {VERSION}: {bytes(data[at : at + 5])!r}")
            tensors = at + _HEAD.size + meta
            if tensors + body > len(data):
                if tensors + body - at > _SMALL:
                    self._large = aligned(tensors + body - at, _HEAD.size + meta)
                break
            words, part = bytes(data[at + _HEAD.size : tensors]), view[tensors : tensors + body]
            frames.append(Frame(kind, priority, references, id, deadline_us, words, part))
            at = tensors + body
        self._have = len(data) - at
        if self._have:
            (self._small if self._large is None else self._large)[: self._have] = view[at:]
        return frames


def aligned(size: int, at: int) -> memoryview:
    """Memory for `size` bytes, of which number `at` is aligned as tensors like it; not touched."""
    memory = np.empty(size + _ALIGN_BYTES, np.uint8)
    skip = -(memory.__array_interface__["data"][0] + at) % _ALIGN_BYTES
    return memory[skip : skip + size].data


Tensors = tuple[tuple[str, str, tuple[int, ...], int], ...]  # name, datatype, shape and bytes of each


class Layout:
    """What a frame says of its tensors, checked and made ready once for all frames that say the same.

    `key` is equal for frames whose rows may be joined. Raises ChannelError when shapes and bytes do not fit.
    """

    __slots__ = ("key", "parts", "rows", "size_bytes")

    def __init__(self, tensors: Tensors) -> None:
        self.rows = tensors[0][2][0] if tensors and tensors[0][2] else 1
        self.key = tuple((datatype, shape[1:]) for _, datatype, shape, _ in tensors)
        self.parts: list[tuple[np.dtype[Any], tuple[int, ...], int, int]] = []  # datatype, shape, first byte, bytes
        self.size_bytes = 0
        for _, datatype, shape, size in tensors:
            dtype = DATATYPES.get(datatype)
            if dtype is None or min(shape, default=0) < 0 or size < 0:
                raise ChannelError(f"a frame's layout has a tensor of {datatype!r}, shape {list(shape)}, {size} bytes")
            if dtype is not _OBJECTS and prod(shape) * dtype.itemsize != size:
                raise ChannelError(f"a frame's layout gives {size} bytes to {datatype} of shape {list(shape)}")
            self.parts.append((dtype, shape, self.size_bytes, size))
            self.size_bytes += size


class Layouts:
    """Layouts by their bytes and back, remembered: the few shapes of a model come again and again."""

    def __init__(self, bound: int = 1024) -> None:
        self._bound = bound
        self._encoded: dict[Any, bytes] = {}
        self._decoded: dict[bytes, Layout] = {}

    def encode(self, specs: Sequence[TensorSpec], shapes: tuple[tuple[int, ...], ...], sizes: tuple[int, ...]) -> bytes:
        key = (shapes, sizes)
        if (known := self._encoded.get(key)) is None:
            tensors = tuple((s.name, s.datatype, shape, n) for s, shape, n in zip(specs, shapes, sizes, strict=True))
            known = msgspec.msgpack.encode([tensors])
            _remember(self._encoded, key, known, self._bound)
        return known

    def decode(self, meta: bytes) -> Layout:
        if (known := self._decoded.get(meta)) is None:
            (tensors,) = read(meta, tuple[Tensors])
            known = Layout(tensors)
            _remember(self._decoded, meta, known, self._bound)
        return known


def _remember(memory: dict[Any, Any], key: Any, value: Any, bound: int) -> None:
    if len(memory) >= bound:
        memory.clear()
    memory[key] = value


def read(meta: bytes, kind: type[T]) -> T:
    """The msgpack document of a frame. Raises ChannelError."""
    try:
        return msgspec.msgpack.decode(meta, type=kind)
    except msgspec.DecodeError as error:
        raise ChannelError(f"a frame's meta cannot be read: {error}") from None


def to_bytes(datatype: str, array: Array) -> memoryview | bytes:
    """The wire's bytes of a tensor; of a large one a view of its own, where they are the same."""
    if datatype != "BYTES":
        if array.nbytes < _SMALL:
            return array.tobytes()  # a copy costs less than a view
        return (array if array.flags.c_contiguous else np.ascontiguousarray(array)).data.cast("B")
    return b"".join(len(element).to_bytes(4, "little") + element for element in array.ravel())


Packed = tuple[list[memoryview | bytes], tuple[int, ...], tuple[tuple[int, ...], ...]]  # buffers, sizes, shapes


def alone(specs: Sequence[TensorSpec], inputs: Sequence[Array]) -> Packed:
    """The tensors of one request."""
    buffers = [to_bytes(spec.datatype, array) for spec, array in zip(specs, inputs, strict=True)]
    return buffers, tuple([len(buffer) for buffer in buffers]), tuple([array.shape for array in inputs])


def joined(specs: Sequence[TensorSpec], requests: Sequence[Sequence[Array]], rows: int) -> Packed:
    """Rows of several requests, joined by joining their bytes; the shapes are those of all `rows` together."""
    buffers: list[memoryview | bytes] = []
    sizes: list[int] = []
    for i, spec in enumerate(specs):
        own = [to_bytes(spec.datatype, inputs[i]) for inputs in requests]
        buffers += own
        sizes.append(sum(map(len, own)))
    return buffers, tuple(sizes), tuple([(rows, *array.shape[1:]) for array in requests[0]])


def from_bytes(layout: Layout, body: memoryview) -> list[Array]:
    """Arrays over the frame's own bytes (read-only, not copied); BYTES as object arrays of `bytes`.

    Raises ChannelError when the body is not what the layout says.
    """
    if len(body) != layout.size_bytes:
        raise ChannelError(f"a frame has {len(body)} bytes of tensors, its layout {layout.size_bytes}")
    try:
        return [
            np.ndarray(shape, dtype, body, at) if dtype is not _OBJECTS else _texts(shape, body[at : at + size])
            for dtype, shape, at, size in layout.parts
        ]
    except (OverflowError, ValueError) as error:
        raise ChannelError(f"a frame's tensors do not fit its layout: {error}") from None


def tensor(dtype: np.dtype[Any], shape: tuple[int, ...], data: memoryview) -> Array:
    """One array over `data`, read-only where that is; a first dimension of -1 is what there is. Raises ChannelError."""
    try:
        return _texts(shape, data) if dtype is _OBJECTS else np.frombuffer(data, dtype).reshape(shape)
    except (OverflowError, ValueError) as error:
        raise ChannelError(f"{len(data)} bytes do not fit a tensor of shape {list(shape)}: {error}") from None


def _texts(shape: tuple[int, ...], data: memoryview) -> Array:
    elements, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        elements.append(bytes(data[at + 4 : at + 4 + size]))
        at += 4 + size
    array = np.empty(len(elements), object)
    array[:] = elements
    return array.reshape(shape)


def result(id: int, layout: bytes, body: int, queue_s: float, infer_s: float, waiting_rows: int) -> bytes:
    """A RESULT frame up to its `body` bytes of tensors."""
    meta = _TIMING.size + len(layout)
    return _RESULT.pack(
        _MAGIC, VERSION, Kind.RESULT, 0, 0, id, 0, meta, body, int(queue_s * 1e6), int(infer_s * 1e6), waiting_rows
    ) + layout  # fmt: skip


def unpack_timing(meta: bytes) -> tuple[float, float, int, bytes]:
    """Queue seconds, inference seconds, rows waiting at the replica, and the layout's bytes."""
    if len(meta) < _TIMING.size:
        raise ChannelError(f"a result's meta has {len(meta)} bytes, expected {_TIMING.size} or more")
    queue_us, infer_us, waiting = _TIMING.unpack_from(meta)
    return queue_us / 1e6, infer_us / 1e6, waiting, meta[_TIMING.size :]
