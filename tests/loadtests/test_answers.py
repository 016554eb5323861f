"""Answers are held against onnxruntime's, in JSON and in bytes."""

import json

import numpy as np
import pytest

from loadtests.answers import Answer, WrongAnswer, compare, decode
from loadtests.peers.apps import tensors
from loadtests.workloads import Workload

OUTPUTS: dict[str, np.ndarray] = {"label": np.array([1], np.int64), "scores": np.array([[0.25, 0.75]], np.float32)}


def test_what_our_applications_write_is_what_is_read() -> None:
    body, length = tensors.to_bytes("m", OUTPUTS)
    for answer in (Answer(tensors.answer("m", OUTPUTS), None), Answer(body, length)):
        compare(answer, OUTPUTS, {})
        assert decode(answer)["scores"].tolist() == [0.25, 0.75]


@pytest.mark.parametrize("binary", [False, True])
def test_what_is_asked_is_what_our_applications_read(binary: bool) -> None:
    values = np.array([[0.1, -2.5]], np.float32)
    workload = Workload("m", "", b"", {"x": values}, binary, (1,))
    length = int(workload.headers.get("Inference-Header-Content-Length", 0))
    read = tensors.from_bytes(workload.body, length) if binary else tensors.from_json(json.loads(workload.body))
    assert np.array_equal(read["x"], values)


def test_a_request_in_json_has_whole_numbers_as_such_and_floats_as_people_write_them() -> None:
    inputs: dict[str, np.ndarray] = {"n": np.array([[7]], np.int64), "x": np.array([[0.1]], np.float32)}
    body = Workload("m", "", b"", inputs, False, (1,)).body
    assert b'"data": [7]' in body and b'"data": [0.1]' in body


def test_another_number_is_a_wrong_answer() -> None:
    answer = Answer(tensors.answer("m", OUTPUTS), None)
    with pytest.raises(WrongAnswer, match="scores is"):
        compare(answer, OUTPUTS | {"scores": np.array([[0.25, 0.7502]], np.float32)}, {})
    with pytest.raises(WrongAnswer, match="scores is"):
        compare(answer, OUTPUTS | {"scores": np.array([[0.25, 0.75, 0.0]], np.float32)}, {})


def test_a_missing_output_is_a_wrong_answer_and_another_name_is_not() -> None:
    answer = Answer(tensors.answer("m", {"y_prob": OUTPUTS["scores"]}), None)
    compare(answer, {"scores": OUTPUTS["scores"]}, {"scores": "y_prob"})
    with pytest.raises(WrongAnswer, match="no output 'scores'; it has y_prob"):
        compare(answer, {"scores": OUTPUTS["scores"]}, {})
