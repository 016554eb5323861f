"""Rows become the reference of a version that is served, by the code that publishes; what is wrong is one sentence."""

import json
import math
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from monitors.capture.tap import Tap
from monitors.reference import Profile, decode
from serving import config
from serving.cli import app
from serving.config import Capture, Config
from serving.declaration import Declaration
from serving.errors import BadRequest, GaugewayError, NotFound, PublishRefused
from serving.manifest import Manifest
from serving.packed import Cut, Excerpt
from serving.protocol import Array
from serving.publishing import publish
from serving.rebasing import rebase, rebase_on_captured
from serving.record import Column, Record, encode
from serving.repository import Repository
from serving.ring import RingWriter
from tests import models

ROWS, NOW, ZONE = 1500, 1_764_000_000.0, "Asia/Kolkata"
SAID = {"task": "classification", "prediction": "probabilities:1", "features": ["a", "b:categorical"]}


def columns(shift: float = 0.0) -> dict[str, Array]:
    rng = np.random.default_rng(7)
    a, b = rng.normal(shift, size=ROWS).astype(np.float32), rng.integers(0, 3, ROWS).astype(np.float32)
    late = rng.random(ROWS) < 1 / (1 + np.exp(b - a))
    return {"a": a, "b": b, "late": late, "at": NOW + np.arange(ROWS) * 600.0}


def write(path: Path, table: dict[str, Array]) -> Path:
    parquet.write_table(pa.table(table), path)
    return path


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 1 has a reference of May, version 2 has none, version 3 no features."""
    folder = tmp_path_factory.mktemp("registry")
    found = config.parse({"data_dir": str(folder)})
    (folder / "model.onnx").write_bytes(models.classifier())
    may = write(folder / "may.parquet", columns())
    for declared in (
        Declaration(**SAID, version="1", reference=may, label="late", time="at", time_zone=ZONE),  # type: ignore[arg-type]
        Declaration(**SAID, version="2"),  # type: ignore[arg-type]
        Declaration(version="3"),
    ):
        publish(Repository.of(found), "late", folder / "model.onnx", declared)
    return folder


@pytest.fixture
def settled(registry: Path, tmp_path: Path) -> Config:
    shutil.copytree(registry, tmp_path / "data")
    return config.parse({"data_dir": str(tmp_path / "data"), "monitors": {"block_s": 86400}})


def ordered(settled: Config, number: str, *options: str) -> dict[str, Any]:
    """What the command answers."""
    file = settled.data / "gaugeway.toml"
    file.write_text(f'data_dir = "{settled.data}"\n[monitors]\nblock_s = 86400\n')
    told = ["monitor", "rebase", "late", number, *options, "--reason", "it stays so", "--json", "--config", str(file)]
    done: dict[str, Any] = json.loads(CliRunner().invoke(app, told).stdout)
    return done


def version(settled: Config, number: str = "1") -> Manifest:
    return Repository.of(settled).manifest("late", number)


def reference(settled: Config, of: Manifest) -> Profile:
    repository = Repository.of(settled)
    return decode(repository.read(repository.under_reference(of), "reference.json"))


def test_the_rows_of_a_file_are_the_reference_that_publish_makes_of_them(settled: Config) -> None:
    of = version(settled, "2")
    done = ordered(settled, "2", "--reference", str(settled.data / "may.parquet"), "--time", "at")
    assert (done["effect"], done["rows"]) == ("stored; the monitors follow when they run", "1500 rows of may.parquet")
    found, published = reference(settled, of), reference(settled, version(settled))
    assert found.digest == done["reference"] and "reference.json" not in of.files
    assert found.features == published.features and found.sample == published.sample
    assert found.risk is None and "risk is not judged: the reference has no labels" in found.notes
    assert done["notes"] == list(found.notes)


def test_rows_of_another_schema_are_refused_and_change_nothing(settled: Config) -> None:
    def refused(table: dict[str, Array], time: str | None = None) -> str:
        with pytest.raises(PublishRefused) as caught:
            rebase(settled, "late", "1", "because", write(settled.data / "x.parquet", table), time)
        return str(caught.value)

    may = columns()
    assert "x.parquet has no column 'b'; it has 'a', 'at'" in refused({"a": may["a"], "at": may["at"]})
    words = np.array(["low"] * ROWS)
    assert "column 'a' holds string, numbers are needed" in refused({**may, "a": words})
    assert "has no column 'when'" in refused(may, "when")
    assert Repository.of(settled).under_reference(version(settled)) == version(settled)


@pytest.mark.parametrize(
    ("number", "why", "error", "sentence"),
    [
        ("7", "x", NotFound, "model 'late' has no version '7'; it has '1', '2', '3'"),
        ("1", " ", BadRequest, "--reason must say why"),
        ("3", "x", BadRequest, "version '3' of 'late' declares no features"),
    ],
)
def test_what_cannot_be_rebased_is_said(
    settled: Config, number: str, why: str, error: type[GaugewayError], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        rebase(settled, "late", number, why, settled.data / "may.parquet")


def captured(settled: Config, **facts: list[Any]) -> dict[str, Array]:
    """What the capture log then has: all rows, of requests of one row each. `facts` are others of these requests."""
    table, n = columns(2.0), ROWS
    x = np.stack([table["a"], table["b"]], 1)
    cuts = (Cut("a", 0, 0, "FP32", 0), Cut("b", 0, 1, "FP32", 0))
    times: list[float] = table["at"].tolist()
    one = Record(
        model="late", version="1", digest="d", role="primary", ids=[f"r{k}" for k in range(n)], first_rows=[0] * n,
        counts=[1] * n, reasons=["weights"] * n, propensities=[1.0] * n, keys=[0] * n, event_times=times,
        arrival_times=times, statuses=[200] * n, queue_s=[0.0] * n, infer_s=0.0, inputs={"x": Column.of("FP32", x)},
        outputs={}, excerpt=Excerpt(cuts, 1.0),
    )  # fmt: skip
    one = msgspec.structs.replace(one, **facts)
    ring = RingWriter(settled.run_dir / "rings" / "worker-0.ring", 2**20)
    assert ring.append(encode(one), n)
    subject = Tap(settled.run_dir / "rings", settled.captures)
    subject.log.settings = {"late": Capture(enabled=True, retention_days=36500)}
    subject.poll(NOW)
    subject.close()
    return table


def test_captured_rows_are_a_reference_and_what_the_loss_is_held_to_stays(settled: Config) -> None:
    table, before = captured(settled), version(settled)
    published = reference(settled, before)
    done = ordered(settled, "1", "--captured", "--since", datetime.fromtimestamp(NOW + 700 * 600, UTC).isoformat())
    found, last = reference(settled, before), table["a"][700:]
    assert done["rows"] == "800 rows of the capture log" and done["reference"] == found.digest != published.digest
    law = found.features["a"]
    assert (law.rows, law.low, law.high) == (800, last.min(), last.max()) and law.block_rows > 1
    assert found.risk == published.risk is not None and not any("risk" in note for note in found.notes)
    assert found.zone == published.zone == ZONE and not published.seasonal
    assert before.files["reference.json"] == published.digest == version(settled).files["reference.json"]
    with pytest.raises(NotFound, match="nothing is captured of model 'late' in that selection"):
        rebase_on_captured(settled, "late", "1", "too late", NOW + 10**9, math.inf)


def test_captured_rows_that_live_ones_would_not_be_counted_with_are_left_out(settled: Config) -> None:
    """One in ten has no time of its event, one in five nobody waited for."""
    table, by_event = columns(), msgspec.structs.replace(settled.monitors, event_time="request")
    n, times = np.arange(ROWS), table["at"]
    captured(settled, statuses=np.where(n % 5 == 0, 499, 200).tolist(),
             event_times=np.where(n % 10 == 1, np.nan, times - 60).tolist())  # fmt: skip
    done = rebase_on_captured(
        msgspec.structs.replace(settled, monitors=by_event), "late", "1", "because", -math.inf, math.inf
    )
    assert done["rows"] == f"{ROWS * 7 // 10} rows of the capture log"


def test_a_damaged_reference_is_replaced_and_the_loss_is_held_to_what_was_published(settled: Config) -> None:
    """Where that is damaged too, harm is not judged, and the notes say so."""
    published, june = version(settled), write(settled.data / "june.parquet", columns(1.0))
    risk = reference(settled, published).risk

    def rebased() -> Profile:
        Repository.of(settled).order("late", "1", "rebase", by="me", why="it was late", reference=b"half a prof")
        rebase(settled, "late", "1", "because", june)
        return reference(settled, published)

    found = rebased()
    assert found.risk == risk is not None and not any("risk" in note for note in found.notes)
    (blob,) = settled.data.rglob(published.files["reference.json"])
    blob.chmod(0o600)
    blob.write_bytes(b"other bytes")
    found = rebased()
    assert found.risk is None and "risk is not judged: the reference has no labels" in found.notes


def test_redacted_rows_are_no_reference(settled: Config) -> None:
    capture = Capture(enabled=True, features=("a", "b"), redact={"a": "truncate:1"})
    Repository.of(settled).set_model("late", config.Model(weights={"1": 1.0}, capture=capture), by="me", why="privacy")
    with pytest.raises(BadRequest, match="feature 'a' of 'late' is captured under the rule 'truncate:1'"):
        rebase_on_captured(settled, "late", "1", "because", -math.inf, math.inf)
