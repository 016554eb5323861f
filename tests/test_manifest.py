from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import manifest
from serving.errors import BadRequest
from serving.manifest import Feature, Manifest, Prediction
from serving.protocol import Signature, TensorSpec

SIGNATURE = Signature(inputs=(TensorSpec("x", "FP32", (-1, 2)),), outputs=(TensorSpec("p", "FP32", (-1, 2)),))

files = st.dictionaries(
    st.from_regex(r"[a-z]{1,8}\.(onnx|json)", fullmatch=True),
    st.binary(max_size=4).map(lambda content: sha256(content).hexdigest()),
    min_size=1,
    max_size=4,
)


def manifest_of(files: dict[str, str]) -> Manifest:
    return Manifest(model="m", version="1", files=files, signature=SIGNATURE, rows_independent=True)


def full() -> Manifest:
    return Manifest(
        model="m",
        version="1",
        files={"model.onnx": "0" * 64},
        signature=SIGNATURE,
        rows_independent=False,
        task="classification",
        prediction=Prediction("p", 1),
        features=(Feature("a", "x", 0), Feature("b", "x", 1, "categorical")),
        label="late",
        lineage={"opset": "17"},
        batch_tolerance=1e-5,
        batch_difference=3.1e-7,
    )


def test_the_digest_is_the_one_that_sha256sum_makes() -> None:
    """`sha256sum * | sha256sum` in a folder with the version's files."""
    digest = sha256(b"onnx").hexdigest()
    assert manifest_of({"model.onnx": digest}).digest == sha256(f"{digest}  model.onnx\n".encode()).hexdigest()


@given(files=files)
def test_the_digest_does_not_depend_on_the_order_of_the_files(files: dict[str, str]) -> None:
    assert manifest_of(dict(reversed(files.items()))).digest == manifest_of(files).digest


@given(one=files, other=files)
def test_the_digest_changes_with_any_name_or_content(one: dict[str, str], other: dict[str, str]) -> None:
    assert (manifest_of(one).digest == manifest_of(other).digest) == (one == other)


@pytest.mark.parametrize("complete", [full(), manifest_of({"model.onnx": "0" * 64})])
def test_a_manifest_comes_back(complete: Manifest) -> None:
    assert manifest.decode(complete.encode()) == complete


def test_what_was_written_before_there_was_a_tolerance_is_the_same_document() -> None:
    old = (
        b'{"model":"m","version":"1","files":{"model.onnx":"00"},'
        b'"signature":{"inputs":[],"outputs":[]},"rows_independent":false}'
    )
    read = manifest.decode(old)
    assert (read.batch_tolerance, read.batch_difference) == (0.0, None)
    assert read.encode() == old


def test_its_encoding_does_not_depend_on_the_order_of_insertion() -> None:
    assert manifest_of({"a.json": "0", "b.json": "1"}).encode() == manifest_of({"b.json": "1", "a.json": "0"}).encode()


def test_predictions_are_parsed() -> None:
    assert manifest.parse_prediction("score") == Prediction("score")
    assert manifest.parse_prediction("probabilities:1") == Prediction("probabilities", 1)
    assert manifest.parse_prediction("ns:out:0") == Prediction("ns:out", 0)


@pytest.mark.parametrize("text", [":1", "score:", "score:first", "score:-1"])
def test_a_prediction_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="takes OUTPUT or OUTPUT:COLUMN"):
        manifest.parse_prediction(text)
