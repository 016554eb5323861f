import json
from collections.abc import Sequence

import numpy as np
import pytest

from serving.codec import bind, decode_request, respond
from serving.errors import BadRequest
from serving.protocol import Array, InferRequest, RequestedOutput, Signature, Tensor, TensorSpec

SIGNATURE = Signature(
    (TensorSpec("a", "FP32", (-1, 2)), TensorSpec("b", "INT64", (-1,))),
    (TensorSpec("label", "INT64", (-1,)), TensorSpec("p", "FP32", (-1, 2))),
)
A, B = Tensor("a", "FP32", np.ones((3, 2), np.float32)), Tensor("b", "INT64", np.ones(3, np.int64))
LABEL, P = np.array([1]), np.array([[0.25, 0.75]], np.float32)


def refused(*inputs: Tensor, outputs: Sequence[str] | None = None) -> str:
    names = None if outputs is None else [RequestedOutput(name, False) for name in outputs]
    with pytest.raises(BadRequest) as error:
        bind(InferRequest(list(inputs), names), SIGNATURE, "m")
    return str(error.value)


def test_arrays_come_in_the_order_of_the_signature() -> None:
    arrays = bind(InferRequest([B, A]), SIGNATURE, "m")
    assert arrays[0] is A.data and arrays[1] is B.data


def test_a_model_without_inputs_takes_none() -> None:
    assert bind(InferRequest([]), Signature((), ()), "m") == []


@pytest.mark.parametrize(
    ("datatype", "array", "got"),
    [
        ("FP64", np.ones((1, 2)), "FP64 [1, 2]"),
        ("FP32", np.ones((1, 4), np.float32), "FP32 [1, 4]"),
        ("FP32", np.ones(2, np.float32), "FP32 [2]"),
        ("FP32", np.ones((1, 1, 2), np.float32), "FP32 [1, 1, 2]"),
    ],
)
def test_another_datatype_or_shape_is_refused(datatype: str, array: Array, got: str) -> None:
    message = refused(Tensor("a", datatype, array), B)
    assert message == f"input 'a' of model 'm': got {got}, expected FP32 [-1, 2]"


def test_missing_extra_and_doubled_inputs_are_refused() -> None:
    assert refused(A) == "model 'm' takes 'a', 'b'; the request lacks 'b'"
    assert refused(A, B, Tensor("c\n", "FP32", A.data)) == "model 'm' has no input 'c\\n'; it has 'a', 'b'"
    assert refused(A, B, A) == "model 'm' takes 'a', 'b'; the request has one twice"


def test_an_unknown_output_is_refused_before_the_model_runs() -> None:
    assert refused(A, B, outputs=["p", "q"]) == "model 'm' has no output 'q'; it has 'label', 'p'"


@pytest.mark.parametrize("asked", [True, False])
def test_all_outputs_in_the_order_of_the_model(asked: bool) -> None:
    response = respond(InferRequest([], id="r", binary_output=asked), SIGNATURE, [LABEL, P], "m", "7")
    assert [(output.name, output.datatype) for output in response.outputs] == [("label", "INT64"), ("p", "FP32")]
    assert response.outputs[1].data is P
    assert (response.model, response.version, response.id) == ("m", "7", "r")
    assert response.binary == (frozenset(["label", "p"]) if asked else frozenset())


def test_exactly_the_outputs_asked_for_in_that_order() -> None:
    request = InferRequest([], [RequestedOutput("p", True), RequestedOutput("label", False)])
    response = respond(request, SIGNATURE, [LABEL, P], "m", "7")
    assert [output.name for output in response.outputs] == ["p", "label"]
    assert response.outputs[0].data is P and response.binary == {"p"}
    assert request.outputs is not None
    fewer = InferRequest([], request.outputs[:1])
    assert [output.name for output in respond(fewer, SIGNATURE, [LABEL, P], "m", "7").outputs] == ["p"]


def test_a_decoded_request_binds() -> None:
    inputs = [
        {"name": "a", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]},
        {"name": "b", "datatype": "INT64", "shape": [1], "data": [-1]},
    ]
    a, b = bind(decode_request(json.dumps({"inputs": inputs}).encode()), SIGNATURE, "m")
    assert a.tolist() == [[1.0, 2.0]] and b.tolist() == [-1]
