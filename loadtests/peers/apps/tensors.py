"""The least of the Open Inference Protocol that the benchmark's requests need, for peers that bring none of it.

Numbers in JSON, or all tensors binary. It trusts what it gets.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

DATATYPES = {"float32": "FP32", "int64": "INT64"}
TYPES = {"FP32": np.float32, "INT64": np.int64}


def from_json(document: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The request's inputs by name."""
    return {
        one["name"]: np.array(one["data"], TYPES[one["datatype"]]).reshape(one["shape"]) for one in document["inputs"]
    }


def to_json(model: str, outputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The response; its data are arrays, which orjson writes."""
    return {
        "model_name": model,
        "model_version": "1",
        "outputs": [_head(n, a) | {"data": a.ravel()} for n, a in outputs.items()],
    }


def from_bytes(body: bytes, json_length: int) -> dict[str, np.ndarray]:
    """The inputs as views of the body."""
    inputs, at = {}, json_length
    for one in orjson.loads(memoryview(body)[:json_length])["inputs"]:
        size = one["parameters"]["binary_data_size"]
        kind = np.dtype(TYPES[one["datatype"]])
        inputs[one["name"]] = np.frombuffer(body, kind, size // kind.itemsize, at).reshape(one["shape"])
        at += size
    return inputs


def to_bytes(model: str, outputs: Mapping[str, np.ndarray]) -> tuple[bytes, int]:
    """The response and how much of it is JSON."""
    heads = [_head(n, a) | {"parameters": {"binary_data_size": a.nbytes}} for n, a in outputs.items()]
    head = orjson.dumps({"model_name": model, "model_version": "1", "outputs": heads})
    return b"".join((head, *(array.tobytes() for array in outputs.values()))), len(head)


def answer(model: str, outputs: Mapping[str, np.ndarray]) -> bytes:
    """The response in JSON."""
    return orjson.dumps(to_json(model, outputs), option=orjson.OPT_SERIALIZE_NUMPY)


def _array(tensor: Mapping[str, Any]) -> np.ndarray:
    return np.array(tensor["data"], TYPES[tensor["datatype"]]).reshape(tensor["shape"])


def _head(name: str, array: np.ndarray) -> dict[str, Any]:
    return {"name": name, "datatype": DATATYPES[array.dtype.name], "shape": array.shape}
