import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.codec import encode_response, error_body
from serving.errors import BadRequest, ModelFailure
from serving.protocol import Array, InferResponse, Tensor
from tests.codec.test_request import same
from tests.codec.wire import EDGES, answer, patient, tensor, tensors


def encoded(*outputs: Tensor, binary: frozenset[str] = frozenset()) -> tuple[bytes, int | None]:
    return encode_response(InferResponse("m", "1", list(outputs), binary))


def number(values: list[float], datatype: str = "FP32") -> Tensor:
    return tensor("y", datatype, values, (len(values),))


@patient
@given(tensors())
def test_json_gives_every_bit_back(output: Tensor) -> None:
    body, header_length = encoded(output)
    assert header_length is None
    assert same(answer(body, None)["x"], output)


@patient
@given(tensors(binary=True), tensors("j"))
def test_binary_gives_every_bit_back_beside_json(output: Tensor, other: Tensor) -> None:
    got = answer(*encoded(other, output, binary=frozenset("x")))
    assert same(got["x"], output)
    assert same(got["j"], other)


def test_any_float32_gives_its_bits_back_from_the_shortest_digits() -> None:
    bits = np.random.default_rng(7).integers(0, 2**32, 100_000, dtype=np.uint64).astype(np.uint32)
    values = bits.view(np.float32)
    values = values[np.isfinite(values)]
    body, _ = encoded(Tensor("y", "FP32", values))
    back = np.array(json.loads(body)["outputs"][0]["data"], np.float32)
    assert back.tobytes() == values.tobytes()
    digits = max(len(re.sub(rb"[-.]|e.*", b"", text).strip(b"0")) for text in body.split(b"[")[-1][:-3].split(b","))
    assert digits <= 9


@pytest.mark.parametrize("datatype", list(EDGES))
def test_edges_survive_json(datatype: str) -> None:
    output = tensor("y", datatype, EDGES[datatype], (len(EDGES[datatype]),))
    assert same(answer(*encoded(output))["y"], output)


@pytest.mark.parametrize("view", [np.arange(6, dtype=np.float32).reshape(2, 3).T, np.arange(9, dtype=np.float32)[::2]])
def test_strided_outputs_leave_row_major(view: Array) -> None:
    for binary in (frozenset[str](), frozenset("y")):
        got = answer(*encoded(Tensor("y", "FP32", view), binary=binary))["y"].data
        assert np.array_equal(got, view)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("datatype", ["FP32", "FP64"])
def test_what_json_cannot_carry_is_an_error_and_never_null(value: float, datatype: str) -> None:
    with pytest.raises(ModelFailure, match="output 'y' has NaN or infinite values: ask for it as binary data"):
        encoded(number([0.5, value], datatype))
    body, header_length = encoded(number([0.5, value], datatype), binary=frozenset("y"))
    assert header_length is not None
    assert same(answer(body, header_length)["y"], number([0.5, value], datatype))


def test_the_word_null_is_fine_where_it_is_no_number() -> None:
    null = tensor("null", "BYTES", [b"null"], (1,))
    assert same(answer(*encoded(null, number([1.0])))["null"], null)
    assert answer(*encoded(null, number([np.nan]), binary=frozenset("y")))["null"].data[0] == b"null"


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_floats_have_no_json_form(datatype: str) -> None:
    with pytest.raises(BadRequest, match="ask for it as binary data"):
        encoded(number([1], datatype))


def test_bytes_that_are_no_text_have_no_json_form() -> None:
    with pytest.raises(ModelFailure, match="output 'y' is not UTF-8: ask for it as binary data"):
        encoded(tensor("y", "BYTES", [b"a", b"\xff"], (2,)))


def test_an_id_is_given_back_or_left_out() -> None:
    assert "id" not in json.loads(encode_response(InferResponse("m", "1", []))[0])
    assert json.loads(encode_response(InferResponse("m", "1", [], id=""))[0])["id"] == ""
    assert json.loads(encode_response(InferResponse("m", "1", [], id="é\n"))[0])["id"] == "é\n"


@patient
@given(st.text(st.characters()))
def test_an_error_has_a_body_whatever_it_says(message: str) -> None:
    body = json.loads(error_body(message + "\ud800"))
    assert list(body) == ["error"] and body["error"] == message.encode(errors="replace").decode() + "?"
