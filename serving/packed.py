"""The bytes of Record v2: one batch of one version, made and taken apart with little work for each request.

A frame is a head, the layout (what all batches of one kind have in common, so it is encoded once and recognised by
its bytes), a row of `REQUEST` a request, the ids, the columns one after the other, and what few batches have.
"""

import struct
from collections.abc import Iterator, Sequence
from functools import cached_property
from math import prod
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from serving.errors import GaugewayError
from serving.protocol import DATATYPES, Array

Role = Literal["primary", "shadow"]
# key hash, event time, arrival time, propensity, seconds in the queue, first row, rows, status, code of the reason
Request = tuple[int, float, float, float, float, int, int, int, int]

VERSION = 2
# version, bytes of the layout, requests, rows, bytes of the ids, of the rest, infer_s, sampling
_HEAD = struct.Struct("<B3xIIIIIdd")
_REQUEST = struct.Struct("<QddddIIHHI")
_SIZE = struct.Struct("<I")
_MAX_LAYOUTS = 256  # known at once; shapes of a model with free dimensions make many

REQUEST = np.dtype(
    [
        ("key", "<u8"), ("event_time", "<f8"), ("arrival_time", "<f8"), ("propensity", "<f8"), ("queue_s", "<f8"),
        ("first_row", "<u4"), ("rows", "<u4"), ("status", "<u2"), ("reason", "<u2"), ("id_bytes", "<u4"),
    ]
)  # fmt: skip


class BadRecord(GaugewayError):
    """Bytes that are no Record v2, or one that contradicts itself."""


class Tensor(msgspec.Struct, frozen=True, array_like=True):
    """A column of the batch; `shape` is that of one row. BYTES as `together` has them."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """-1 for BYTES, whose rows have no fixed size."""
        return -1 if self.datatype == "BYTES" else prod(self.shape) * DATATYPES[self.datatype].itemsize


class Cut(msgspec.Struct, frozen=True, array_like=True):
    """A column that is captured: of tensor number `tensor` the column `column` of a row, or, None, the whole row.

    `rank` is the number of a value's dimensions.
    """

    name: str
    tensor: int
    column: int | None
    datatype: str
    rank: int
    output: bool = False


class Excerpt(msgspec.Struct, frozen=True, array_like=True):
    """What of each row is captured, and of which share of the requests, by a hash of their id."""

    cuts: tuple[Cut, ...]
    sample: float


class Layout(msgspec.Struct, frozen=True, array_like=True, dict=True):
    """What the batches of one kind have in common. A failed batch has no tensors.

    `extras` are there only to be captured; without an `excerpt` nothing is.
    """

    model: str
    version: str
    digest: str
    role: Role
    reasons: tuple[str, ...]  # `REQUEST.reason` is a place in it
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    extras: tuple[Tensor, ...] = ()
    excerpt: Excerpt | None = None

    @cached_property
    def identity(self) -> tuple[str, str, str]:
        return self.model, self.version, self.digest

    @cached_property
    def tensors(self) -> tuple[Tensor, ...]:
        return (*self.inputs, *self.outputs, *self.extras)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Bytes of a row, by tensor."""
        return tuple(tensor.row_bytes for tensor in self.tensors)

    @cached_property
    def row_bytes(self) -> int:
        """Of all tensors; -1 where there is a tensor whose rows have no fixed size."""
        return -1 if -1 in self.sizes else sum(self.sizes)


class Packed(msgspec.Struct, frozen=True, gc=False):
    """A record as it was written: `table` has a row of `REQUEST` a request, `body` the bytes of all tensors."""

    layout: Layout
    requests: int
    rows: int
    infer_s: float
    sampling: float
    table: bytes
    ids: bytes
    body: bytes
    rest: bytes

    @property
    def columns(self) -> list[bytes]:
        """The bytes of each tensor."""
        return [self.body[start:end] for start, end in _spans(self.layout, self.rows, self.body)]


class Encoder:
    """Encodes the batches of one version. `inputs`, `outputs` and `extras` are pairs of name and datatype."""

    def __init__(
        self,
        model: str,
        version: str,
        digest: str,
        role: Role = "primary",
        inputs: Sequence[tuple[str, str]] = (),
        outputs: Sequence[tuple[str, str]] = (),
        extras: Sequence[tuple[str, str]] = (),
        excerpt: Excerpt | None = None,
    ) -> None:
        self._of: tuple[str, str, str, Role] = (model, version, digest, role)
        self._parts, self._excerpt = (tuple(inputs), tuple(outputs), tuple(extras)), excerpt
        free = [datatype == "BYTES" for _, datatype in (*inputs, *outputs, *extras)]
        self._free = free if any(free) else []
        self.codes = _Codes()  # of reasons
        self._layouts: dict[tuple[int, tuple[tuple[int, ...], ...]], bytes] = {}  # by number of codes and shapes

    def encode(
        self,
        requests: Sequence[Request],
        ids: Sequence[str],
        rows: int,
        columns: Sequence[Sequence[Array]] = (),
        infer_s: float = 0.0,
        sampling: float = 1.0,
        rest: bytes = b"",
    ) -> bytes:
        """The record of a batch. The code of a reason is `codes[reason]`. `columns` holds of each input, then of
        each output and each extra, arrays to be joined into `rows` rows; it is empty for a batch that failed."""
        pack = _REQUEST.pack
        try:
            texts = [id.encode() for id in ids]
        except UnicodeEncodeError:
            texts = [id.encode(errors="surrogatepass") for id in ids]
        table = [pack(*request, len(text)) for request, text in zip(requests, texts, strict=True)]
        shapes = tuple([arrays[0].shape[1:] for arrays in columns])
        layout = self._layouts.get((len(self.codes), shapes)) or self._layout(shapes)
        joined = b"".join(texts)
        head = _HEAD.pack(VERSION, len(layout), len(table), rows, len(joined), len(rest), infer_s, sampling)
        parts = [head, layout, *table, joined]
        if self._free:
            parts += [data for arrays, free in zip(columns, self._free, strict=False) for data in _data(arrays, free)]
        else:
            parts += [array.tobytes() for arrays in columns for array in arrays]
        parts.append(rest)
        return b"".join(parts)

    def _layout(self, shapes: tuple[tuple[int, ...], ...]) -> bytes:
        left = iter(shapes)
        inputs, outputs, extras = (
            tuple(Tensor(*name, next(left)) for name in part) if shapes else () for part in self._parts
        )
        if len(self._layouts) >= _MAX_LAYOUTS:
            self._layouts.clear()
        layout = Layout(*self._of, tuple(self.codes), inputs, outputs, extras, self._excerpt)
        found = self._layouts[len(self.codes), shapes] = msgspec.msgpack.encode(layout)
        return found


class _Codes(dict[str, int]):
    """A number for each text, given when it is first asked for."""

    def __missing__(self, text: str) -> int:
        code = self[text] = len(self)
        return code


class Unpacker:
    """Takes records apart; layouts that were met are known by their bytes."""

    def __init__(self) -> None:
        self._layouts: dict[bytes, Layout] = {}

    def __call__(self, data: bytes) -> Packed:
        """Raises BadRecord."""
        try:
            version, size, requests, rows, id_bytes, rest, infer_s, sampling = _HEAD.unpack_from(data)
            if version != VERSION:
                raise BadRecord(f"it has version {version}, expected {VERSION}")
            table = _HEAD.size + size
            ids = table + requests * _REQUEST.size
            body = ids + id_bytes
            end = len(data) - rest
            layout = self._layouts.get(data[_HEAD.size : table]) or self._learn(data[_HEAD.size : table])
            found = Packed(
                layout, requests, rows, infer_s, sampling, data[table:ids], data[ids:body], data[body:end], data[end:]
            )
            expected = rows * layout.row_bytes
            if layout.row_bytes < 0:
                expected = _measured(layout, rows, found.body)
        except (struct.error, msgspec.DecodeError, UnicodeDecodeError, KeyError) as error:
            raise BadRecord(f"it cannot be read: {error}") from None
        if end - body != expected or not requests:
            raise BadRecord(f"it has {requests} requests and {end - body} bytes of tensors, expected {expected}")
        return found

    def _learn(self, data: bytes) -> Layout:
        layout = _decoder.decode(data)
        if any(dimension < 0 for tensor in layout.tensors for dimension in tensor.shape):
            raise BadRecord(f"a tensor has a negative shape: {layout.tensors}")
        if len(self._layouts) >= _MAX_LAYOUTS:
            self._layouts.clear()
        self._layouts[data] = layout
        return layout


_decoder = msgspec.msgpack.Decoder(Layout)


def _spans(layout: Layout, rows: int, body: bytes) -> Iterator[tuple[int, int]]:
    """Where each tensor begins and ends, by what the bytes say. Raises struct.error."""
    at = 0
    for row_bytes in layout.sizes:
        end = at + rows * row_bytes
        if row_bytes < 0:
            at += _SIZE.size
            end = at + _SIZE.unpack_from(body, at - _SIZE.size)[0]
        yield at, end
        at = end


def _measured(layout: Layout, rows: int, body: bytes) -> int:
    """Bytes of all tensors. Raises BadRecord where those of texts contradict themselves."""
    end = 0
    for tensor, (at, end) in zip(layout.tensors, _spans(layout, rows, body), strict=True):
        size, n = end - at, rows * prod(tensor.shape)
        if tensor.row_bytes < 0 and (size < 4 * n or end > len(body) or size != 4 * n + _sizes(body, n, at).sum()):
            raise BadRecord(f"tensor {tensor.name!r} has {size} bytes, which are not those of {n} elements")
    return end


def _data(arrays: Sequence[Array], free: bool) -> list[bytes]:
    """Of a tensor; for BYTES behind the size of it all."""
    if not free:
        return [array.tobytes() for array in arrays]
    data = together([element for array in arrays for element in array.ravel().tolist()])
    return [_SIZE.pack(len(data)), data]


def together(elements: Sequence[bytes]) -> bytes:
    """The sizes of all elements, 4 bytes each, and then the elements.

    >>> apart(together([b"a", b"", b"bc"]), 3)
    [b'a', b'', b'bc']
    """
    return b"".join([np.fromiter(map(len, elements), "<u4", len(elements)).tobytes(), *elements])


def apart(data: bytes, n: int) -> list[bytes]:
    """The inverse of `together`, of `n` elements. Raises ValueError when `data` is too short for that."""
    ends = (4 * n + np.cumsum(_sizes(data, n), dtype=np.int64)).tolist()
    return [data[start:end] for start, end in zip([4 * n, *ends], ends, strict=False)]


def _sizes(data: bytes, n: int, at: int = 0) -> NDArray[np.uint32]:
    return np.frombuffer(data, "<u4", n, at)


def texts(data: bytes, sizes: Sequence[int]) -> Iterator[str]:
    """Ids one after the other, `sizes` bytes each."""
    at = 0
    for size in sizes:
        yield data[at : at + size].decode(errors="surrogatepass")
        at += size
