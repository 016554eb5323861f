"""An independent client of the protocol, by json and struct, and the tensors it sends: hypothesis strategies."""

import json
import struct
from collections.abc import Iterable
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serving.protocol import DATATYPES, Array, Tensor

JSON_DATATYPES = [name for name in DATATYPES if name not in ("FP16", "BF16")]
EDGES: dict[str, list[Any]] = {
    "FP32": [-0.0, 1e-45, -1e-45, 1.17549435e-38, 3.4028235e38, 0.1, 16777217.0],
    "FP64": [-0.0, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 0.1],
    "INT64": [-(2**63), 2**63 - 1, 2**53 + 1],
    "UINT64": [0, 2**64 - 1, 2**53 + 1],
    "BYTES": [b"", b"\0", b"a\0b\0", "é\U0001f600".encode(), b'"\\\n'],
}
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # its tables of Unicode take a second
shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
texts = st.text(max_size=8)


def bytes_of(array: Array, datatype: str) -> bytes:
    """The binary form; for all but BYTES equal exactly when all bits are."""
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(element)) + element for element in array.ravel())
    return array.tobytes()


def numbers(datatype: str, binary: bool) -> st.SearchStrategy[Any]:
    """Elements of `datatype`; as JSON without NaN, infinities and bytes that are no UTF-8."""
    if datatype == "BYTES":
        return st.binary(max_size=6) if binary else texts.map(str.encode)
    if binary or not datatype.startswith("FP"):
        return hnp.from_dtype(DATATYPES[datatype])
    return hnp.from_dtype(DATATYPES[datatype], allow_nan=False, allow_infinity=False)


@st.composite
def tensors(draw: st.DrawFn, name: str = "x", binary: bool = False) -> Tensor:
    datatype = draw(st.sampled_from(list(DATATYPES) if binary else JSON_DATATYPES))
    shape = draw(shapes)
    elements = numbers(datatype, binary)
    if datatype in EDGES:
        elements |= st.sampled_from(EDGES[datatype])
    count = int(np.prod(shape, dtype=int))
    return tensor(name, datatype, draw(st.lists(elements, min_size=count, max_size=count)), shape)


def tensor(name: str, datatype: str, values: list[Any], shape: tuple[int, ...]) -> Tensor:
    array = np.empty(len(values), DATATYPES[datatype])
    array[:] = values
    return Tensor(name, datatype, array.reshape(shape))


def entry(tensor: Tensor, *, binary: bool = False, nested: bool = False) -> dict[str, Any]:
    """The JSON of one input."""
    head = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.data.shape)}
    if binary:
        return head | {"parameters": {"binary_data_size": len(bytes_of(tensor.data, tensor.datatype))}}
    array = tensor.data if nested else tensor.data.ravel()
    values = np.vectorize(bytes.decode, otypes=[object])(array) if tensor.datatype == "BYTES" and array.size else array
    return head | {"data": values.tolist()}


def request(inputs: Iterable[tuple[Tensor, bool]], nested: bool = False, **others: Any) -> tuple[bytes, int]:
    """The body, and the length of its JSON part; each input with whether it travels as binary data."""
    inputs = list(inputs)
    entries = [entry(tensor, binary=binary, nested=nested) for tensor, binary in inputs]
    text = json.dumps({"inputs": entries, **others}).encode()
    return text + b"".join(bytes_of(t.data, t.datatype) for t, binary in inputs if binary), len(text)


def x(**changes: Any) -> bytes:
    """A request with the one input `x` FP32 [1, 2], some of whose keys are changed; a value of ... drops the key."""
    item = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]} | changes
    return json.dumps({"inputs": [{key: value for key, value in item.items() if value is not ...}]}).encode()


def answer(body: bytes, header_length: int | None) -> dict[str, Tensor]:
    """The outputs in a response."""
    text, binary = body[:header_length], body[header_length:] if header_length is not None else b""
    outputs = {}
    for item in json.loads(text)["outputs"]:
        size = item.get("parameters", {}).get("binary_data_size")
        values = item["data"] if size is None else _split(item, binary[:size])
        binary = binary[size or 0 :]
        values = [value.encode() if isinstance(value, str) else value for value in values]
        outputs[item["name"]] = tensor(item["name"], item["datatype"], values, tuple(item["shape"]))
    assert not binary
    return outputs


def _split(item: dict[str, Any], data: bytes) -> list[Any]:
    if item["datatype"] != "BYTES":
        return list(np.frombuffer(data, DATATYPES[item["datatype"]]))
    elements = []
    while data:
        (size,) = struct.unpack_from("<I", data)
        elements.append(data[4 : 4 + size])
        data = data[4 + size :]
    return elements
