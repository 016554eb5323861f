"""Rows that do not fit into memory at once give a profile of all of them, through the model in its child."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, ipc, parquet

from serving.declaration import declared_kinds, resolve_features
from serving.errors import PublishRefused
from serving.manifest import Prediction
from serving.profiling import Answer, Question, profiled
from serving.protocol import Array, Signature, TensorSpec
from serving.rows import Rows
from serving.validation import Report, predict, validate
from tests import models


def _profiled(question: Question, signature: Signature, model: bytes, part_rows: int) -> Answer:
    return profiled(
        question, signature, lambda rows: validate(model, rows), lambda *run: predict(model, *run), part_rows
    )


def _write(folder: Path, rows: int) -> Path:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=rows), rng.integers(0, 3, rows)
    late = rng.random(rows) < 1 / (1 + np.exp(b - a))
    parquet.write_table(pa.table({"a": a, "b": b, "late": late, "at": np.arange(rows) * 600}), folder / "rows.parquet")
    return folder / "rows.parquet"


def test_parts_and_the_whole(tmp_path: Path) -> None:
    """What all rows decide is the same, also of the prediction; what the sample decides is near."""
    model, signature = models.classifier(), validate(models.classifier()).signature
    features = resolve_features(["a", "b"], signature)
    question = Question(
        _write(tmp_path, 3_000), features, declared_kinds(["a", "b"], features), Prediction("probabilities", 1),
        "classification", "late", "at", 86400.0,
    )  # fmt: skip
    parts, whole = (_profiled(question, signature, model, rows) for rows in (1_600, 3_000))
    assert (parts.digest, parts.features) == (whole.digest, whole.features)
    assert [feature.kind for feature in parts.features] == ["numeric", "categorical"]
    for name, law in whole.profile.features.items():
        other = parts.profile.features[name]
        assert (other.low, other.high, other.rows) == (law.low, law.high, 3_000)
        assert other.edges == pytest.approx(law.edges, abs=0.1)
    laws = parts.profile.features["b"], whole.profile.features["b"]
    first, second = (dict(zip(law.categories, law.counts, strict=False)) for law in laws)
    assert first == second
    assert parts.profile.risk is not None and whole.profile.risk is not None
    assert parts.profile.risk.mean == pytest.approx(whole.profile.risk.mean, rel=1e-12)
    assert any(note.startswith("all 3000 rows are counted") for note in parts.profile.notes)
    assert not any(note.startswith("all 3000 rows") for note in whole.profile.notes)


def test_a_row_that_the_model_fails_on_is_found_in_any_part(tmp_path: Path) -> None:
    path, model = tmp_path / "rows.parquet", models.lookup()
    parquet.write_table(pa.table({"index": np.zeros(50, int)}), path)
    drawn = Rows(path, ["index"]).sample(20).numbers
    wrong = next(row for row in range(20, 40) if row not in drawn)
    parquet.write_table(pa.table({"index": np.where(np.arange(50) == wrong, 99, 0)}), path)
    signature = validate(model).signature
    question = Question(path, resolve_features(["index"], signature), {}, Prediction("y"), None, None, None, 86400.0)
    where = r"the model fails on reference row.* \(counted from row 20 of .*rows.parquet\)"
    with pytest.raises(PublishRefused, match=where):
        _profiled(question, signature, model, 20)


@pytest.mark.parametrize("part_rows", [900, 10_000])
def test_any_format_and_any_batches_give_the_same_profile(tmp_path: Path, part_rows: int) -> None:
    table = parquet.read_table(_write(tmp_path, 3_000))
    signature = Signature((TensorSpec("x", "FP32", (-1, 2)),), ())
    bare = Report(signature, True, None, 0.0, 0.0, {})
    features = resolve_features(["a", "b"], signature)

    def profile(name: str, write: Callable[[Path], None]) -> bytes:
        write(path := tmp_path / name)
        question = Question(path, features, {}, None, "classification", "late", "at", 86400.0)
        answer = profiled(question, signature, lambda _: bare, lambda rows, together: [], part_rows)
        return answer.profile.encode()

    def stream(path: Path) -> None:
        with ipc.new_stream(path, table.schema) as file:
            file.write_table(table, max_chunksize=77)

    whole = profile("whole.parquet", lambda path: parquet.write_table(table, path))
    assert profile("groups.parquet", lambda path: parquet.write_table(table, path, row_group_size=130)) == whole
    assert profile("batches.arrow", stream) == whole
    assert profile("text.csv", lambda path: csv.write_csv(table, path)) == whole


def _odds(rows: Mapping[str, Array], together: bool) -> list[Array]:
    p = 1 / (1 + np.exp(rows["x"][:, 1] - rows["x"][:, 0]))
    return [np.stack([1 - p, p], 1)]


def test_one_row_of_each_cluster_and_block_is_counted_and_every_loss(tmp_path: Path) -> None:
    """A day has rows of three clusters. However its rows are cut into parts, the same ones are counted."""
    signature = Signature((TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("p", "FP32", (-1, 2)),))
    path, features = _write(tmp_path, 3_000), resolve_features(["a", "b:categorical"], signature)
    question = Question(
        path, features, declared_kinds(["a", "b:categorical"], features), Prediction("p", 1), "classification", "late",
        "at", 86400.0, "b",
    )  # fmt: skip

    def tried(rows: Mapping[str, Array]) -> Report:
        return Report(signature, True, None, 0.0, 0.0, {}, predictions=_odds(rows, True))

    profile, whole = (profiled(question, signature, tried, _odds, rows).profile for rows in (700, 3_000))
    table = parquet.read_table(path)
    days, b = table["at"].to_numpy() // 86400, table["b"].to_numpy()
    once = len(set(zip(days.tolist(), b.tolist(), strict=True)))
    assert profile.features == whole.features
    assert (profile.cluster, profile.rows) == ("b", 3_000)
    assert {law.rows for law in profile.features.values()} == {once}
    assert profile.features["b"].counts[:3] == (once // 3,) * 3
    assert profile.risk is not None and profile.risk.n == 3_000
    assert f"one row of each b and block is counted: {once} of 3000 rows" in profile.notes


def test_a_season_by_the_clock_of_a_time_zone(tmp_path: Path) -> None:
    signature = Signature((TensorSpec("x", "FP64", (-1, 2)),), ())
    at = np.repeat(np.arange(4 * 168), 100) * 3600.0
    rng = np.random.default_rng(6)
    a = np.sin(at / 86400 * 2 * np.pi) + rng.normal(size=len(at))
    parquet.write_table(pa.table({"a": a, "b": rng.normal(size=len(at)), "at": at}), tmp_path / "rows.parquet")
    features = resolve_features(["a:numeric", "b:numeric"], signature)
    kinds = declared_kinds(["a:numeric", "b:numeric"], features)
    question = Question(
        tmp_path / "rows.parquet", features, kinds, None, None, None, "at", 3600.0, zone="Europe/Berlin"
    )
    bare = Report(signature, True, None, 0.0, 0.0, {})
    profiles = [profiled(question, signature, lambda _: bare, _odds, rows).profile for rows in (30_000, 100_000)]
    for profile in profiles:
        strata = profile.features["a"].strata
        assert strata and strata.by == "hour of the day" and strata.zone == profile.zone == "Europe/Berlin"
        assert any(note.startswith("a: compared by hour of the day (Europe/Berlin)") for note in profile.notes)
