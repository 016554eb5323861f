"""R6 nested and flat, R7 counts, R8 datatypes, R9 inputs, R10 outputs, R11 id, R12 parameters, R15 NaN, R23 shapes."""

import json
import math
from typing import Any

import pytest

from tests.conformance.client import Server, X, ok, outputs, refused, x
from tests.conformance.models import WEIGHTS

FLAT = [value for row in X for value in row]


def test_the_model_of_the_suite_is_served(server: Server) -> None:
    """Everything below compares answers with each other; this one compares them with the formula."""
    logits = [sum(weight * value for weight, value in zip(WEIGHTS, row, strict=True)) for row in X]
    expected = [p for logit in logits for p in (1 - 1 / (1 + math.exp(-logit)), 1 / (1 + math.exp(-logit)))]
    got = server.predict()
    assert got["probabilities"] == pytest.approx(expected, abs=1e-6)
    assert got["label"] == [int(logit > 0) for logit in logits]


def test_r06_nested_and_flat_data_are_the_same(server: Server) -> None:
    assert outputs(ok(server.infer(x(data=FLAT)))) == server.predict()


def test_r06_integers_do_for_floats(server: Server) -> None:
    assert outputs(ok(server.infer(x([[1, 2, 3, 4]])))) == outputs(ok(server.infer(x([[1.0, 2.0, 3.0, 4.0]]))))


def test_r06_unknown_keys_are_ignored(server: Server) -> None:
    """The kserve client always sends `model_name`."""
    assert outputs(ok(server.infer(x(), model_name="m", extra={"a": [None]}))) == server.predict()


@pytest.mark.parametrize(
    "data", [FLAT[:-1], [*FLAT, 1.0], [], [FLAT[:4], FLAT[4:7]], [[1.0], FLAT[1:]], [FLAT, FLAT], [[]]]
)
def test_r07_the_number_of_elements_is_that_of_the_shape(server: Server, data: list[Any]) -> None:
    refused(server.infer(x(data=data)), 400)


@pytest.mark.parametrize("datatype", ["FLOAT", "fp32", "", "TYPE_FP32", "FP64", "INT32", 32, None])
def test_r08_wrong_datatypes_are_refused(server: Server, datatype: Any) -> None:
    refused(server.infer(x(datatype=datatype)), 400)


@pytest.mark.parametrize("values", [["1", "2", "3", "4"], [True, 1, 1, 1], [None, 1, 1, 1], [{}, 1, 1, 1]])
def test_r08_values_of_another_type_are_refused(server: Server, values: list[Any]) -> None:
    refused(server.infer(x([values])), 400)


@pytest.mark.parametrize("missing", ["name", "shape", "datatype", "data"])
def test_r09_an_input_needs_all_its_parts(server: Server, missing: str) -> None:
    refused(server.infer(x(**{missing: ...})), 400)


@pytest.mark.parametrize("inputs", [[], [x(), x(name="y")], [x(), x()], [x(name="X")], [x(name=1)]])
def test_r09_missing_extra_and_doubled_inputs_are_refused(server: Server, inputs: list[dict[str, Any]]) -> None:
    refused(server.infer(*inputs), 400)


@pytest.mark.parametrize("names", [["label"], ["probabilities"], ["probabilities", "label"]])
def test_r10_exactly_the_outputs_asked_for_in_that_order(server: Server, names: list[str]) -> None:
    answer = ok(server.infer(x(), outputs=[{"name": name} for name in names]))
    assert [output["name"] for output in answer["outputs"]] == names
    assert outputs(answer) == {name: server.predict()[name] for name in names}


def test_r10_all_outputs_in_the_order_of_the_model(server: Server) -> None:
    answer = ok(server.infer(x()))
    assert [output["name"] for output in answer["outputs"]] == ["label", "probabilities"]
    assert [output["datatype"] for output in answer["outputs"]] == ["INT64", "FP32"]
    assert [output["shape"] for output in answer["outputs"]] == [[2], [2, 2]]


@pytest.mark.parametrize("names", [["label", "label"], ["Label"], ["label", "nothing"], [None]])
def test_r10_doubled_and_unknown_outputs_are_refused(server: Server, names: list[Any]) -> None:
    refused(server.infer(x(), outputs=[{"name": name} for name in names]), 400)


@pytest.mark.parametrize("id", ["r-1", "0", "é \u2603\n", "i" * 500])
def test_r11_an_id_is_given_back(server: Server, id: str) -> None:
    assert ok(server.infer(x(), id=id))["id"] == id


def test_r11_an_id_that_was_not_given_is_left_out(server: Server) -> None:
    assert "id" not in ok(server.infer(x()))


@pytest.mark.parametrize("id", [1, True, ["a"], {}])
def test_r11_an_id_is_a_string(server: Server, id: Any) -> None:
    refused(server.infer(x(), id=id), 400)


@pytest.mark.parametrize("where", ["request", "input", "output"])
def test_r12_parameters_are_strings_numbers_or_booleans(server: Server, where: str) -> None:
    assert _with_parameters(server, where, {"s": "a", "n": -1, "f": 0.5, "b": True}) == server.predict()
    wrong: Any
    for wrong in ({"p": [1]}, {"p": {}}, {"p": None}, [1], "p"):
        refused(_send_parameters(server, where, wrong), 400)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_r15_nan_has_no_json_form(server: Server, value: float) -> None:
    refused(server.infer(x([[value, 1, 1, 1]])), 400)


@pytest.mark.parametrize("number", ["1e999", "1e39", "-1e39", "9" * 5000, "01", "1.", "+1", ".5", "0x1"])
def test_r15_numbers_that_are_none_of_fp32_or_of_json_are_refused(server: Server, number: str) -> None:
    text = json.dumps({"inputs": [x([["@", 1, 1, 1]])]}).replace('"@"', number)
    refused(server.post(text.encode()), 400)


@pytest.mark.parametrize(
    "shape",
    [
        *([-1, 4], [2, -4], [-2, -4], [4], [2, 2, 2], [8, 1], [0]),
        *([2**31, 4], [2**62, 4], [2**32, 2**32], [2**64, 0], [10**300], [1] * 1000),
        *([2.0, 4], ["2", 4], [True, 4], None, 8, [[2, 4]]),
    ],
)
def test_r23_impossible_shapes_are_refused(server: Server, shape: Any) -> None:
    refused(server.infer(x(data=FLAT, shape=shape)), 400)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"[]", b"null", b'"a"', b"{}", b'{"inputs":null}', b'{"inputs":[null]}', b'{"inputs":{}}'),
        *(b"\xff\xfe{}", b"\x00" * 100, b'{"inputs":[]}x'),
        *(b'{"inputs":[],"id":"\xff"}', b'{"inputs":[],"id":"\\ud800"}'),
    ],
)
def test_malformed_bodies_are_refused(server: Server, body: bytes) -> None:
    refused(server.post(body), 400)


def _send_parameters(server: Server, where: str, parameters: Any) -> Any:
    inputs = x(parameters=parameters) if where == "input" else x()
    others: dict[str, Any] = {"parameters": parameters} if where == "request" else {}
    if where == "output":
        others["outputs"] = [{"name": "label", "parameters": parameters}, {"name": "probabilities"}]
    return server.infer(inputs, **others)


def _with_parameters(server: Server, where: str, parameters: Any) -> dict[str, Any]:
    return outputs(ok(_send_parameters(server, where, parameters)))
