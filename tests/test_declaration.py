"""What is wrong with a declaration is said in a sentence, and before anything of it is done."""

from pathlib import Path

import pytest

from serving.declaration import Declaration, describe
from serving.errors import BadRequest
from serving.manifest import Feature, Prediction
from serving.protocol import Signature, TensorSpec

SIGNATURE = Signature(
    (TensorSpec("x", "FP32", (-1, 2)),),
    (
        TensorSpec("label", "INT64", (-1,)),
        TensorSpec("probabilities", "FP32", (-1, 2)),
        TensorSpec("t", "BYTES", (-1,)),
    ),
)


@pytest.mark.parametrize(
    ("declared", "sentence"),
    [
        (Declaration(version="../1"), "version '../1' must match"),
        (Declaration(task="ranking"), "--task must be classification or regression, got 'ranking'"),
        (Declaration(label="late"), "--label names a column of the reference rows: give them with --reference"),
        (Declaration(time="at"), "--time names a column of the reference rows"),
        (Declaration(time_zone="Nowhere"), "--time-zone must be a name that this machine knows"),
        (Declaration(cluster="user"), "--cluster names a column of the reference rows"),
        (Declaration(threshold=1.0), "--threshold must lie between 0 and 1, got 1"),
        (Declaration(quantile=0.0), "--quantile must lie between 0 and 1, got 0"),
        (Declaration(batch_tolerance=-1.0), "--batch-tolerance must be a finite number, 0 or more, got -1"),
    ],
)
def test_what_is_wrong_of_any_model(declared: Declaration, sentence: str) -> None:
    with pytest.raises(BadRequest, match=sentence):
        declared.check()


@pytest.mark.parametrize(
    ("declared", "sentence"),
    [
        (Declaration(prediction="score"), "the model has no output 'score'; it has 'label', 'probabilities', 't'"),
        (Declaration(prediction="probabilities"), r"FP32 \[-1, 2\]; say which column, as in probabilities:1"),
        (Declaration(prediction="probabilities:2"), "it has no column 2"),
        (Declaration(prediction="t"), r"--prediction must be numeric, output 't' is BYTES \[-1\]"),
        (Declaration(features=["a"]), r"--features names 1 columns, but input 'x' is FP32 \[-1, 2\]"),
        (Declaration(features=["a", "a"]), "names a feature twice"),
        (Declaration(features=["a", "b:nominal"]), "feature 'b' must be numeric or categorical, got 'nominal'"),
        (Declaration(features=["a", "_all"]), "must not be empty or begin with '_'"),
    ],
)
def test_what_is_wrong_of_this_model(declared: Declaration, sentence: str) -> None:
    declared.check()
    with pytest.raises(BadRequest, match=sentence):
        describe(declared, SIGNATURE)


def test_what_is_left_out_is_not_monitored() -> None:
    nothing = Declaration()
    nothing.check()
    found = describe(nothing, SIGNATURE)
    assert (found.task, found.prediction, found.features, found.label) == (None, None, (), None)


def test_what_is_said_is_in_the_terms_of_the_signature() -> None:
    found = describe(Declaration(prediction="probabilities:1", features=["a", "b:categorical"]), SIGNATURE)
    assert found.prediction == Prediction("probabilities", 1)
    assert found.features == (Feature("a", "x", 0), Feature("b", "x", 1, "categorical"))


def test_clusters_are_named_by_a_feature() -> None:
    declared = Declaration(features=["a", "b"], reference=Path("rows.csv"), cluster="user")
    with pytest.raises(BadRequest, match="--cluster must name a feature, got 'user'; the features are 'a', 'b'"):
        describe(declared, SIGNATURE)
