import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serving.codec import Limits, decode_index, decode_raw, decode_request, parse_header_length
from serving.errors import BadRequest, GaugewayError
from serving.protocol import InferRequest, RequestedOutput, Signature, Tensor, TensorSpec
from tests.codec.wire import EDGES, bytes_of, patient, request, tensor, tensors, x


def same(left: Tensor, right: Tensor) -> bool:
    return (
        (left.name, left.datatype, left.data.dtype, left.data.shape)
        == (right.name, right.datatype, right.data.dtype, right.data.shape)
        and bytes_of(left.data, left.datatype) == bytes_of(right.data, right.datatype)
        and left.data.flags.c_contiguous
        and left.data.flags.aligned
    )


def refused(body: bytes, header_length: int | None = None, **limits: int) -> str:
    with pytest.raises(BadRequest) as error:
        decode_request(body, header_length, Limits(**limits))
    return str(error.value)


@patient
@given(tensors(), st.booleans())
def test_json_gives_every_bit_back(sent: Tensor, nested: bool) -> None:
    body, _ = request([(sent, False)], nested)
    assert same(decode_request(body).inputs[0], sent)


@patient
@given(tensors(binary=True), st.text(max_size=9))
def test_binary_gives_every_bit_back_at_any_alignment(sent: Tensor, padding: str) -> None:
    body, header_length = request([(sent, True)], id=padding)
    assert same(decode_request(body, header_length).inputs[0], sent)
    assert same(decode_request(memoryview(body), header_length).inputs[0], sent)


@patient
@given(
    st.lists(st.booleans(), max_size=4).flatmap(
        lambda flags: st.tuples(
            *(st.tuples(tensors(f"t{i}", binary=flag), st.just(flag)) for i, flag in enumerate(flags))
        )
    )
)
def test_json_and_binary_mix(inputs: tuple[tuple[Tensor, bool], ...]) -> None:
    body, header_length = request(inputs)
    got = decode_request(body, header_length).inputs
    assert len(got) == len(inputs)
    assert all(same(tensor, sent) for tensor, (sent, _) in zip(got, inputs, strict=True))


@pytest.mark.parametrize("datatype", list(EDGES))
def test_edges_survive_json(datatype: str) -> None:
    sent = tensor("x", datatype, EDGES[datatype], (len(EDGES[datatype]),))
    body, _ = request([(sent, False)])
    assert same(decode_request(body).inputs[0], sent)


def test_the_rest_of_a_request() -> None:
    body = json.dumps(
        {
            "id": "r1",
            "model_name": "ignored",
            "parameters": {"user": "u", "n": 1, "f": 0.5, "b": True, "binary_data_output": True},
            "inputs": [],
            "outputs": [{"name": "b", "parameters": {"binary_data": False}}, {"name": "a"}],
        }
    ).encode()
    got = decode_request(body)
    assert got.id == "r1"
    assert got.parameters == {"user": "u", "n": 1, "f": 0.5, "b": True, "binary_data_output": True}
    assert got.outputs == [RequestedOutput("b", False), RequestedOutput("a", True)]


@pytest.mark.parametrize("nothing", [{}, {"id": None, "outputs": None, "parameters": None}, {"outputs": []}])
def test_null_and_empty_ask_for_the_defaults(nothing: dict[str, Any]) -> None:
    got = decode_request(json.dumps({"inputs": [], **nothing}).encode())
    assert got == InferRequest([], None, None, False, {})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": 1}, "Expected `str`, got `int`"),
        ({"name": ...}, "missing required field `name`"),
        ({"datatype": "FLOAT"}, "unknown datatype 'FLOAT'"),
        ({"datatype": "fp32"}, "unknown datatype 'fp32'"),
        ({"datatype": "FP16"}, "FP16 has no JSON form; use binary data"),
        ({"datatype": "BF16"}, "BF16 has no JSON form; use binary data"),
        ({"shape": [1, 3]}, "got 2 elements, expected 3 for shape [1, 3]"),
        ({"shape": [1]}, "got 2 elements, expected 1"),
        ({"shape": [-1, 2]}, "negative dimension"),
        ({"shape": [1.0, 2]}, "Expected `int`, got `float`"),
        ({"shape": 2}, "Expected `array`, got `int`"),
        ({"shape": [2**62, 2**62]}, "more than 16777216 elements"),
        ({"shape": [0, 2**40], "data": []}, "more than 16777216 elements"),
        ({"shape": [10**4000]}, "…"),
        ({"shape": [1] * 9, "data": [1]}, "got rank 9, at most 8"),
        ({"data": ...}, "expected either data or binary_data_size"),
        ({"data": None}, "nested 0 deep"),
        ({"data": 1}, "nested 0 deep"),
        ({"data": [[[1, 2]]]}, "nested 3 deep, expected 1 or 2"),
        ({"data": [1, [2]]}, "Expected `float`, got `array`"),
        ({"data": [[1], [2]]}, "got 2 elements along axis 0, expected 1"),
        ({"data": [[1, 2, 3]]}, "got 3 elements along axis 1, expected 2"),
        ({"shape": [2, 2], "data": [[1], [2, 3, 4]]}, "along axis 1"),
        ({"data": [1, None]}, "null is no number, send NaN as binary data"),
        ({"data": [1, "2"]}, "Expected `float`, got `str`"),
        ({"data": [1, True]}, "Expected `float`, got `bool`"),
        ({"data": [1, 1e39]}, "1e+39 is out of the range of FP32"),
        ({"data": [1, float("nan")]}, "NaN and infinities have no JSON form"),
        ({"data": [1, float("-inf")]}, "NaN and infinities have no JSON form"),
        ({"datatype": "INT8", "data": [127, 128]}, "128 is out of the range of INT8"),
        ({"datatype": "UINT8", "data": [0, -1]}, "-1 is out of the range of UINT8"),
        ({"datatype": "INT64", "data": [0, 2**63]}, "out of the range of INT64"),
        ({"datatype": "UINT64", "data": [0, 2**64]}, "out of the range of UINT64"),
        ({"datatype": "INT32", "data": [0, 1.0]}, "Expected `int`, got `float`"),
        ({"datatype": "INT32", "data": [0, True]}, "Expected `int`, got `bool`"),
        ({"datatype": "BOOL", "data": [True, 0]}, "Expected `bool`, got `int`"),
        ({"datatype": "BYTES", "data": ["a", 0]}, "Expected `str`, got `int`"),
        ({"parameters": {"p": [1]}}, "got `array`"),
        ({"parameters": {"p": None}}, "got `null`"),
        ({"parameters": {"binary_data_size": 8}}, "expected either data or binary_data_size"),
        ({"data": ..., "parameters": {"binary_data_size": -1}}, "expected a number of bytes, got -1"),
        ({"data": ..., "parameters": {"binary_data_size": True}}, "expected a number of bytes, got True"),
        ({"data": ..., "parameters": {"binary_data_size": "8"}}, "expected a number of bytes, got '8'"),
        ({"data": ..., "parameters": {"binary_data_size": 10**30}}, "got 0 bytes, expected 8"),
    ],
)
def test_a_wrong_input_is_refused_with_what_is_wrong(changes: dict[str, Any], says: str) -> None:
    assert says in refused(x(**changes))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "malformed body"),
        (b"{", "malformed body"),
        (b"[]", "Expected `object`, got `array`"),
        (b"{}", "missing required field `inputs`"),
        (b'{"inputs":{}}', "Expected `array`"),
        (b'{"inputs":[]} x', "malformed body"),
        (b'{"inputs":[],"id":1}', "Expected `str | null`, got `int`"),
        (b'{"inputs":[],"id":"\xff"}', "not UTF-8: byte 0xff at 19"),
        (b'{"inputs":[],"ignored":"\xff"}', "not UTF-8: byte 0xff at 24"),
        (b'{"inputs":[],"id":"\\ud800"}', "malformed body"),
        (b'{"inputs":[],"parameters":[]}', "Expected `object | null`, got `array`"),
        (b'{"inputs":[],"parameters":{"binary_data_output":1}}', "expected true or false, got 1"),
        (b'{"inputs":[],"parameters":{"a":1e999}}', "Number out of range"),
        (x().replace(b"[1, 2]", b"[" + b"9" * 5000 + b"]"), "Integer value out of range"),
        (b'{"inputs":[],"outputs":[{"name":"a"},{"name":"a"}]}', "outputs: 'a' is given more than once"),
        (b'{"inputs":[],"outputs":[{"name":"a","parameters":{"binary_data":"true"}}]}', "got 'true'"),
        (x(data=[1, 2]).replace(b"[1, 2]}", b"[1e999, 2]}"), "Number out of range"),
        (x(data=[1, 2]).replace(b"[1, 2]}", b"[1" + b"0" * 5000 + b", 2]}"), "Number out of range"),
        (x(datatype="INT64").replace(b"[1, 2]}", b"[1" + b"0" * 5000 + b", 2]}"), "out of range"),
    ],
)
def test_a_malformed_body_is_refused(body: bytes, says: str) -> None:
    assert says in refused(body)


def test_an_input_given_twice_is_refused() -> None:
    item = json.loads(x())["inputs"][0]
    assert refused(json.dumps({"inputs": [item, item]}).encode()) == "inputs: 'x' is given more than once"


def test_integers_do_for_floats_and_scalars_may_be_bare() -> None:
    assert decode_request(x(data=[1, 2])).inputs[0].data.tolist() == [[1.0, 2.0]]
    assert decode_request(x(shape=[], data=3)).inputs[0].data.tolist() == 3.0
    assert decode_request(x(shape=[], data=[3])).inputs[0].data.tolist() == 3.0


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (2, 0, 3), (0,)])
def test_empty_tensors_may_be_flat_or_nested(shape: tuple[int, ...]) -> None:
    assert decode_request(x(shape=shape, data=[])).inputs[0].data.shape == shape
    assert decode_request(x(shape=shape, data=np.zeros(shape).tolist())).inputs[0].data.shape == shape


@pytest.mark.parametrize("key", ["ignored", "inputs"])
@pytest.mark.parametrize("depth", [101, 1_000, 100_000])
def test_deep_json_is_refused(key: str, depth: int) -> None:
    deep = b"[" * depth + b"]" * depth
    body = b'{"inputs":[],"ignored":' + deep + b"}" if key == "ignored" else x(data="@").replace(b'"@"', deep)
    assert "nested" in refused(body)


def test_depth_is_counted_exactly() -> None:
    def body(depth: int) -> bytes:  # the object itself is one level
        deep = b"[" * (depth - 1) + b"]" * (depth - 1)
        return b'{"inputs":[],"text":"]]]}}}' + b'\\"' * 9 + b'","ignored":' + deep + b"}"

    assert decode_request(body(100)).inputs == []
    assert "deeper than 100" in refused(body(101))
    wide = b'{"inputs":[],"a":[' + b"[]," * 2**19 + b"%s]}"  # more brackets than are counted at once
    assert decode_request(wide % (b"[" * 98 + b"]" * 98)).inputs == []
    assert "deeper than 100" in refused(wide % (b"[" * 99 + b"]" * 99))
    assert "deeper than 3" in refused(b'{"inputs":[],"a":[[[]]]}', max_json_depth=3)


def test_brackets_that_nest_nothing_are_fine() -> None:
    rows = 1000
    assert decode_request(x(shape=[rows, 1], data=[[1]] * rows)).inputs[0].data.shape == (rows, 1)
    assert decode_request(x(datatype="BYTES", data=["[" * 500, "{" * 500])).inputs[0].data.size == 2
    assert decode_request(x(datatype="BYTES", data=["," * 100_000, ""])).inputs[0].data.size == 2
    assert decode_request(b'{"inputs":[],"a":[' + b"[]," * 500 + b'"[[[["]}').inputs == []


def test_limits() -> None:
    many = json.dumps({"inputs": [{"name": str(i), "datatype": "BOOL", "shape": [0], "data": []} for i in range(65)]})
    assert refused(many.encode()) == "got 65 inputs, at most 64"
    outputs = json.dumps({"inputs": [], "outputs": [{"name": str(i)} for i in range(65)]})
    assert refused(outputs.encode()) == "got 65 outputs, at most 64"
    assert "more than 3 elements" in refused(x(shape=[4], data=[1, 2, 3, 4]), max_elements=3)
    assert "got rank 2, at most 1" in refused(x(), max_rank=1)
    assert "got more elements, expected 2" in refused(x(data=[0] * 100_000))


def test_errors_show_little_of_what_was_sent() -> None:
    for body in (x(name="n\n" * 10**6, data=None), x(datatype="d" * 10**6), x(shape=[-(10**4000)] * 8)):
        assert len(refused(body)) < 600
        assert "\n" not in refused(body)


BINARY = dict(data=..., parameters={"binary_data_size": 8})


@pytest.mark.parametrize(
    ("item", "data", "says"),
    [
        (BINARY, bytes(7), "got 7 bytes, expected 8 for FP32 [1, 2]"),
        (BINARY, bytes(9), "the binary tensors take 8 bytes, but 9 follow"),
        (BINARY | {"shape": [1, 3]}, bytes(8), "got 8 bytes, expected 12"),
        (BINARY | {"shape": [1, 1]}, bytes(8), "got 8 bytes, expected 4"),
        (BINARY | {"datatype": "BOOL", "shape": [8]}, bytes(7) + b"\2", "BOOL takes the bytes 0 and 1 only"),
        (BINARY | {"datatype": "BYTES", "shape": [1]}, b"\5\0\0\0abcd", "ends within element 0 of 1"),
        (BINARY | {"datatype": "BYTES", "shape": [1]}, b"\3\0\0\0abcd", "1 bytes are left over after 1 elements"),
        (BINARY | {"datatype": "BYTES", "shape": [3]}, bytes(8), "ends within element 2 of 3"),
        (BINARY | {"datatype": "BYTES", "shape": [1]}, b"\xff\xff\xff\xffabcd", "ends within element 0 of 1"),
        (BINARY | {"datatype": "BYTES", "shape": [2**24]}, bytes(8), "ends within element 2"),
        ({}, b"x", "the binary tensors take 0 bytes, but 1 follow"),
    ],
)
def test_binary_that_lies_is_refused(item: dict[str, Any], data: bytes, says: str) -> None:
    text = x(**item)
    assert says in refused(text + data, len(text))


@pytest.mark.parametrize("text", ["", "-1", "+1", "1.0", "0x1", "1_0", "٣", "nan", "9" * 20, "9" * 5000, "21", "1 2"])
def test_header_lengths_that_are_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="Inference-Header-Content-Length"):
        parse_header_length(text, 20)


def test_header_lengths_that_are_taken() -> None:
    assert parse_header_length(None, 20) is None
    assert [parse_header_length(text, 20) for text in ("0", "20", " 7\t", "007")] == [0, 20, 7, 7]


@pytest.mark.parametrize(
    ("datatype", "shape", "body", "got"),
    [
        ("FP32", (-1, 2), bytes(16), (2, 2)),
        ("FP32", (2, 2), bytes(16), (2, 2)),
        ("FP32", (3, -1), b"", (3, 0)),
        ("BYTES", (-1, 1), b"\0any bytes", (1, 1)),
        ("BYTES", (1,), b"", (1,)),
    ],
)
def test_raw_bodies(datatype: str, shape: tuple[int, ...], body: bytes, got: tuple[int, ...]) -> None:
    request = decode_raw(body, Signature((TensorSpec("x", datatype, shape),), ()))
    assert request.binary_output and request.outputs is None
    assert request.inputs[0].data.shape == got
    assert bytes_of(request.inputs[0].data, datatype).endswith(body)


@pytest.mark.parametrize(
    ("specs", "body"),
    [
        ([("FP32", (-1, 2))], bytes(15)),
        ([("FP32", (-1, 2))], bytes(12)),
        ([("FP32", (2, 2))], bytes(12)),
        ([("FP32", (-1, -1))], bytes(4)),
        ([("FP32", (-1, 0))], b""),
        ([("BYTES", (2,))], b"ab"),
        ([("BOOL", (-1,))], b"\2"),
        ([("BOOL", (-1,))], bytes(11)),
        ([], b""),
        ([("FP32", (-1,)), ("FP32", (-1,))], bytes(16)),
    ],
)
def test_raw_bodies_that_are_refused(specs: list[tuple[str, tuple[int, ...]]], body: bytes) -> None:
    signature = Signature(tuple(TensorSpec(f"x{i}", *spec) for i, spec in enumerate(specs)), ())
    with pytest.raises(BadRequest):
        decode_raw(body, signature, Limits(max_elements=10))


def test_index_requests() -> None:
    assert [decode_index(body) for body in (b"", b"{}", b'{"ready":null}', b'{"ready":true,"x":1}')] == [0, 0, 0, 1]
    for body in (b"[]", b'{"ready":1}', b"\xff", b"{"):
        with pytest.raises(BadRequest, match="malformed body"):
            decode_index(body)


def attempt(body: bytes, header_length: int | None) -> None:
    try:
        decode_request(body, header_length)
    except GaugewayError:
        pass


@patient
@given(st.binary(max_size=200), st.none() | st.integers(0, 200))
def test_any_bytes_are_decoded_or_refused(body: bytes, header_length: int | None) -> None:
    attempt(body, header_length)


@patient
@given(tensors(), st.integers(0, 400), st.binary(min_size=1, max_size=4), st.integers(0, 3))
@example(tensor("x", "FP32", [1.0], (1,)), 0, b"\xff", 0)
def test_a_damaged_body_is_decoded_or_refused(sent: Tensor, at: int, damage: bytes, cut: int) -> None:
    body, _ = request([(sent, False)], id="a")
    at %= len(body)
    attempt(body[:at] + damage + body[at + cut :], None)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@patient
@given(st.dictionaries(st.sampled_from(["name", "datatype", "shape", "data", "parameters"]), json_values), json_values)
def test_any_json_is_decoded_or_refused(changes: dict[str, Any], outputs: Any) -> None:
    item = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1]} | changes
    attempt(json.dumps({"inputs": [item], "outputs": outputs}).encode(), None)


@patient
@given(tensors(binary=True), st.integers(0, 400))
def test_a_header_length_that_lies_is_refused(sent: Tensor, lie: int) -> None:
    body, header_length = request([(sent, True)])
    lie %= len(body) + 1
    if lie != header_length:
        refused(body, lie)
