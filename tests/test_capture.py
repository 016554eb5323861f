"""`gaugeway capture`, and what docs/capture.md says one can do with it, done."""

import json
import os
import re
import sqlite3
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from monitors.capture.tap import Tap
from monitors.labels import Label, LabelStore
from serving import config, record
from serving.cli import app
from serving.config import Capture
from serving.manifest import Feature
from serving.packed import Cut, Excerpt
from serving.protocol import Signature, TensorSpec
from serving.record import Column, Record
from serving.repository import Repository
from serving.ring import RingWriter
from serving.routing import ModelEntry, Policy, Router, Table, VersionEntry, initial
from serving.rows import Rows
from tests.monitors.capture.captured import NOW, rows
from tests.replicas import manifest

DOCUMENT = (Path(__file__).parent.parent / "docs" / "capture.md").read_text()
FEATURES = (
    Feature("hour", "hour"),
    Feature("carrier", "carrier", None, "categorical"),
    Feature("distance", "distance"),
)
SPECS = (
    TensorSpec("hour", "INT64", (-1,)),
    TensorSpec("carrier", "BYTES", (-1,)),
    TensorSpec("distance", "FP32", (-1,)),
)
REQUESTS, SPACING_S = 60, 3600.0
POLICY = Policy("flights", initial({"1": 0.5, "2": 0.5}), ("1", "2"), "header:x-user-id")


def flight(k: int) -> Record:
    """One request of one row; the user's name is `user-0`, …, `user-4`."""
    values: list[Any] = [
        np.array([k % 24]),
        np.array([[b"UA", b"AA"][k % 2]], object),
        np.array([100.0 * k], np.float32),
    ]
    cuts = [Cut(spec.name, i, None, spec.datatype, 0) for i, spec in enumerate(SPECS)]
    key = Router(POLICY).choose(f"user-{k % 5}", sticky=True).key_hash
    p = (k % 10) / 10
    return Record(
        model="flights", version=str(1 + k % 2), digest="d", role="primary", ids=[f"r{k}"], first_rows=[0], counts=[1],
        reasons=["sticky"], propensities=[0.5], keys=[key], event_times=[NOW + k * SPACING_S],
        arrival_times=[NOW + k * SPACING_S], statuses=[200], queue_s=[0.0], infer_s=0.0,
        inputs={s.name: Column.of(s.datatype, value) for s, value in zip(SPECS, values, strict=True)},
        outputs={"probabilities": Column.of("FP32", np.array([[1 - p, p]], np.float32))},
        excerpt=Excerpt((*cuts, Cut("probabilities", 3, None, "FP32", 1, output=True)), 1.0),
    )  # fmt: skip


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node that captured, the folder one works in; labels say that the larger half of the distances was late."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("GAUGEWAY_")]:
        monkeypatch.delenv(name)
    (tmp_path / "gaugeway.toml").write_text(f'data_dir = "{tmp_path}"')
    settled = config.load(tmp_path / "gaugeway.toml")
    versions = {v: VersionEntry(manifest("flights", v)) for v in ("1", "2")}
    Repository.of(settled).keep_table(Table(1, {"flights": ModelEntry(POLICY, versions)}))
    ring = RingWriter(settled.run_dir / "rings" / "worker-0.ring", 2**20)
    subject = Tap(settled.run_dir / "rings", settled.captures)
    subject.log.settings = {"flights": Capture(enabled=True)}
    for k in range(REQUESTS):
        one = flight(k)
        assert ring.append(record.encode(one), 1)
    subject.poll(NOW)
    subject.close()
    _label(settled.run_dir / "monitors.db")
    return tmp_path


def _label(path: Path) -> None:
    sql = sqlite3.connect(path)
    labels = [Label("flights", f"r{k}", 0, float(k >= REQUESTS // 2), NOW) for k in range(0, REQUESTS, 3)]
    LabelStore(sql, 1000).add_labels(labels, slot=1)
    sql.commit()
    sql.close()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["capture", *arguments])


def done(*arguments: str) -> Any:
    found = run(*arguments, "--json")
    assert found.exit_code == 0, found.output
    return json.loads(found.output)


def query(sql: str) -> list[Any]:
    relation = duckdb.sql(sql)
    assert relation is not None
    return relation.fetchall()


def test_what_is_captured_is_listed(home: Path) -> None:
    found = done("list")
    assert [(one["model"], one["version"], one["rows"]) for one in found] == [
        ("flights", "1", 30),
        ("flights", "2", 30),
    ]
    assert found[0]["first"] == NOW and found[0]["segments"] == 1
    assert "2025-11-24" in run("list").output


def test_an_export_says_how_many_rows_it_has(home: Path) -> None:
    assert done("export", "flights", "a.parquet") == {"rows": REQUESTS, "to": "a.parquet"}
    day = ["--since", "2025-11-25", "--until", "2025-11-26T00:00:00+00:00"]
    assert done("export", "flights", "b.parquet", "--version", "2", *day)["rows"] == 12
    assert query("SELECT count(*) FROM 'b.parquet' WHERE version = '2'") == [(12,)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("export", "flights", "x.parquet", "--since", "yesterday"), "expected a time such as 2026-11-01"),
        (("erase",), "expected either --id or --key"),
        (("erase", "--id", "a", "--key", "b"), "expected either --id or --key"),
    ],
)
def test_wrong_usage_is_said(home: Path, arguments: tuple[str, ...], said: str) -> None:
    found = run(*arguments)
    assert found.exit_code == 2 and said in re.sub(r"[\s│]+", " ", found.output)


def test_a_model_that_is_not_captured_is_said(home: Path) -> None:
    assert "nothing is captured of model 'others'" in str(run("export", "others", "x.parquet").exception)
    assert "nothing is captured of model 'others'" in str(run("erase", "--id", "r1", "--model", "others").exception)


def test_a_place_that_cannot_be_written_is_said(home: Path) -> None:
    (home / "file").write_text("")
    assert "cannot export to file/x.parquet" in str(run("export", "flights", "file/x.parquet").exception)


def test_an_erasure_is_kept_among_the_changes_without_whom_it_was_about(home: Path) -> None:
    assert done("erase", "--key", "user-3", "--why", "ticket 12") == [{"model": "flights", "rows": 12, "segments": 2}]
    assert done("erase", "--id", "r1")[0]["rows"] == 1
    left = {row["request_id"] for row in rows(home / "captures")}
    assert left == {f"r{k}" for k in range(REQUESTS) if k % 5 != 3 and k != 1}
    changes = Repository.of(config.load(home / "gaugeway.toml")).changes()
    assert [change.why for change in changes] == [
        "erasing captured rows by key: ticket 12", "erased 12 captured rows of 2 segments: ticket 12",
        "erasing captured rows by request id: ", "erased 1 captured rows of 1 segments: ",
    ]  # fmt: skip
    assert all(change.by and change.before == change.after and "user-3" not in str(change) for change in changes)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)


def test_the_commands_of_the_document_exist(home: Path) -> None:
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("gaugeway capture")]
    assert len(lines) >= 5
    for line in lines:
        words = [word for word in line.split() if word.startswith("--")]
        shown = run(line.split()[2], "--help").output
        assert [word for word in words if word not in shown] == [] and "Example" in shown


def test_the_queries_of_the_document_give_what_was_captured(home: Path) -> None:
    done("export", "flights", "flights.parquet", "--labels")
    done("export", "flights", "flights", "--by-day")
    hourly, versions, daily, reference = blocks("sql")
    labelled = range(0, REQUESTS, 3)
    found = query(hourly)
    assert [row[1] for row in found] == [1.0] * len(labelled)
    assert [row[2] for row in found] == [float((k % 10 > 5) == (k >= REQUESTS // 2)) for k in labelled]
    assert [(row[0], row[1], row[2]) for row in query(versions)] == [("2", "AA", 30), ("1", "UA", 30)]
    days = query(daily)
    assert [row[1] for row in days] == [24, 24, 4] and days[0][2] == np.median([100.0 * k for k in range(8, 32)])
    duckdb.sql(reference)
    signature = Signature(SPECS, ())
    names = ["hour", "carrier", "distance", "label", "event_time"]
    taken = Rows(Path("reference.parquet"), names).sample().part
    tensors = taken.tensors(signature, FEATURES)
    assert tensors["carrier"].tolist() == [[b"UA", b"AA"][k % 2] for k in sorted(labelled, key=lambda k: (k % 2, k))]
    assert tensors["distance"].dtype == np.float32 and taken.labels("label").sum() == 10
    assert min(taken.times("event_time")) == NOW


def test_sealed_segments_are_read_where_they_lie_as_the_document_says(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = blocks("python")
    exec(code, {})
    assert re.search(r"200 │ +30 ", capsys.readouterr().out)
