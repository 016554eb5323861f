"""A session runs what the model says, fails with one sentence, and costs next to nothing over onnxruntime itself."""

import subprocess
import sys
import threading
import time
import timeit
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from serving import runtime
from serving.errors import ArtifactCorrupt, BadRequest, ConfigError, ModelFailure, PublishRefused
from serving.manifest import Manifest
from serving.protocol import Signature, TensorSpec
from serving.runtime import Session, load, repeated
from tests import models


def _bytes(*rows: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.object_]]:
    return np.array([[row] for row in rows], object)


def test_signature_of_the_graph() -> None:
    session = Session(models.classifier())
    assert session.signature == Signature(
        (TensorSpec("x", "FP32", (-1, 2)),),
        (TensorSpec("label", "INT64", (-1,)), TensorSpec("probabilities", "FP32", (-1, 2))),
    )


def test_run_computes_all_outputs_in_order() -> None:
    x = np.array([[1, 2], [3, 4]], np.float32)
    (y,) = Session(models.linear((1.0, 2.0), 0.5)).run({"x": x})
    assert y.tolist() == [[5.5], [11.5]]
    label, probabilities = Session(models.classifier()).run({"x": x})
    assert label.tolist() == [0, 0]
    assert probabilities[:, 1] == pytest.approx([1 / (1 + np.e)] * 2)


def test_two_inputs_by_name() -> None:
    b, a = np.full((2, 1), 1, np.float32), np.full((2, 1), 5, np.float32)
    assert Session(models.two_inputs()).run({"b": b, "a": a})[0].ravel().tolist() == [4, 4]


def test_bytes_travel_as_bytes() -> None:
    sent = _bytes(b"good", "gööd".encode(), b"", b"a\0b", b"bad")
    echo, score = Session(models.text()).run({"text": sent})
    assert echo.tolist() == sent.tolist()
    assert score.ravel().tolist() == [1, 0, 0, 0, -1]
    assert sent[0, 0] == b"good"  # the caller's array is left alone


def test_bytes_that_are_no_text_are_the_clients_fault() -> None:
    with pytest.raises(BadRequest, match="input 'text' must be UTF-8"):
        Session(models.text()).run({"text": _bytes(b"good", b"\xff")})


def test_failure_on_an_input_is_one_sentence_and_passes() -> None:
    session = Session(models.lookup())
    with pytest.raises(ModelFailure, match=r"^the model failed: .*idx=7") as failure:
        session.run({"index": np.array([0, 7])})
    assert "\n" not in str(failure.value)
    assert session.run({"index": np.array([2])})[0].tolist() == [30]


def test_wrong_shape_and_missing_input_are_failures() -> None:
    session = Session(models.linear())
    for feed in ({"x": np.ones((1, 3), np.float32)}, {"x": np.ones((1, 2))}, {}):
        with pytest.raises(ModelFailure):
            session.run(feed)


@pytest.mark.parametrize("data", [b"", b"hello", models.linear()[:-3]])
def test_what_is_no_model_is_refused(data: bytes) -> None:
    with pytest.raises(PublishRefused, match="ONNX Runtime cannot load it"):
        Session(data)


def test_sequences_of_maps_are_refused() -> None:
    with pytest.raises(PublishRefused, match=r"output 'maps' is of type seq\(map"):
        Session(models.zipmap())


def test_interrupt_ends_what_runs_and_nothing_else() -> None:
    session = Session(models.endless())
    timer = threading.Timer(0.2, session.interrupt)
    timer.start()
    start = time.monotonic()
    with pytest.raises(ModelFailure, match="terminate"):
        session.run({"x": np.ones((1, 1), np.float32)})
    assert 0.1 < time.monotonic() - start < 5
    timer.join()
    short = Session(models.slow(10))
    short.interrupt()
    assert short.run({"x": np.ones((1, 1), np.float32)})[0].tolist() == [[1]]


def test_warm_finds_rows_that_run() -> None:
    assert Session(models.linear()).warm()["x"].shape == (8, 2)
    assert Session(models.fixed_rows(4)).warm()["x"].shape == (4, 2)
    assert Session(models.lookup([5.0])).warm()["index"].tolist() == [0] * 8  # ones are outside this table
    assert Session(models.text()).warm()["text"].shape == (8, 1)


def _manifest(signature: Signature) -> Manifest:
    return Manifest(model="m", version="1", files={}, signature=signature, rows_independent=True)


def test_load_compares_the_signature() -> None:
    session = load(_manifest(Session(models.linear()).signature), models.linear())
    assert session.run({"x": np.ones((1, 2), np.float32)})[0].tolist() == [[3]]
    with pytest.raises(ArtifactCorrupt, match=r"\(a FP32 .*the manifest \(x FP32"):
        load(_manifest(session.signature), models.two_inputs())


def test_run_costs_next_to_nothing_over_onnxruntime() -> None:
    model = models.classifier([1.0] * 16)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    bare, session = ort.InferenceSession(model, options), Session(model)
    feed, names = {"x": np.ones((1, 16), np.float32)}, ["label", "probabilities"]
    pairs = [
        (timeit.timeit(lambda: bare.run(names, feed), number=500), timeit.timeit(lambda: session.run(feed), number=500))
        for _ in range(20)
    ]
    extra_s = (min(ours for _, ours in pairs) - min(theirs for theirs, _ in pairs)) / 500
    assert extra_s < 2e-6


def test_a_provider_that_is_not_there_is_an_error_that_names_the_extra() -> None:
    with pytest.raises(ConfigError, match=r"no CUDAExecutionProvider here, it has .*CPU.*; install the extra `gpu`"):
        Session(models.linear(), provider="cuda")


def test_operators_that_another_provider_leaves_to_the_cpu_are_named_and_counted() -> None:
    options = ort.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = ort.InferenceSession(models.classifier(), options, providers=["CPUExecutionProvider"])
    assigned = session.get_provider_graph_assignment_info()
    named = dict(text.split(" x ") for text in runtime._fallen_back(assigned))
    assert {"ArgMax", "Concat", "Sigmoid"} <= named.keys() and named["ArgMax"] == "1"
    assert Session(models.classifier()).fallen_back() == []  # there, the CPU is what was asked for


def test_memory_is_bounded(tmp_path: Path) -> None:
    """In a process of its own: the bound is that of the process."""
    model = tmp_path / "m.onnx"
    model.write_bytes(models.mean_over_words())
    code = f"""
import numpy as np
from pathlib import Path
from serving.errors import ModelFailure
from serving.runtime import Session
session = Session(Path({str(model)!r}).read_bytes(), memory_bytes=2**20)
assert session.run({{"x": np.ones((10, 18, 384), np.float32)}})[0].shape == (10, 384)
try:
    session.run({{"x": np.ones((1000, 18, 384), np.float32)}})
except ModelFailure as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "smaller than requested" in done.stdout, done.stdout + done.stderr


def test_a_row_is_repeated_where_rows_are_free() -> None:
    signature = Signature((TensorSpec("x", "FP32", (-1, 2)), TensorSpec("table", "FP32", (3,))), ())
    feed = {"x": np.array([[1, 2], [3, 4]], np.float32), "table": np.zeros(3, np.float32)}
    found = repeated(feed, signature, 4)
    assert found["x"].tolist() == [[1, 2]] * 4 and found["table"] is feed["table"]
