"""What is asked of every peer: a model, one request in bytes, and the answer that onnxruntime gives."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from loadtests import boosting, environments, image, text
from loadtests.peers.apps.onnx_session import OnnxSession

TOLERANCE = 1e-5  # of embeddings of length 1
DATATYPES = {"float32": "FP32", "float64": "FP64", "int64": "INT64"}


@dataclass(frozen=True)
class Workload:
    """A model and how it is asked."""

    name: str
    said: str
    model: bytes
    inputs: Mapping[str, np.ndarray]
    binary: bool
    """Tensors after the JSON, as the protocol's binary extension has it; else all in JSON."""
    connections: tuple[int, ...]
    batch_tolerance: float = 0.0
    """What Gaugeway is told when it is published; other servers put requests together without asking."""

    @property
    def body(self) -> bytes:
        return _binary(self.inputs) if self.binary else json.dumps({"inputs": _json(self.inputs)}).encode()

    @property
    def headers(self) -> dict[str, str]:
        if not self.binary:
            return {"Content-Type": "application/json"}
        length = len(self.body) - sum(array.nbytes for array in self.inputs.values())
        return {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(length)}

    def expected(self, path: str) -> dict[str, np.ndarray]:
        """What onnxruntime answers, from the model's file."""
        return OnnxSession(path).run(self.inputs)


def small() -> Workload:
    row = np.asarray([boosting.ROW], np.float32)
    said = "16 floats, gradient boosting with 100 trees, JSON, one row a request"
    return Workload("boosting", said, boosting.model(boosting.rows()), {"x": row}, False, (1, 32, 128))


def large() -> Workload:
    said = "3x224x224 FP32 image, three convolutions, binary tensors, 588 KiB a request"
    return Workload("image", said, image.model(), {"image": image.image()}, True, (1, 8, 32))


def embedding() -> Workload:
    """Raises:
    environments.NotInstalled: the package with its weights cannot be had.
    """
    python = environments.environment(Path(__file__).parent / "peers" / "text.txt")
    encoder = text.Encoder(next(python.parent.parent.glob("lib/*/site-packages/all_minilm_l6_v2/model.zip")))
    tokens = encoder.tokens()
    said = f"all-MiniLM-L6-v2, {tokens.size} tokens, JSON, an embedding of {text.WIDTH} floats"
    said += (
        f"; published to Gaugeway with `--batch-tolerance {TOLERANCE:g}`, since rows run together differ by rounding"
    )
    return Workload("text", said, encoder.model(), {"tokens": tokens}, False, (1, 8, 32), TOLERANCE)


WORKLOADS: dict[str, Callable[[], Workload]] = {"boosting": small, "image": large, "text": embedding}


def reference_rows() -> pa.Table:
    """What Gaugeway's monitors compare the small model's traffic to; not the rows it was fitted on."""
    return boosting.rows(seed=1)


def _json(inputs: Mapping[str, np.ndarray]) -> list[dict[str, object]]:
    """Floats as people write them: the shortest text that is the same float32."""
    return [
        {**_head(name, array), "data": [json.loads(str(value)) for value in array.ravel()]}
        for name, array in inputs.items()
    ]


def _binary(inputs: Mapping[str, np.ndarray]) -> bytes:
    heads = [{**_head(n, array), "parameters": {"binary_data_size": array.nbytes}} for n, array in inputs.items()]
    head = json.dumps({"inputs": heads, "parameters": {"binary_data_output": True}}).encode()
    return head + b"".join(array.tobytes() for array in inputs.values())


def _head(name: str, array: np.ndarray) -> dict[str, object]:
    return {"name": name, "datatype": DATATYPES[array.dtype.name], "shape": list(array.shape)}
