"""The Open Inference Protocol v2: datatypes, tensors' metadata, requests and responses.

https://github.com/kserve/open-inference-protocol. Nothing here parses bytes: `serving.codec` does.
"""

from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Parameter = str | int | float | bool

# BYTES travels as an object array of `bytes`; BF16, which numpy lacks, as its uint16 bit pattern.
DATATYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BF16": np.dtype(np.uint16),
    "BYTES": np.dtype(np.object_),
}


class TensorSpec(msgspec.Struct, frozen=True):
    """Name, datatype and shape of one input or output; -1 stands for a free dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Signature(msgspec.Struct, frozen=True):
    """What a model takes and gives, in the order of its graph."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(slots=True)
class Tensor:
    """A tensor that is right by construction: `data` has `datatype` and its shape, row-major.

    `data` of BYTES is an object array of `bytes`; of BF16 an uint16 array of bit patterns.
    """

    name: str
    datatype: str
    data: Array


@dataclass(slots=True)
class RequestedOutput:
    """An output that the client named, and whether it wants it as binary data."""

    name: str
    binary: bool


@dataclass(slots=True)
class InferRequest:
    """A decoded inference request: tensors are checked against their own declaration, not yet against a model."""

    inputs: list[Tensor]
    outputs: list[RequestedOutput] | None = None  # None: all, in the model's order
    id: str | None = None
    binary_output: bool = False  # default for outputs that do not say
    parameters: dict[str, Parameter] = field(default_factory=dict)


@dataclass(slots=True)
class InferResponse:
    """A computed answer, ready for `codec.encode_response`."""

    model: str
    version: str
    outputs: list[Tensor]
    binary: frozenset[str] = frozenset()  # names of the outputs that leave as binary data
    id: str | None = None
