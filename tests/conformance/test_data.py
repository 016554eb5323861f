"""R13 every datatype in JSON and in binary, R14 FP16 in JSON, R15 NaN on the way out."""

import json
import struct
from typing import Any

import numpy as np
import pytest

from tests.conformance.client import Server, binary_outputs, ok, outputs, refused
from tests.conformance.models import ECHOED

DTYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    **{f"{sign}INT{bits}": np.dtype(f"{sign.lower()}int{bits}") for sign in ("", "U") for bits in (8, 16, 32, 64)},
}
FLOATS = [0.0, -0.0, 0.1, 1.5, -2.25, 16777217.0]
VALUES: dict[str, list[Any]] = {
    "BOOL": [True, False, True],
    "FP16": [0.0, -0.0, 0.1, 6e-8, 65504.0],
    "FP32": [*FLOATS, 1e-45, -1e-45, 1.17549435e-38, 3.4028235e38],
    "FP64": [*FLOATS, 5e-324, -5e-324, 2.2250738585072014e-308, 1.7976931348623157e308],
    "BYTES": ["", "a", "é\U0001f600", 'quote " and \\', "line\n", "null"],
    **{f"INT{bits}": [0, -1, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1] for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": [0, 1, 2**bits - 1, 2 ** (bits - 1) + 1] for bits in (8, 16, 32, 64)},
}
JSON_DATATYPES = [datatype for datatype in VALUES if datatype != "FP16"]


def inputs(only: str, item: dict[str, Any]) -> list[dict[str, Any]]:
    """All inputs of the model `echo`: empty but for the one named, and FP16, which travels as binary data."""
    all_inputs: dict[str, dict[str, Any]] = {name: {"datatype": name, "shape": [0], "data": []} for name in ECHOED}
    all_inputs["scalar"] = {"datatype": "FP32", "shape": [], "data": [0.0]}
    all_inputs["FP16"] = {"datatype": "FP16", "shape": [0], "parameters": {"binary_data_size": 0}}
    all_inputs[only] = item
    return [{"name": f"in_{name}"} | item for name, item in all_inputs.items()]


def echo(server: Server, name: str, item: dict[str, Any], data: bytes = b"", binary: bool = False) -> Any:
    """The answer with the one output that corresponds to the input `name`."""
    wanted = [{"name": f"out_{name}", "parameters": {"binary_data": binary}}]
    text = json.dumps({"inputs": inputs(name, item), "outputs": wanted}).encode()
    return server.post(text + data, model=server.echo, inference_header_content_length=str(len(text)))


def as_json(datatype: str, values: list[Any]) -> dict[str, Any]:
    return {"datatype": datatype, "shape": [len(values)], "data": values}


def as_binary(datatype: str, count: int, data: bytes) -> dict[str, Any]:
    return {"datatype": datatype, "shape": [count], "parameters": {"binary_data_size": len(data)}}


def packed(datatype: str, values: list[Any]) -> bytes:
    if datatype == "BYTES":
        encoded = [value.encode() if isinstance(value, str) else value for value in values]
        return b"".join(struct.pack("<I", len(value)) + value for value in encoded)
    array = np.array(values, DTYPES[datatype])
    return array.tobytes()


@pytest.mark.parametrize("datatype", JSON_DATATYPES)
def test_r13_json_to_json(server: Server, datatype: str) -> None:
    values = VALUES[datatype]
    got = outputs(ok(echo(server, datatype, as_json(datatype, values))))[f"out_{datatype}"]
    assert packed(datatype, got) == packed(datatype, values)
    assert [type(value) for value in got if not isinstance(value, float)] == (
        [] if datatype.startswith("FP") else [type(value) for value in values]
    )


@pytest.mark.parametrize("datatype", JSON_DATATYPES)
def test_r13_json_to_binary(server: Server, datatype: str) -> None:
    values = VALUES[datatype]
    got = binary_outputs(echo(server, datatype, as_json(datatype, values), binary=True))
    assert got == {f"out_{datatype}": packed(datatype, values)}


@pytest.mark.parametrize("datatype", JSON_DATATYPES)
def test_r13_binary_to_json(server: Server, datatype: str) -> None:
    data = packed(datatype, VALUES[datatype])
    got = outputs(ok(echo(server, datatype, as_binary(datatype, len(VALUES[datatype]), data), data)))
    assert packed(datatype, got[f"out_{datatype}"]) == data


@pytest.mark.parametrize("datatype", list(VALUES))
def test_r13_binary_to_binary(server: Server, datatype: str) -> None:
    data = packed(datatype, VALUES[datatype])
    got = binary_outputs(echo(server, datatype, as_binary(datatype, len(VALUES[datatype]), data), data, binary=True))
    assert got == {f"out_{datatype}": data}


def test_r13_nul_bytes_survive(server: Server) -> None:
    values = ["\0", "a\0b", "a\0", "\0\0"]
    data = packed("BYTES", values)
    assert outputs(ok(echo(server, "BYTES", as_json("BYTES", values))))["out_BYTES"] == values
    assert binary_outputs(echo(server, "BYTES", as_binary("BYTES", 4, data), data, binary=True))["out_BYTES"] == data


@pytest.mark.parametrize("datatype", JSON_DATATYPES)
def test_r13_zero_element_tensors(server: Server, datatype: str) -> None:
    answer = ok(echo(server, datatype, as_json(datatype, [])))
    assert [(output["shape"], output["data"]) for output in answer["outputs"]] == [([0], [])]
    assert binary_outputs(echo(server, datatype, as_binary(datatype, 0, b""), binary=True)) == {f"out_{datatype}": b""}


@pytest.mark.parametrize("data", [1.5, [1.5]])
def test_r13_scalars(server: Server, data: Any) -> None:
    answer = ok(echo(server, "scalar", {"datatype": "FP32", "shape": [], "data": data}))
    assert answer["outputs"][0]["shape"] == []
    assert outputs(answer)["out_scalar"] == [1.5]


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        (datatype, value)
        for bits in (8, 16, 32, 64)
        for datatype, values in [
            (f"INT{bits}", [2 ** (bits - 1), -(2 ** (bits - 1)) - 1, 1.5, 1.0, "1", True]),
            (f"UINT{bits}", [2**bits, -1, 1.5, "1", False]),
        ]
        for value in values
    ]
    + [("BOOL", 1), ("BOOL", "true"), ("BYTES", 1), ("BYTES", None), ("FP64", "1"), ("FP64", False)],
)
def test_r13_values_outside_a_datatype_are_refused(server: Server, datatype: str, value: Any) -> None:
    refused(echo(server, datatype, as_json(datatype, [value])), 400)


def test_r14_fp16_in_json_is_refused(server: Server) -> None:
    assert "binary" in refused(echo(server, "FP16", as_json("FP16", [1.0])), 400)


def test_r14_fp16_out_as_json_is_refused(server: Server) -> None:
    data = packed("FP16", [1.0])
    assert "binary" in refused(echo(server, "FP16", as_binary("FP16", 1, data), data), 400, 500)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("datatype", ["FP32", "FP64"])
def test_r15_nan_leaves_as_binary_data_and_never_as_null(server: Server, datatype: str, value: float) -> None:
    data = packed(datatype, [0.5, value])
    item = as_binary(datatype, 2, data)
    assert binary_outputs(echo(server, datatype, item, data, binary=True)) == {f"out_{datatype}": data}
    assert "binary" in refused(echo(server, datatype, item, data), 400, 500)
