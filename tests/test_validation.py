"""What is measured of a good model, and one clear sentence for each that will not be served."""

import os
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from serving.errors import PublishRefused
from serving.probe import DOMAINS, inspect
from serving.protocol import TensorSpec
from serving.speed import batch_rows
from serving.validation import Limits, Report, validate
from tests import models


def test_report_of_a_good_model() -> None:
    x = np.array([[1, 2], [3, 4], [np.nan, 0]], np.float32)
    report = validate(models.linear(), {"x": x})
    assert isinstance(report, Report)
    assert report.signature.inputs == (TensorSpec("x", "FP32", (-1, 2)),)
    assert report.rows_independent
    assert 0 < report.latency_s < 0.1 and 0 < report.load_s < 10
    assert report.facts == {"producer": "gaugeway-tests", "opset": "ai.onnx 17, ai.onnx.ml 3", "ir_version": "8"}
    assert report.predictions is not None
    np.testing.assert_array_equal(report.predictions[0], [[5], [11], [np.nan]])


def test_batches_are_timed_where_rows_may_share_a_run() -> None:
    times = validate(models.slow(300)).batch_times
    assert [point.rows for point in times] == [2**n for n in range(9)]
    assert all(1e-4 < point.run_s < 0.1 for point in times)  # 300 products, whatever the rows
    assert batch_rows(times) >= 64
    assert validate(models.row_dependent()).batch_times == ()


def test_without_rows_there_are_no_predictions(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(models.text())
    report = validate(path)
    assert report.predictions is None and report.rows_independent


def test_bytes_go_there_and_back() -> None:
    text = np.array([[b"good"], ["gööd".encode()], [b""]], object)
    report = validate(models.text(), {"text": text})
    assert report.predictions is not None
    assert report.predictions[0].tolist() == text.tolist()


def test_rows_that_depend_on_each_other_are_found_and_predicted_alone() -> None:
    report = validate(models.row_dependent(), {"x": np.array([[1, 2], [3, 5]], np.float32)})
    assert not report.rows_independent
    assert report.predictions is not None and report.predictions[0].tolist() == [[0, 0], [0, 0]]


def test_rows_that_differ_in_the_last_bits_share_runs_only_where_that_is_allowed() -> None:
    strict = validate(models.mean_over_words())
    assert not strict.rows_independent
    assert strict.batch_difference is not None and 1e-9 < strict.batch_difference < 1e-5
    allowed = validate(models.mean_over_words(), batch_tolerance=1e-5)
    assert allowed.rows_independent and allowed.batch_difference == strict.batch_difference
    assert not validate(models.mean_over_words(), batch_tolerance=strict.batch_difference / 2).rows_independent


def test_given_rows_are_measured_too_and_their_nan_is_no_difference() -> None:
    rows = np.random.default_rng(1).standard_normal((8, 18, 384)).astype(np.float32)
    rows[2, 5] = np.nan
    assert validate(models.mean_over_words(), {"x": rows}, batch_tolerance=1e-5).rows_independent
    large = validate(models.mean_over_words(), {"x": rows * 1e3}).batch_difference
    small = validate(models.mean_over_words()).batch_difference
    assert large is not None and small is not None and large > small  # below 1 the difference is absolute


def test_whole_numbers_must_be_the_same_whatever_is_allowed() -> None:
    report = validate(models.rounded_mean_over_words(), batch_tolerance=1e3)
    assert not report.rows_independent and report.batch_difference is None


def test_a_tolerance_changes_nothing_where_bits_are_the_same() -> None:
    report = validate(models.linear(), batch_tolerance=1e-5)
    assert report.rows_independent and report.batch_difference is None


def test_a_fixed_number_of_rows_is_not_batched() -> None:
    assert not validate(models.fixed_rows(4)).rows_independent
    with pytest.raises(PublishRefused, match=r"input 'x' has shape \[4, 2\]"):
        validate(models.fixed_rows(4), {"x": np.ones((4, 2), np.float32)})


def test_a_declared_shape_that_lies_is_corrected() -> None:
    model = onnx.ModelProto.FromString(models.lookup())
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    report = validate(model.SerializeToString())
    assert report.signature.outputs == (TensorSpec("y", "FP32", (-1,)),)
    assert report.rows_independent


def test_reference_rows_that_the_model_fails_on() -> None:
    with pytest.raises(PublishRefused, match=r"the model fails on reference rows 0 to 3: .*idx=7"):
        validate(models.lookup(), {"index": np.array([0, 1, 2, 7])})


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (b"", "not an ONNX file, or a truncated one"),
        (b"# just text\n", "not an ONNX file, or a truncated one"),
        (models.linear()[:-5], "not an ONNX file, or a truncated one"),
        (models.external(), "tensor 'w' lies in an external file; save the model as one file"),
        (models.ep_context(), "EPContext node, precompiled for one device; publish the model it was compiled from"),
        (models.unknown_domain(), "operator 'Magic' is of the unknown domain 'com.example.custom'; export the model"),
        (models.zipmap(), "output 'maps' is a sequence of maps; convert the model again with zipmap=False"),
        (models.deep_functions(), "the validation process died of signal 11 while loading"),
        (models.division_by_zero(), "the validation process died of signal 8 while loading"),
        (models.lookup([]), "the model failed: .*warming up"),
    ],
    ids=[
        "empty", "text", "truncated", "external", "ep-context", "domain", "zipmap", "deep", "division", "never-runs",
    ],
)  # fmt: skip
def test_refused_with_one_sentence(model: bytes, sentence: str) -> None:
    with pytest.raises(PublishRefused, match=sentence) as refused:
        validate(model)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("at", [0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_truncated_anywhere_is_refused(at: float) -> None:
    model = models.classifier([1.0] * 8)
    with pytest.raises(PublishRefused):
        inspect(model[: int(len(model) * at)])


def test_external_data_in_a_subgraph_is_found() -> None:
    tensor = TensorProto(name="deep", data_type=TensorProto.FLOAT, dims=[1])
    tensor.external_data.add(key="location", value="/etc/passwd")
    inner = helper.make_graph([helper.make_node("Constant", [], ["c"], value=tensor)], "inner", [], [])
    node = helper.make_node("If", ["x"], [], then_branch=inner, else_branch=inner)
    model = helper.make_model(helper.make_graph([node], "outer", [], []))
    with pytest.raises(PublishRefused, match="tensor 'deep' lies in an external file"):
        inspect(model.SerializeToString())


def test_operators_of_the_files_own_functions_are_known() -> None:
    assert "chain" not in DOMAINS
    assert validate(models.deep_functions(3)).rows_independent


def test_memory_is_limited() -> None:
    with pytest.raises(PublishRefused, match="needs more than 2 GiB of memory while warming up"):
        validate(models.memory_bomb(3), limits=Limits(memory_bytes=2 * 2**30))


def test_wall_time_is_limited() -> None:
    start = time.monotonic()
    with pytest.raises(PublishRefused, match="took more than 3 s while warming up"):
        validate(models.endless(), limits=Limits(wall_s=3.0))
    assert time.monotonic() - start < 10


def test_cpu_time_is_limited() -> None:
    with pytest.raises(PublishRefused, match="took more than 2 s of CPU time while warming up"):
        validate(models.endless(), limits=Limits(cpu_s=2))


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    descriptors = len(os.listdir("/proc/self/fd"))
    for model in (models.linear(), models.deep_functions()):
        try:
            validate(model)
        except PublishRefused:
            pass
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) <= descriptors  # an earlier one may be closed meanwhile


def test_what_is_not_a_readable_file(tmp_path: Path) -> None:
    with pytest.raises(PublishRefused, match="there is no file"):
        validate(tmp_path / "missing.onnx")
    with pytest.raises(PublishRefused, match="is not a file"):
        validate(tmp_path)
