"""An export has the captured rows, no more and no less, and its memory does not grow with them."""

import math
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from pyarrow import dataset, parquet

from monitors.capture import export as exporting
from monitors.capture.export import Selection, export, held
from monitors.capture.tap import Tap
from monitors.labels import Label, LabelStore
from serving.config import Capture
from serving.errors import Conflict, NotFound
from serving.packed import Cut
from serving.record import Record
from serving.ring import RingWriter
from serving.rows import Rows
from tests.monitors.capture.captured import CUTS, NOW, append, excerpted, expected, records, rows

HOUR = 3600.0
SPACING_S = 4 * HOUR


def captured(folder: Path, found: Sequence[Record]) -> Path:
    """Half of it sealed, half of it open."""
    ring = RingWriter(folder / "rings" / "worker-0.ring", 2**22)
    subject = Tap(folder / "rings", folder / "captures")
    half = len(found) // 2
    append(ring, found[:half])
    subject.poll(NOW)
    subject.tidy({"m": Capture(enabled=True, retention_days=36500)}, NOW + HOUR)
    append(ring, found[half:])
    subject.poll(NOW + HOUR)
    return folder / "captures"


def traffic() -> list[Record]:
    return records(40, spacing_s=SPACING_S) + records(20, first=40, version="2", spacing_s=SPACING_S)


def test_a_file_has_all_rows_of_all_versions(tmp_path: Path) -> None:
    found = traffic()
    captures = captured(tmp_path, found)
    to = tmp_path / "new" / "m.parquet"
    assert export(captures, Selection("m"), to) == len(expected(found))
    table = parquet.read_table(to)
    places = list(zip(table["request_id"].to_pylist(), table["row"].to_pylist(), strict=True))
    assert sorted(places) == sorted(expected(found))
    assert set(table["model"].to_pylist()) == {"m"} and set(table["version"].to_pylist()) == {"1", "2"}
    plain = table.drop_columns(["model", "version"]).to_pylist()
    assert sorted(plain, key=str) == sorted(rows(captures), key=str)
    assert list(tmp_path.rglob("*.partial")) == []


def test_a_span_of_time_and_a_version_are_selected(tmp_path: Path) -> None:
    found = traffic()
    captures = captured(tmp_path, found)
    since, until = NOW + 10 * SPACING_S, NOW + 50 * SPACING_S
    inside = [record for record in found if since <= record.arrival_times[0] < until]
    assert export(captures, Selection("m", since=since, until=until), tmp_path / "a") == len(expected(inside))
    second = [record for record in inside if record.version == "2"]
    assert export(captures, Selection("m", "2", since, until), tmp_path / "b") == len(expected(second))


def test_what_the_monitors_count_is_selected(tmp_path: Path) -> None:
    """Not what failed, nor what has no time; a client that did not wait has inputs all the same."""
    found = records(8)
    found[2] = msgspec.structs.replace(found[2], statuses=[499])
    found[4] = msgspec.structs.replace(found[4], event_times=[math.nan])
    counted = [record for k, record in enumerate(found) if k not in (2, 4, 6)]
    assert export(captured(tmp_path, found), Selection("m", counted=True), tmp_path / "a") == len(expected(counted))
    assert set(parquet.read_table(tmp_path / "a")["request_id"].to_pylist()) == {record.ids[0] for record in counted}


def test_days_are_folders(tmp_path: Path) -> None:
    found = traffic()
    captures = captured(tmp_path, found)
    assert export(captures, Selection("m"), tmp_path / "days", by_day=True) == len(expected(found))
    table = dataset.dataset(tmp_path / "days", partitioning="hive").to_table()
    assert table.num_rows == len(expected(found))
    days = {str(day) for day in table["day"].to_pylist()}
    assert days == {datetime.fromtimestamp(record.arrival_times[0], UTC).date().isoformat() for record in found}
    assert all(str(row["day"]) == row["arrival_time"].date().isoformat() for row in table.to_pylist())


def test_row_groups_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "GROUP_ROWS", 16)
    found = [record for at in range(0, 200, 4) for record in records(4, first=at)]
    ring = RingWriter(tmp_path / "rings" / "worker-0.ring", 2**22)
    subject = Tap(tmp_path / "rings", tmp_path / "captures")
    for at in range(0, 200, 4):
        append(ring, found[at : at + 4])
        subject.poll(NOW)
    export(tmp_path / "captures", Selection("m"), tmp_path / "m.parquet")
    about = parquet.ParquetFile(tmp_path / "m.parquet").metadata
    sizes = [about.row_group(i).num_rows for i in range(about.num_row_groups)]
    assert sum(sizes) == len(expected(found)) and max(sizes) < 16 + 12 and min(sizes[:-1]) >= 16


def test_columns_that_only_some_rows_have_are_empty_in_the_others(tmp_path: Path) -> None:
    x1 = [*CUTS, Cut("x1", 0, 1, "FP32", 0)]
    found = records(4) + [excerpted(record, cuts=x1) for record in records(4, first=7, version="2")]
    export(captured(tmp_path, found), Selection("m"), tmp_path / "m.parquet")
    for row in parquet.read_table(tmp_path / "m.parquet").to_pylist():
        assert set(row["inputs"]) == {"x0", "x2", "x1"}
        assert (row["inputs"]["x1"] is None) == (row["version"] == "1")


def test_columns_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    other = [Cut("x0", 0, None, "FP32", 1)]
    found = records(4) + [excerpted(record, cuts=other) for record in records(4, first=7, version="2")]
    captures = captured(tmp_path, found)
    with pytest.raises(Conflict, match="'x0' of inputs is float in some segments and list<item: float> in others"):
        export(captures, Selection("m"), tmp_path / "m.parquet")
    assert export(captures, Selection("m", "2"), tmp_path / "m.parquet") > 0


def test_nothing_captured_and_a_file_that_exists_are_said(tmp_path: Path) -> None:
    captures = captured(tmp_path, records(3))
    with pytest.raises(NotFound, match=r"nothing is captured of model 'other'.*there is m version 1"):
        export(captures, Selection("other"), tmp_path / "m.parquet")
    (tmp_path / "m.parquet").write_text("mine")
    with pytest.raises(Conflict, match="exists"):
        export(captures, Selection("m"), tmp_path / "m.parquet")
    with pytest.raises(NotFound, match="no labels"):
        export(captures, Selection("m"), tmp_path / "n.parquet", labels=tmp_path / "monitors.db")


def test_labels_are_joined_by_request_and_row(tmp_path: Path) -> None:
    found = records(30)
    sql = sqlite3.connect(tmp_path / "monitors.db")
    labels = [Label("m", id, row, float(int(id[1:]) % 2), NOW + 0.5) for id, row in expected(found) if row < 2]
    LabelStore(sql, 1000).add_labels([*labels, Label("other", "r1", 0, 9.0, NOW)], slot=1)
    sql.commit()
    sql.close()
    export(captured(tmp_path, found), Selection("m"), tmp_path / "m.parquet", labels=tmp_path / "monitors.db")
    for row in parquet.read_table(tmp_path / "m.parquet").to_pylist():
        known = row["row"] < 2
        assert row["label"] == (int(row["request_id"][1:]) % 2 if known else None)
        assert (row["label_time"] is not None) == known
        assert not known or row["label_time"].replace(tzinfo=UTC).timestamp() == NOW + 0.5


def test_what_is_held_is_listed_with_what_is_open(tmp_path: Path) -> None:
    found = traffic()
    one, two = held(captured(tmp_path, found))
    assert (one.version, two.version) == ("1", "2")
    assert one.rows + two.rows == len(expected(found)) and one.bytes > 0
    assert (one.first, one.last) == (NOW, NOW + 39 * SPACING_S)
    assert held(tmp_path / "nothing") == [] and Selection("m").until == math.inf


def test_an_export_is_a_reference_without_the_requests_that_failed(tmp_path: Path) -> None:
    found = traffic()
    export(captured(tmp_path, found), Selection("m", "1"), tmp_path / "m.parquet")
    part = Rows(tmp_path / "m.parquet", ["x2", "event_time"]).sample().part
    whole = [record for record in found if record.version == "1" and record.statuses == [200]]
    assert part.labels("x2").tolist() == [float(record.ids[0][1:]) for record in whole for _ in range(record.rows)]
    assert part.times("event_time").tolist() == [record.event_times[0] for record in whole for _ in range(record.rows)]
