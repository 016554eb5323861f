"""Record v2, the contract between the gateway and the monitors: one batch of one version, as a value."""

from collections.abc import Iterator
from functools import lru_cache

import msgspec
import numpy as np

from serving import packed
from serving.packed import Excerpt, Role, Tensor, Unpacker
from serving.protocol import DATATYPES, Array


class Column(msgspec.Struct, frozen=True, array_like=True):
    """A tensor of the batch: rows along axis 0, little-endian, row-major; BYTES as `packed.together` has them."""

    datatype: str
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, datatype: str, array: Array) -> "Column":
        if datatype == "BYTES":
            return cls(datatype, array.shape, packed.together(array.ravel().tolist()))
        return cls(datatype, array.shape, array.tobytes())

    def array(self) -> Array:
        """Shape `shape`; BYTES as an object array of `bytes`."""
        if self.datatype == "BYTES":
            elements = np.empty(int(np.prod(self.shape)), object)
            elements[:] = packed.apart(self.data, len(elements))
            return elements.reshape(self.shape)
        return np.frombuffer(self.data, DATATYPES[self.datatype]).reshape(self.shape)


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One batch of one version. Lists have an element per request, columns a row per row of the batch.

    Request i owns `counts[i]` consecutive rows; they are its rows `first_rows[i]`, `first_rows[i] + 1`, … (a large
    request may be split over records). Times are seconds since 1970 UTC, stages seconds; an event time of NaN was
    asked for and not given. Propensity is the probability with which routing chose this version for the request's
    key. A failed batch has no columns. `extras` are there for the capture log alone. Who handles
    many records works on their bytes: `serving.packed`.
    """

    v: int = packed.VERSION
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
    extras: dict[str, Column] = {}
    excerpt: Excerpt | None = None

    @property
    def rows(self) -> int:
        return sum(self.counts)


def encode(record: Record) -> bytes:
    """One record as it is; who writes many of one version keeps a `packed.Encoder`."""
    parts = (record.inputs, record.outputs, record.extras)
    names = (tuple((name, column.datatype) for name, column in part.items()) for part in parts)
    encoder = _encoder(record.model, record.version, record.digest, record.role, *names, record.excerpt)
    requests = zip(
        record.keys, record.event_times, record.arrival_times, record.propensities, record.queue_s,
        record.first_rows, record.counts, record.statuses, map(encoder.codes.__getitem__, record.reasons), strict=True,
    )  # fmt: skip
    columns = [[column.array()] for part in parts for column in part.values()]
    rest = msgspec.msgpack.encode((record.clients, record.segments)) if record.clients or record.segments else b""
    return encoder.encode(list(requests), record.ids, record.rows, columns, record.infer_s, record.sampling, rest)


_encoder = lru_cache(64)(packed.Encoder)


def decode(data: bytes) -> Record:
    """Raises packed.BadRecord."""
    found = Unpacker()(data)
    layout, table = found.layout, np.frombuffer(found.table, packed.REQUEST)
    rest = msgspec.msgpack.decode(found.rest, type=tuple[list[str], dict[str, list[str]]]) if found.rest else ([], {})
    columns = [
        Column(tensor.datatype, (found.rows, *tensor.shape), data)
        for tensor, data in zip(layout.tensors, found.columns, strict=True)
    ]
    left = iter(columns)
    return Record(
        model=layout.model, version=layout.version, digest=layout.digest, role=layout.role,
        ids=list(packed.texts(found.ids, table["id_bytes"].tolist())), first_rows=table["first_row"].tolist(),
        counts=table["rows"].tolist(), reasons=[layout.reasons[code] for code in table["reason"].tolist()],
        propensities=table["propensity"].tolist(), sampling=found.sampling, keys=table["key"].tolist(),
        clients=rest[0], segments=rest[1], event_times=table["event_time"].tolist(),
        arrival_times=table["arrival_time"].tolist(), statuses=table["status"].tolist(),
        queue_s=table["queue_s"].tolist(), infer_s=found.infer_s,
        inputs=_named(layout.inputs, left), outputs=_named(layout.outputs, left), extras=_named(layout.extras, left),
        excerpt=layout.excerpt,
    )  # fmt: skip


def _named(tensors: tuple[Tensor, ...], columns: Iterator[Column]) -> dict[str, Column]:
    """The next of `columns`, one a tensor."""
    return {tensor.name: next(columns) for tensor in tensors}
