"""What is measured: sizes along four axes. Pure."""

import json
from dataclasses import dataclass

import numpy as np

from serving.manifest import Feature, Manifest, Prediction
from serving.protocol import Signature, TensorSpec
from serving.routing import ModelEntry, Policy, Table, VersionEntry, initial

ASKED = "m0"  # the model that gets the requests
AXES = {
    "models": ("published models, one of them asked", (1, 10, 100, 1000)),
    "versions": ("versions of one model, all with the same traffic", (1, 2, 5, 10, 25, 50)),
    "features": ("features a row, one row a request", (10, 100, 1000, 10_000)),
    "rows": ("rows a request, 16 features", (1, 4, 16, 64, 256, 1024)),
}


@dataclass(frozen=True)
class Case:
    """One size on one axis."""

    axis: str
    models: int = 1
    versions: int = 1
    features: int = 16
    rows: int = 1

    @property
    def size(self) -> int:
        return int(getattr(self, self.axis))

    def served(self) -> list[Manifest]:
        """What has replicas: the versions of the model that is asked."""
        return [_manifest(ASKED, str(n + 1), self.features) for n in range(self.versions)]

    def table(self) -> Table:
        others = [_manifest(f"m{n + 1}", "1", self.features) for n in range(self.models - 1)]
        return Table(1, {ASKED: _entry(self.served())} | {of.model: _entry([of]) for of in others})

    def request(self) -> tuple[bytes, dict[str, str]]:
        """The body, its rows as binary data, and the headers."""
        values = np.random.default_rng(0).random((self.rows, self.features), np.float32)
        binary = {"binary_data_size": values.nbytes}
        tensor = {"name": "x", "datatype": "FP32", "shape": values.shape, "parameters": binary}
        head = json.dumps({"inputs": [tensor]}).encode()
        headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))}
        return head + values.tobytes(), headers


def cases() -> list[Case]:
    """Every size of every axis, the others at their smallest."""
    return [Case(axis, **{axis: size}) for axis, (_, sizes) in AXES.items() for size in sizes]


def _manifest(model: str, version: str, features: int) -> Manifest:
    signature = Signature((TensorSpec("x", "FP32", (-1, features)),), (TensorSpec("y", "FP32", (-1, 1)),))
    return Manifest(
        model=model, version=version, files={"model.onnx": f"{model} {version} {features}"}, signature=signature,
        rows_independent=True, features=tuple(Feature(f"f{i}", "x", i) for i in range(features)),
        prediction=Prediction("y", 0),
    )  # fmt: skip


def _entry(of: list[Manifest]) -> ModelEntry:
    weights = initial({one.version: 1 / len(of) for one in of})
    versions = {one.version: VersionEntry(one, max_batch_rows=1024) for one in of}
    return ModelEntry(Policy(of[0].model, weights, tuple(versions)), versions)
