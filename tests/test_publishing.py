"""A model file and its rows become a version with all that is known about it; what is wrong is one sentence."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pyarrow as pa
import pytest
from pyarrow import csv, parquet
from rich.console import Console
from typer.testing import CliRunner

from monitors import reference as references
from serving import cli
from serving.commands import registry as commands
from serving.declaration import Declaration
from serving.errors import BadRequest, Conflict, PublishRefused
from serving.manifest import Feature, Prediction, Segment
from serving.protocol import Array
from serving.publishing import Published, publish
from serving.repository import Repository
from serving.validation import Limits
from tests import models

ROWS = 1500


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return _open(tmp_path)


def _open(folder: Path) -> Repository:
    return Repository(f"sqlite:///{folder}/registry.db", (folder / "artifacts").as_uri())


def _model(folder: Path, data: bytes = b"", name: str = "model.onnx") -> Path:
    (folder / name).write_bytes(data or models.classifier())
    return folder / name


def _columns(rows: int = ROWS) -> dict[str, Array]:
    rng = np.random.default_rng(7)
    a, b = rng.normal(size=rows), rng.integers(0, 3, rows)
    p = 1 / (1 + np.exp(b - a))
    return {"a": a, "b": b, "late": rng.random(rows) < p, "at": np.arange(rows) * 600}


def _parquet(folder: Path, columns: dict[str, Array] | None = None) -> Path:
    parquet.write_table(pa.table(_columns() if columns is None else columns), folder / "rows.parquet")
    return folder / "rows.parquet"


def _full(repository: Repository, folder: Path, rows: Path) -> Published:
    declared = Declaration(
        task="classification", prediction="probabilities:1", features=["a", "b:categorical"], reference=rows,
        label="late", time="at", threshold=0.4, segments=["a:-1:1", "b"], kpi_range=(0.0, 9.0), lineage={"code": "abc"},
    )  # fmt: skip
    return publish(repository, "late", _model(folder), declared)


def test_only_name_and_file_are_required_and_the_rest_is_said_missing(repository: Repository, tmp_path: Path) -> None:
    published = publish(repository, "late", _model(tmp_path))
    assert published.created and published.manifest.version == "1"
    assert published.manifest == repository.manifest("late", "1")
    assert repository.read(published.manifest, "model.onnx") == models.classifier()
    assert published.manifest.rows_independent
    assert [note.partition(" not monitored:")[0] for note in published.notes] == [
        "drift and risk are", "features are", "the prediction is", "risk is",
    ]  # fmt: skip


def test_a_version_with_everything(repository: Repository, tmp_path: Path) -> None:
    published = _full(repository, tmp_path, _parquet(tmp_path))
    made = published.manifest
    assert "kinds that nobody declared are guessed from the values (numeric: a)" in published.notes
    assert made.features == (Feature("a", "x", 0), Feature("b", "x", 1, "categorical"))
    assert made.prediction == Prediction("probabilities", 1)
    assert (made.task, made.label) == ("classification", "late")
    assert (made.threshold, made.quantile, made.kpi_range) == (0.4, 0.5, (0.0, 9.0))
    assert made.segments[0] == Segment("a", edges=(-1.0, 1.0)) and set(made.segments[1].values) == {0.0, 1.0, 2.0}
    assert made.lineage["code"] == "abc" and made.lineage["producer"] == "gaugeway-tests"
    assert made.lineage["source"] == "model.onnx" and made.lineage["reference_rows"] == str(ROWS)
    profile = references.decode(repository.read(made, "reference.json"))
    assert profile.features.keys() == {"a", "b", "_prediction"}
    assert profile.features["b"].kind == "categorical"
    columns = _columns()
    p = 1 / (1 + np.exp(columns["b"] - columns["a"]))
    assert profile.risk is not None
    assert profile.risk.mean == pytest.approx(np.mean((p - columns["late"]) ** 2), abs=1e-6)
    assert sum(profile.features["_prediction"].counts) == ROWS


def test_csv_and_parquet_give_the_same_version(repository: Repository, tmp_path: Path) -> None:
    first = _full(repository, tmp_path, _parquet(tmp_path))
    csv.write_csv(pa.table(_columns()), tmp_path / "rows.csv")
    second = _full(repository, tmp_path, tmp_path / "rows.csv")
    assert not second.created
    assert second.manifest == first.manifest


def test_the_next_version_is_the_next_number_and_the_same_content_is_not_new(
    repository: Repository, tmp_path: Path
) -> None:
    assert publish(repository, "m", _model(tmp_path), Declaration(version="7")).created
    assert publish(repository, "m", _model(tmp_path), Declaration(version="beta")).manifest.version == "beta"
    again = publish(repository, "m", _model(tmp_path, name="renamed.onnx"))
    assert (again.created, again.manifest.version) == (False, "7")
    assert publish(repository, "m", _model(tmp_path, models.linear())).manifest.version == "8"


def test_other_content_under_a_version_is_refused(repository: Repository, tmp_path: Path) -> None:
    first = publish(repository, "m", _model(tmp_path), Declaration(version="1")).manifest
    with pytest.raises(Conflict, match="version '1' of 'm' exists with other files, signature"):
        publish(repository, "m", _model(tmp_path, models.linear()), Declaration(version="1"))
    with pytest.raises(Conflict, match="exists with other task"):
        publish(repository, "m", _model(tmp_path), Declaration(version="1", task="classification"))
    assert repository.manifests() == [first]


def test_a_tolerance_is_recorded_with_what_was_measured_and_said(repository: Repository, tmp_path: Path) -> None:
    model = _model(tmp_path, models.mean_over_words())
    strict = publish(repository, "m", model)
    assert not strict.manifest.rows_independent and strict.manifest.batch_tolerance == 0
    assert any("requests run alone; --batch-tolerance 1e-0" in note for note in strict.notes)
    allowed = publish(repository, "m", model, Declaration(batch_tolerance=1e-5))
    assert allowed.manifest == repository.manifest("m", "2")
    assert allowed.manifest.rows_independent and allowed.manifest.batch_tolerance == 1e-5
    assert allowed.manifest.batch_difference == strict.manifest.batch_difference
    assert allowed.manifest.digest == strict.manifest.digest
    assert any(note.endswith("(allowed 1e-05): requests share runs") for note in allowed.notes)


def test_another_tolerance_is_another_version(repository: Repository, tmp_path: Path) -> None:
    model = _model(tmp_path, models.mean_over_words())
    publish(repository, "m", model, Declaration(version="1"))
    with pytest.raises(Conflict, match=r"exists with other batch tolerance \(0, got 1e-05\).*under another version"):
        publish(repository, "m", model, Declaration(version="1", batch_tolerance=1e-5))
    second = publish(repository, "m", model, Declaration(batch_tolerance=1e-5))
    assert second.created and second.manifest.version == "2"
    assert "version '1' is the same but for its batch tolerance, 0" in second.notes
    for tolerance, version in ((0.0, "1"), (1e-5, "2")):
        again = publish(repository, "m", model, Declaration(batch_tolerance=tolerance))
        assert (again.created, again.manifest.version) == (False, version)


@pytest.mark.parametrize("tolerance", [-1e-9, np.nan, np.inf])
def test_what_is_no_tolerance_is_wrong_usage(repository: Repository, tmp_path: Path, tolerance: float) -> None:
    sentence = f"--batch-tolerance must be a finite number, 0 or more, got {tolerance:g}"
    with pytest.raises(BadRequest, match=sentence):
        publish(repository, "m", _model(tmp_path), Declaration(batch_tolerance=tolerance))
    wrong = CliRunner().invoke(cli.app, ["publish", "m", "model.onnx", "--batch-tolerance", str(tolerance)])
    assert wrong.exit_code == 2 and sentence in " ".join(wrong.output.replace("│", " ").split())


def test_the_table_of_models_says_who_shares_runs(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(repository, "bits", _model(tmp_path))
    publish(repository, "rounding", _model(tmp_path, models.mean_over_words()), Declaration(batch_tolerance=1e-5))
    publish(repository, "strict", _model(tmp_path, models.mean_over_words()))
    config = tmp_path / "gaugeway.toml"
    config.write_text(f'data_dir = "{tmp_path}"\n')
    monkeypatch.setattr(commands, "out", Console(width=200))
    shown = CliRunner().invoke(cli.app, ["models", "--config", str(config)]).output
    rows = {line.split()[1]: line.rpartition("│")[0].rpartition("│")[2].strip() for line in shown.splitlines()[3:-1]}
    assert rows == {"bits": "yes", "rounding": "yes, within 1e-05", "strict": "no"}


def test_inputs_of_one_column_each_and_text(repository: Repository, tmp_path: Path) -> None:
    rows = _parquet(tmp_path, {"a": np.arange(5.0), "b": np.ones(5)})
    columns = Declaration(features=["b", "a"], reference=rows, prediction="y", task="regression")
    made = publish(repository, "two", _model(tmp_path, models.two_inputs()), columns).manifest
    assert made.features == (Feature("b", "b"), Feature("a", "a"))
    law = references.decode(repository.read(made, "reference.json")).features["_prediction"]
    assert (law.low, law.high) == (-1, 3)  # a - b, not b - a
    words = tmp_path / "words.parquet"
    parquet.write_table(pa.table({"text": ["good", "bad", None, "gööd"]}), words)
    texts = Declaration(features=["text"], reference=words, prediction="score")
    made = publish(repository, "words", _model(tmp_path, models.text()), texts).manifest
    assert made.features == (Feature("text", "text", None, "categorical"),)


def test_missing_numbers_reach_the_model_as_nan(repository: Repository, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("a,b\n1,2\n,3\n2,\n")
    declared = Declaration(features=["a", "b"], reference=rows, prediction="y")
    made = publish(repository, "m", _model(tmp_path, models.linear()), declared).manifest
    profile = references.decode(repository.read(made, "reference.json"))
    assert [profile.features[name].counts[-1] for name in ("a", "b", "_prediction")] == [1, 1, 2]


@pytest.mark.parametrize(
    ("name", "declared", "sentence"),
    [
        ("Bad Name", Declaration(), "model name 'Bad Name' must match"),
        ("m", Declaration(version="../1"), "version '../1' must match"),
        ("m", Declaration(prediction="score"), "the model has no output 'score'; it has 'label', 'probabilities'"),
        ("m", Declaration(features=["a", "b"], segments=["c:1"]), "--segments names 'c', which is no feature"),
    ],
)
def test_a_wrong_declaration_changes_nothing(
    repository: Repository, tmp_path: Path, name: str, declared: Declaration, sentence: str
) -> None:
    with pytest.raises(BadRequest, match=sentence):
        publish(repository, name, _model(tmp_path), declared)
    assert repository.manifests() == []


@pytest.mark.parametrize(
    ("file", "declared", "sentence"),
    [
        ("rows.parquet", Declaration(), "--reference needs --features"),
        ("rows.parquet", Declaration(features=["a", "c"]), "has no column 'c'; it has 'a', 'b', 'late', 'at'"),
        ("rows.parquet", Declaration(features=["a", "b"], label="l"), "rows.parquet has no column 'l'"),
        ("model.onnx", Declaration(features=["a", "b"]), "cannot read .*model.onnx as Parquet, Arrow or CSV"),
        ("missing", Declaration(features=["a", "b"]), "there is no file .*missing"),
    ],
)
def test_reference_rows_that_are_not_what_was_said(
    repository: Repository, tmp_path: Path, file: str, declared: Declaration, sentence: str
) -> None:
    _parquet(tmp_path)
    declared = msgspec.structs.replace(declared, reference=tmp_path / file)
    with pytest.raises((BadRequest, PublishRefused), match=sentence) as refused:
        publish(repository, "m", _model(tmp_path), declared)
    assert "\n" not in str(refused.value)
    assert repository.manifests() == []


@pytest.mark.parametrize(
    ("column", "sentence"),
    [
        (pa.array(["x", "y"]), "column 'b' holds string, numbers are needed"),
        (pa.array([[1], [2]]), "column 'b' holds list<.*numbers are needed"),
    ],
)
def test_columns_the_model_cannot_take(repository: Repository, tmp_path: Path, column: Array, sentence: str) -> None:
    rows = _parquet(tmp_path, {"a": np.ones(2), "b": column})
    with pytest.raises(PublishRefused, match=sentence):
        publish(repository, "m", _model(tmp_path), Declaration(features=["a", "b"], reference=rows))


def test_whole_number_inputs_take_no_fractions_and_no_gaps(repository: Repository, tmp_path: Path) -> None:
    model, declared = _model(tmp_path, models.lookup()), Declaration(features=["index"], reference=_parquet(tmp_path))
    for values in (pa.array([0, None, 1]), pa.array([0.5, 1.0])):
        _parquet(tmp_path, {"index": values})
        with pytest.raises(PublishRefused, match=r"column 'index' holds values that input 'index' \(INT64\) cannot"):
            publish(repository, "m", model, declared)
    _parquet(tmp_path, {"index": np.arange(3)})
    assert publish(repository, "m", model, declared).created


def test_scores_that_are_no_probabilities(repository: Repository, tmp_path: Path) -> None:
    rows = _parquet(tmp_path, {"a": np.ones(2), "b": np.ones(2)})
    declared = Declaration(task="classification", prediction="y", features=["a", "b"], reference=rows)
    with pytest.raises(PublishRefused, match=r"needs probabilities in 0..1, output 'y' gave 3 to 3"):
        publish(repository, "m", _model(tmp_path, models.linear()), declared)


@pytest.mark.parametrize(
    "data",
    [b"not onnx", models.linear()[:-5], models.external(), models.deep_functions(), models.endless()],
    ids=["text", "truncated", "external", "crash", "endless"],
)
def test_a_refused_file_leaves_everything_as_it_was(repository: Repository, tmp_path: Path, data: bytes) -> None:
    publish(repository, "m", _model(tmp_path))
    before = {path: path.read_bytes() for path in (tmp_path / "artifacts").rglob("*") if path.is_file()}
    with pytest.raises(PublishRefused):
        publish(repository, "m", _model(tmp_path, data, "bad.onnx"), limits=Limits(wall_s=2.0))
    assert {path: path.read_bytes() for path in (tmp_path / "artifacts").rglob("*") if path.is_file()} == before
    assert [m.version for m in repository.manifests()] == ["1"]


def test_damage_is_healed_by_publishing_again(repository: Repository, tmp_path: Path) -> None:
    made = publish(repository, "m", _model(tmp_path)).manifest
    blob = next((tmp_path / "artifacts").rglob(made.files["model.onnx"]))
    blob.write_bytes(b"flipped")
    assert not publish(repository, "m", _model(tmp_path)).created
    assert repository.read(made, "model.onnx") == models.classifier()


_PUBLISH = """
import sys
from pathlib import Path
from tests.test_publishing import _full, _open
folder = Path(sys.argv[1])
print("begin", flush=True)
_full(_open(folder), folder, folder / "rows.parquet")
print("end", flush=True)
"""


@pytest.mark.parametrize("delay_s", [0.05, 0.5, 1.1])
def test_killed_while_publishing(tmp_path: Path, delay_s: float) -> None:
    """The steps of storing are enumerated in test_repository; this kills the whole, and looks for what it started."""
    _parquet(tmp_path)
    child = subprocess.Popen([sys.executable, "-c", _PUBLISH, str(tmp_path)], stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"begin\n"
    time.sleep(delay_s)
    family = psutil.Process(child.pid).children(recursive=True)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    assert psutil.wait_procs(family, timeout=5)[1] == []
    repository = _open(tmp_path)
    there = repository.manifests()
    for manifest in there:
        assert all(repository.read(manifest, name) for name in manifest.files)
    again = _full(repository, tmp_path, tmp_path / "rows.parquet")
    assert again.created is (not there) and again.manifest.version == "1"
