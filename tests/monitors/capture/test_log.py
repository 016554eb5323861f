"""Segments are sealed, listed and expired; the list can be lost."""

from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from monitors.capture.log import DAY_S, CaptureLog
from monitors.capture.segment import pieces
from monitors.capture.shelf import MANIFEST, Shelf
from serving.config import Capture
from serving.ring import Position
from tests.monitors.capture.captured import NOW, expected, paths, places, records
from tests.monitors.capture.test_columns import batch

NAME = ("m", "1")
ROWS = 200


def write(log: CaptureLog, k: int, at: float, rows: int = ROWS) -> None:
    """Batch `k` of some requests of one row each, that arrive at `at`."""
    found = [one for one in records(3 * rows, first=3 * rows * k, start=at, spacing_s=0.0) if len(one.ids) == 1]
    log.write(NAME, batch([one for one in found if one.counts == [1] and one.inputs]), "w.ring", _position(k + 1), at)


def _position(k: int) -> Position:
    return Position("u", 100 * k, k, k)


def test_a_segment_is_sealed_when_its_time_is_over_and_listed_with_its_digest(tmp_path: Path) -> None:
    log = CaptureLog(tmp_path)
    log.settings = {"m": Capture(enabled=True)}
    write(log, 0, NOW)
    log.tidy(NOW + 3599)
    assert Shelf(tmp_path / "m" / "1").sealed == {}
    log.tidy(NOW + 3601)
    write(log, 1, NOW + 3602)
    (sealed,) = Shelf(tmp_path / "m" / "1").sealed.values()
    path, loose = paths(tmp_path)
    assert (sealed.name, sealed.digest) == (path.name, sha256(path.read_bytes()).hexdigest())
    assert sealed.first == sealed.last == NOW
    assert sealed.rows + sum(piece.rows.num_rows for piece in pieces(loose)) == log.written[NAME].rows
    assert path.name == "20251124T160000Z-000001.arrow" and loose.name == "20251124T170002Z-000002.arrow"


def test_a_lost_manifest_is_made_anew_from_the_segments(tmp_path: Path) -> None:
    log = CaptureLog(tmp_path)
    for k in range(3):
        write(log, k, NOW + 3601 * k)
        log.tidy(NOW + 3601 * (k + 1))
    manifest, before = tmp_path / "m" / "1" / MANIFEST, Shelf(tmp_path / "m" / "1").sealed
    assert len(before) == 3
    for damage in (b"", b"[{", b"[]"):
        manifest.write_bytes(damage)
        again = CaptureLog(tmp_path)
        found = Shelf(tmp_path / "m" / "1").sealed
        assert {name: msgspec.structs.replace(one, digest="") for name, one in found.items()} == {
            name: msgspec.structs.replace(one, digest="", bytes=found[name].bytes) for name, one in before.items()
        }
        assert again.position(NAME, "w.ring") == _position(3)
    manifest.unlink()
    assert CaptureLog(tmp_path).written[NAME].rows == log.written[NAME].rows


def test_no_row_is_older_than_it_may_be(tmp_path: Path) -> None:
    log = CaptureLog(tmp_path)
    log.settings = {"m": Capture(enabled=True, retention_days=2.0)}
    span = 3601.0
    for k in range(72):
        write(log, k, NOW + span * k, rows=7)
        log.tidy(NOW + span * (k + 1))
        assert min(one.first for one in Shelf(tmp_path / "m" / "1").sealed.values()) >= NOW + span * (k + 1) - 2 * DAY_S
    kept = Shelf(tmp_path / "m" / "1").sealed
    assert len(kept) == 47 and log.expired["age"] > 0 and log.expired["bytes"] == 0
    assert log.written[NAME].rows == log.expired["age"] + sum(one.rows for one in kept.values())
    assert log.position(NAME, "w.ring") == _position(72)


def test_what_is_too_much_goes_oldest_first(tmp_path: Path) -> None:
    log = CaptureLog(tmp_path)
    log.settings = {"m": Capture(enabled=True, max_bytes=2**20)}
    for k in range(12):
        log.write(NAME, _bulky(k), "w.ring", _position(k + 1), NOW + k)
        log.tidy(NOW + k)
    stored = log.stored[NAME]
    assert stored <= 2**20 and log.expired["bytes"] > 0
    first = min(one.first for one in Shelf(tmp_path / "m" / "1").sealed.values())
    left = sum(piece.rows.num_rows for path in paths(tmp_path) for piece in pieces(path))
    assert log.written[NAME].rows == log.expired["bytes"] + left == 12 * 8000
    assert first > NOW
    log.write(NAME, _bulky(12), "w.ring", _position(13), NOW + 12)
    numbers = [int(path.stem[-6:]) for path in paths(tmp_path)]
    assert numbers == list(range(numbers[0], 14)) and numbers[0] > 1


def test_what_is_stored_is_known_without_a_look_at_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = CaptureLog(tmp_path)
    for k, at in enumerate([NOW, NOW + 4000, NOW + 8000]):
        write(log, k, at)
        log.tidy(at)
        sizes = [path.stat().st_size for path in paths(tmp_path)]
        with monkeypatch.context() as patch:
            patch.setattr(Path, "stat", None)
            assert log.stored == {NAME: sum(sizes)}
        assert Shelf(tmp_path / "m" / "1").bytes == sum(sizes)
    assert len(paths(tmp_path)) == 2 and len(Shelf(tmp_path / "m" / "1").sealed) == 1


def test_what_another_process_sealed_is_stored_once(tmp_path: Path) -> None:
    log = CaptureLog(tmp_path)
    write(log, 0, NOW)
    CaptureLog(tmp_path)
    log.tidy(NOW)
    assert log.stored == {NAME: sum(path.stat().st_size for path in paths(tmp_path))}


def _bulky(k: int) -> Any:
    """About 200 kB that cannot be compressed."""
    rng = np.random.default_rng(k)
    columns = [pa.array([rng.bytes(16).hex() for _ in range(8000)]), pa.array([(NOW + k) * 1e6] * 8000).cast("int64")]
    schema = pa.schema([("request_id", pa.string()), ("arrival_time", pa.timestamp("us"))])
    return pa.RecordBatch.from_arrays([columns[0], columns[1].cast(pa.timestamp("us"))], schema=schema)


def test_other_columns_begin_another_segment(tmp_path: Path) -> None:
    log = CaptureLog(tmp_path)
    write(log, 0, NOW)
    narrow = batch(records(1)).select(["request_id", "row", "event_time", "arrival_time", "status"])
    log.write(NAME, narrow, "w.ring", _position(2), NOW)
    write(log, 2, NOW)
    assert len(paths(tmp_path)) == 3 and len(places(tmp_path)) == log.written[NAME].rows


@pytest.mark.parametrize("when", [NOW - 7200, NOW + 7200])
def test_a_clock_that_jumps_seals_and_loses_nothing(tmp_path: Path, when: float) -> None:
    log = CaptureLog(tmp_path)
    write(log, 0, NOW)
    log.tidy(when)
    write(log, 1, when)
    assert len(paths(tmp_path)) == 2 and len(places(tmp_path)) == log.written[NAME].rows


def test_rows_come_back_after_a_close(tmp_path: Path) -> None:
    found = records(6)
    log = CaptureLog(tmp_path)
    log.write(NAME, batch(found), "w.ring", _position(1), NOW)
    log.close()
    assert places(tmp_path) == expected(found)
    assert [shelf for shelf in Shelf(tmp_path / "m" / "1").sealed] == [paths(tmp_path)[0].name]


def test_the_last_segment_says_where_it_was_whatever_its_time(tmp_path: Path) -> None:
    """The row that begins it may have come before those of another ring."""
    log = CaptureLog(tmp_path)
    for k, at in enumerate((NOW, NOW - 100, NOW - 50)):
        write(log, k, at)
        log.close()
    assert CaptureLog(tmp_path).position(NAME, "w.ring") == _position(3)
