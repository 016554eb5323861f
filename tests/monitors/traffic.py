"""Versions with a known law and records of their traffic, for the tests of what reads records."""

from collections.abc import Sequence
from functools import cache
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from monitors import reference
from monitors.labels import Label
from monitors.reference import Profile
from serving.errors import UnknownVersion
from serving.manifest import Feature, Manifest, Prediction
from serving.packed import Packed, Role, Unpacker
from serving.protocol import Signature, TensorSpec
from serving.record import Column, Record, encode

FEATURES = 4
START = 1_360_000_800.0  # a full hour in February 2013


@cache
def profile(seed: int = 1, rows: int = 4000, shift: float = 0.0) -> Profile:
    rng = np.random.default_rng(seed)
    x = rng.normal(shift, size=(rows, FEATURES)).astype(np.float32)
    p = 1 / (1 + np.exp(-x.sum(1)))
    values = {f"x{k}": x[:, k] for k in range(FEATURES)}
    kinds: dict[str, reference.Kind] = {name: "numeric" for name in values}
    return reference.build(
        values, kinds, prediction=p.astype(np.float32), labels=(rng.random(rows) < p) * 1.0, task="classification"
    )


@cache
def manifest(version: str = "1", *, monitored: bool = True, model: str = "m") -> Manifest:
    files = {"model.onnx": sha256(version.encode()).hexdigest()}
    signature = Signature(
        (TensorSpec("x", "FP32", (-1, FEATURES)),),
        (TensorSpec("p", "FP32", (-1, 2)),),
    )
    if not monitored:
        return Manifest(model=model, version=version, files=files, signature=signature, rows_independent=True)
    return Manifest(
        model=model, version=version, files=files | {"reference.json": profile().digest}, signature=signature,
        rows_independent=True, task="classification", prediction=Prediction("p", 1),
        features=tuple(Feature(f"x{k}", "x", k) for k in range(FEATURES)),
    )  # fmt: skip


class Registry:
    """`manifest_of` and `read` over some manifests; `profiles` are those that do not have `profile()`."""

    def __init__(self, *manifests: Manifest, profiles: Sequence[Profile] = ()) -> None:
        self._manifests = {(m.model, m.version): m for m in manifests}
        self.profiles = {one.digest: one.encode() for one in profiles}

    def manifest(self, model: str, version: str) -> Manifest:
        if (model, version) not in self._manifests:
            raise UnknownVersion(model, version)
        return self._manifests[model, version]

    def read(self, found: Manifest, name: str) -> bytes:
        return self.profiles.get(found.files.get(name, ""), profile().encode())

    def store(self, data: bytes) -> str:
        digest = sha256(data).hexdigest()
        self.profiles[digest] = data
        return digest


def record(
    ids: Sequence[str], x: NDArray[np.float32], times: Sequence[float], *, version: str = "1", role: Role = "primary",
    statuses: Sequence[int] = (), arrivals: Sequence[float] = (), of: Manifest | None = None,
) -> Record:  # fmt: skip
    """One batch in which request i has len(x) / len(ids) rows."""
    found = of or manifest(version)
    n, rows = len(ids), len(x) // len(ids)
    p = (1 / (1 + np.exp(-x.sum(1)))).astype(np.float32)
    return Record(
        model=found.model, version=found.version, digest=found.digest, role=role, ids=list(ids), first_rows=[0] * n,
        counts=[rows] * n, reasons=["weights"] * n, propensities=[1.0] * n, keys=[0] * n, event_times=list(times),
        arrival_times=list(arrivals or times), statuses=list(statuses or [200] * n), queue_s=[0.0] * n, infer_s=0.001,
        inputs={"x": Column.of("FP32", x)}, outputs={"p": Column.of("FP32", np.stack([1 - p, p], 1))},
    )  # fmt: skip


unpack = Unpacker()


def packed(records: Sequence[Record]) -> list[Packed]:
    """As they come out of a ring."""
    return [unpack(encode(found)) for found in records]


def stream(
    requests: int,
    *,
    seed: int = 7,
    spacing_s: float = 60.0,
    shift: float = 0.0,
    versions: Sequence[str] = ("1", "2"),
    of: Manifest | None = None,
) -> tuple[list[Record], list[Label]]:
    """Requests of one to three rows, a minute apart, and a label for nine rows in ten, two hours later.

    From half-way on every feature is shifted by `shift`, of which the model knows nothing.
    """
    rng = np.random.default_rng(seed)
    records, labels = [], []
    for k in range(requests):
        at = START + k * spacing_s
        x = rng.normal(size=(1 + k % 3, FEATURES)).astype(np.float32)
        p = 1 / (1 + np.exp(-x.sum(1)))
        x = x + np.float32(shift * (k > requests / 2))
        records.append(record([f"r{k}"], x, [at], version=versions[k % len(versions)], of=of))
        for row in range(len(x)):
            if rng.random() < 0.9:
                labels.append(Label("m", f"r{k}", row, float(rng.random() < p[row]), at + 7200.0))
    return records, labels
