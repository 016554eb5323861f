"""Records of one layout, joined: their requests, ids and tensors each in one piece.

Bytes are joined before they become arrays, so that a record of one row costs little.
"""

from collections.abc import Sequence
from functools import cached_property
from math import prod

import numpy as np
from numpy.typing import NDArray

from serving.packed import REQUEST, Layout, Packed, Tensor
from serving.protocol import Array
from serving.record import Column

Requests = NDArray[np.void]  # rows of `REQUEST`

SHORT = 64  # bytes of a text
_WORD = 8  # bytes
_UP_TO = np.array([2 ** (8 * k) - 1 for k in range(_WORD + 1)], np.uint64)  # the first k bytes of a word


class Bundle:
    """`records` of one layout, of which `requests` is the joined table."""

    def __init__(self, layout: Layout, records: Sequence[Packed], requests: Requests) -> None:
        self.layout, self.requests, self._records = layout, requests, records
        self.counts: NDArray[np.int64] = requests["rows"].astype(np.int64)
        self.rows = int(self.counts.sum())
        self._single = bool((self.counts == 1).all())

    @cached_property
    def ids(self) -> bytes:
        return b"".join([record.ids for record in self._records])

    @cached_property
    def inputs(self) -> dict[str, Array]:
        """By name; rows come one record after the other. A failed batch has none."""
        return {tensor.name: self.tensor(i) for i, tensor in enumerate(self.layout.inputs)}

    @cached_property
    def outputs(self) -> dict[str, Array]:
        first = len(self.layout.inputs)
        return {tensor.name: self.tensor(first + i) for i, tensor in enumerate(self.layout.outputs)}

    @cached_property
    def request(self) -> NDArray[np.int64]:
        """Of each row the place of its request, shape (rows,)."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @cached_property
    def row(self) -> NDArray[np.int64]:
        """Of each row its number in its request, shape (rows,)."""
        before = np.cumsum(self.counts) - self.counts
        first = self.requests["first_row"].astype(np.int64) - before
        return self.spread(first) + np.arange(self.rows)

    def spread(self, facts: Array) -> Array:
        """Facts of requests, shape (requests,), as facts of rows."""
        return facts if self._single else facts[self.request]

    @cached_property
    def _columns(self) -> list[bytes]:
        """The bytes of each tensor, joined."""
        sizes, records = self.layout.sizes, self._records
        if self.layout.row_bytes < 0 or self.rows != len(records) or any([record.rows != 1 for record in records]):
            columns = zip(*[record.columns for record in records], strict=True)
            return [_joined(tensor, parts, records) for tensor, parts in zip(self.layout.tensors, columns, strict=True)]
        bodies = np.frombuffer(b"".join([record.body for record in records]), np.uint8).reshape(len(records), -1)
        ends = np.cumsum(sizes).tolist()
        return [bodies[:, end - size : end].tobytes() for size, end in zip(sizes, ends, strict=True)]

    def tensor(self, number: int) -> Array:
        """Number `number` of `Layout.tensors`, rows along axis 0."""
        tensor = self.layout.tensors[number]
        return numbers(Column(tensor.datatype, (self.rows, *tensor.shape), self._columns[number]))


def join(records: Sequence[Packed]) -> Requests:
    """The requests of records, in their order."""
    return np.frombuffer(b"".join([record.table for record in records]), REQUEST)


def bundles(records: Sequence[Packed], requests: Requests) -> list[tuple[Bundle, NDArray[np.bool_]]]:
    """Records by layout, and which of `requests`, the table of all, are theirs."""
    layouts = {id(record.layout): record.layout for record in records}
    if len(layouts) == 1:
        return [(Bundle(records[0].layout, records, requests), np.ones(len(requests), bool))]
    of, sizes = np.array([id(record.layout) for record in records]), [record.requests for record in records]
    found = []
    for number, layout in layouts.items():
        which = np.repeat(of == number, sizes)
        same = [record for record in records if record.layout is layout]
        found.append((Bundle(layout, same, requests[which]), which))
    return found


def numbers(tensor: Column) -> Array:
    """The tensor as an array: BF16, which numpy lacks, as the float32 that it is the upper half of; BYTES as bytes of
    fixed width where all are short, which makes an object of none, else as objects.
    """
    if tensor.datatype == "BYTES" and (found := _short(tensor)) is not None:
        return found
    array = tensor.array()
    if tensor.datatype != "BF16":
        return array
    return (array.astype(np.uint32) << 16).view(np.float32)


def _joined(tensor: Tensor, parts: Sequence[bytes], records: Sequence[Packed]) -> bytes:
    """A column of several records; of BYTES the sizes of all elements come first."""
    if tensor.row_bytes >= 0:
        return b"".join(parts)
    sizes = [4 * record.rows * prod(tensor.shape) for record in records]
    heads, tails = zip(*[(part[:size], part[size:]) for part, size in zip(parts, sizes, strict=True)], strict=True)
    return b"".join([*heads, *tails])


def _short(column: Column) -> Array | None:
    """Texts as words of eight bytes, filled up with zeros. None where one is longer, or ends with a zero itself."""
    n = prod(column.shape)
    sizes = np.frombuffer(column.data, "<u4", n).astype(np.int64)
    data = np.frombuffer(column.data + bytes(_WORD), np.uint8)
    ends = 4 * n + np.cumsum(sizes)
    if sizes.max(initial=0) > SHORT or not data[ends[sizes > 0] - 1].all():
        return None
    at_any = np.ndarray((len(data) - _WORD + 1,), "<u8", data, strides=(1,))  # the word that begins at each byte
    words = np.empty((n, max(1, -(-int(sizes.max(initial=0)) // _WORD))), "<u8")
    starts = ends - sizes
    for k in range(words.shape[1]):
        left = np.minimum(np.maximum(sizes - _WORD * k, 0), _WORD)
        words[:, k] = at_any[np.minimum(starts + _WORD * k, len(at_any) - 1)] & _UP_TO[left]
    return words.view(f"S{words.shape[1] * _WORD}").reshape(column.shape)
