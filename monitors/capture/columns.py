"""Captured rows as Arrow: the schema of an excerpt, and the rows of records in it.

Times are UTC without a zone, to the microsecond. FP16 and BF16 are float32, which holds each of their values; a value
with dimensions is a list, of lists where it has several. A failed request has no inputs and no outputs; a column that
a row is too narrow to have is null.
"""

from math import prod
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from monitors.bundle import Bundle
from monitors.features import column
from monitors.labels import share
from serving.packed import Cut, Layout, texts
from serving.protocol import Array

TIME = pa.timestamp("us")
TYPES: dict[str, Any] = {
    "BOOL": pa.bool_(), "BYTES": pa.binary(), "UINT8": pa.uint8(), "UINT16": pa.uint16(), "UINT32": pa.uint32(),
    "UINT64": pa.uint64(), "INT8": pa.int8(), "INT16": pa.int16(), "INT32": pa.int32(), "INT64": pa.int64(),
    "FP16": pa.float32(), "BF16": pa.float32(), "FP32": pa.float32(), "FP64": pa.float64(),
}  # fmt: skip
FACTS = [
    pa.field("request_id", pa.string(), False), pa.field("row", pa.uint32(), False), pa.field("event_time", TIME),
    pa.field("arrival_time", TIME), pa.field("status", pa.uint16(), False), pa.field("role", pa.string(), False),
    pa.field("propensity", pa.float64(), False), pa.field("sampling", pa.float64(), False),
    pa.field("key_hash", pa.uint64()),
]  # fmt: skip
_LATEST_S = 2.0**38  # a time beyond is none


def schema(layout: Layout) -> Any:
    """Of the rows of such records; the columns `inputs` and `outputs` are there when they have a column."""
    assert layout.excerpt is not None
    fields = list(FACTS)
    for name, output in (("inputs", False), ("outputs", True)):
        if cuts := [cut for cut in layout.excerpt.cuts if cut.output == output]:
            fields.append(pa.field(name, pa.struct([pa.field(cut.name, _type(cut, layout)) for cut in cuts])))
    about = {"model": layout.model, "version": layout.version, "digest": layout.digest}
    return pa.schema(fields, about)


def rows(bundle: Bundle, to: Any) -> Any:
    """The sampled rows of records as a batch of schema `to`, which is that of their layout."""
    excerpt, role = bundle.layout.excerpt, bundle.layout.role
    assert excerpt is not None
    kept = np.flatnonzero(_sampled(bundle, excerpt.sample)[bundle.request])
    of, keys = bundle.request[kept], bundle.requests["key"]
    table = bundle.requests[of]
    columns = [
        _ids(bundle).take(pa.array(of)),
        pa.array(bundle.row[kept], pa.uint32()),
        _times(table["event_time"]),
        _times(table["arrival_time"]),
        pa.array(np.ascontiguousarray(table["status"])),
        pa.array([role] * len(kept), pa.string()),
        pa.array(np.ascontiguousarray(table["propensity"])),
        pa.array(np.full(len(kept), excerpt.sample)),
        pa.array(keys[of], mask=keys[of] == 0),
    ]
    for name, output in (("inputs", False), ("outputs", True)):
        cuts = [cut for cut in excerpt.cuts if cut.output == output]
        if cuts and bundle.layout.tensors:
            values = [_column(bundle, cut, kept) for cut in cuts]
            columns.append(pa.StructArray.from_arrays(values, fields=list(to.field(name).type)))
        elif cuts:
            columns.append(pa.nulls(len(kept), to.field(name).type))
    return pa.RecordBatch.from_arrays(columns, schema=to)


def text(id: str) -> str:
    """An id as it is captured: what is no text becomes a question mark."""
    return id.encode(errors="replace").decode()


def _sampled(bundle: Bundle, sample: float) -> NDArray[np.bool_]:
    """Which requests are kept, shape (requests,)."""
    n, model = len(bundle.requests), bundle.layout.model
    if sample >= 1:
        return np.ones(n, bool)
    ids = texts(bundle.ids, bundle.requests["id_bytes"].tolist())
    return np.fromiter((share(model, id) < sample for id in ids), bool, n)


def _ids(bundle: Bundle) -> Any:
    """Of the requests; as their bytes where these are text."""
    sizes = bundle.requests["id_bytes"]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    ids = pa.Array.from_buffers(pa.string(), len(sizes), [None, pa.py_buffer(offsets), pa.py_buffer(bundle.ids)])
    try:
        ids.validate(full=True)
    except pa.ArrowInvalid:
        return pa.array([text(id) for id in texts(bundle.ids, sizes.tolist())], pa.string())
    return ids


def _type(cut: Cut, layout: Layout) -> Any:
    found, rank = TYPES[cut.datatype], cut.rank
    if layout.tensors and cut.column is None and not _absent(cut, layout):
        rank = len(layout.tensors[cut.tensor].shape)  # what is declared may be wrong
    for _ in range(rank):
        found = pa.list_(found)
    return found


def _absent(cut: Cut, layout: Layout) -> bool:
    """Whether rows of a model whose input may have any width are too narrow for this column."""
    width = prod(layout.tensors[cut.tensor].shape)
    return not width and not cut.rank if cut.column is None else cut.column >= width


def _column(bundle: Bundle, cut: Cut, kept: NDArray[np.int64]) -> Any:
    """Of the rows `kept`."""
    if _absent(cut, bundle.layout):
        return pa.nulls(len(kept), TYPES[cut.datatype])
    array = bundle.tensor(cut.tensor)
    return _values((array if cut.column is None else column(array, cut.column))[kept], cut.datatype)


def _values(array: Array, datatype: str) -> Any:
    flat = array.ravel()
    if flat.dtype.kind in "OS":
        found = pa.array(flat.tolist(), TYPES[datatype])
    else:
        found = pa.array(flat.astype(np.float32) if datatype == "FP16" else flat, TYPES[datatype])
    for axis in range(array.ndim - 1, 0, -1):
        lists = int(np.prod(array.shape[:axis]))
        offsets = np.arange(lists + 1, dtype=np.int32) * np.int32(array.shape[axis])
        found = pa.ListArray.from_arrays(pa.array(offsets), found)
    return found


def _times(seconds: NDArray[np.float64]) -> Any:
    known = np.abs(seconds) < _LATEST_S  # false for NaN
    micros = np.round(np.where(known, seconds, 0.0) * 1e6).astype(np.int64)
    return pa.array(micros.view("datetime64[us]"), TIME, mask=~known)
