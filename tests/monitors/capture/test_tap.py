"""From the rings into the log: every row once, whatever dies in between, and what is lost is counted."""

import os
from pathlib import Path

import msgspec
import numpy as np
import pytest

from monitors.capture import tap as tapping
from monitors.capture.log import DAY_S
from monitors.capture.tap import Tap
from monitors.labels import share
from serving import record
from serving.config import Capture
from serving.packed import Cut
from serving.ring import RingWriter
from tests.monitors.capture.captured import NOW, append, excerpted, expected, paths, places, records, rows
from tests.monitors.traffic import FEATURES
from tests.monitors.traffic import record as one_record

SETTINGS = {"m": Capture(enabled=True)}


def rings(folder: Path, capacity_bytes: int = 2**20) -> list[RingWriter]:
    return [RingWriter(folder / "rings" / f"worker-{k}.ring", capacity_bytes) for k in range(2)]


def tap(folder: Path) -> Tap:
    return Tap(folder / "rings", folder / "captures")


def drain(subject: Tap, now: float = NOW) -> None:
    while subject.poll(now):
        pass


def test_what_lies_in_the_rings_is_captured_by_model_and_version(tmp_path: Path) -> None:
    one, other = rings(tmp_path)
    first, second = records(20), records(20, first=20, version="2")
    append(one, first)
    append(other, second)
    subject = tap(tmp_path)
    drain(subject)
    subject.close()
    captures = tmp_path / "captures"
    assert places(captures) == expected([*first, *second])
    assert [path.relative_to(captures).parts[:2] for path in paths(captures)] == [("m", "1"), ("m", "2")]
    written = subject.figures(NOW).written
    assert {name: found.rows for name, found in written.items()} == {("m", "1"): 39, ("m", "2"): 40}
    assert min(found.bytes for found in written.values()) > 0


def test_records_that_nobody_asked_to_capture_leave_nothing(tmp_path: Path) -> None:
    one, _ = rings(tmp_path)
    x = np.ones((1, FEATURES), np.float32)
    append(one, [one_record(["quiet"], x, [NOW]), *records(1), one_record(["quiet"], x, [NOW])])
    subject = tap(tmp_path)
    drain(subject)
    assert places(tmp_path / "captures") == [("r0", 0)]


@pytest.mark.parametrize("checkpoints", [True, False])
def test_a_successor_goes_on_where_the_segments_end(tmp_path: Path, checkpoints: bool) -> None:
    """A tap that is dropped without a word is a killed process: nothing of it is closed or sealed."""
    one, other = rings(tmp_path)
    found = records(90)
    for k in range(0, 90, 10):
        append(one, found[k : k + 5])
        append(other, found[k + 5 : k + 10])
        subject = tap(tmp_path)
        drain(subject)
        if checkpoints and k % 20:
            subject.tidy(SETTINGS, NOW)
    assert sorted(places(tmp_path / "captures")) == sorted(expected(found))
    assert subject.figures(NOW).written["m", "1"].rows == len(expected(found))


@pytest.mark.parametrize("batches", [0, 1, 2, 3])
@pytest.mark.parametrize("beyond", [0, 1, 60, 700, -1])
def test_a_torn_tail_is_read_again_from_the_ring(tmp_path: Path, batches: int, beyond: int) -> None:
    """Cut some bytes behind the end of a batch."""
    one, _ = rings(tmp_path)
    found = records(30)
    subject, ends = tap(tmp_path), [0]
    for k in range(0, 30, 10):
        append(one, found[k : k + 10])
        drain(subject)
        ends.append(paths(tmp_path / "captures")[0].stat().st_size)
    os.truncate(paths(tmp_path / "captures")[0], min(max(ends[batches] + beyond, 0), ends[-1]))
    again = tap(tmp_path)
    drain(again)
    assert places(tmp_path / "captures") == expected(found)
    assert again.figures(NOW).written["m", "1"].rows == len(expected(found))


def test_what_the_ring_overwrote_is_counted(tmp_path: Path) -> None:
    one, _ = rings(tmp_path, 2**16)
    append(one, records(10))
    subject = tap(tmp_path)
    drain(subject)
    found = records(2000, first=10)
    append(one, found)
    drain(subject)
    captured = len(places(tmp_path / "captures"))
    assert subject.dropped["lost"] > 0
    assert captured + subject.dropped["lost"] == len(expected([*records(10), *found]))
    subject.tidy(SETTINGS, NOW)
    assert tap(tmp_path).dropped == subject.dropped


def test_what_was_overwritten_before_anything_was_captured_is_not_dropped(tmp_path: Path) -> None:
    one, _ = rings(tmp_path, 2**16)
    append(one, records(2000))
    subject = tap(tmp_path)
    drain(subject)
    assert subject.dropped["lost"] == 0 and places(tmp_path / "captures")
    subject.rest()
    append(one, records(2000, first=2000))
    drain(subject)
    assert subject.dropped["lost"] == 0
    assert len(places(tmp_path / "captures")) == len(set(places(tmp_path / "captures")))


def test_frames_that_are_no_records_are_counted(tmp_path: Path) -> None:
    one, _ = rings(tmp_path)
    one.append(b"not a record", 5)
    append(one, records(1))
    subject = tap(tmp_path)
    drain(subject)
    assert subject.dropped["undecodable"] == 5 and places(tmp_path / "captures") == [("r0", 0)]


def test_records_that_do_not_fit_their_layout_are_counted_and_hold_nothing_back(tmp_path: Path) -> None:
    one, _ = rings(tmp_path)
    good, other = records(2), records(1, first=4, version="2")
    wrong = [excerpted(found, cuts=[Cut("x9", 9, None, "FP32", 0)]) for found in records(2, first=2)]
    append(one, [good[0], *wrong, good[1], *other])
    subject = tap(tmp_path)
    drain(subject)
    assert sorted(places(tmp_path / "captures")) == sorted(expected([*good, *other]))
    assert subject.dropped == {"lost": 0, "undecodable": len(expected(wrong))}


def test_both_halves_of_a_request_on_two_nodes_are_kept_or_left_together(tmp_path: Path) -> None:
    kept = []
    for node, first_row in (("a", 0), ("b", 3)):
        one, _ = rings(tmp_path / node)
        parts = [msgspec.structs.replace(found, first_rows=[first_row]) for found in records(60, sample=0.5)]
        append(one, parts)
        drain(tap(tmp_path / node))
        kept.append({row["request_id"] for row in rows(tmp_path / node / "captures")})
        assert min(row["row"] for row in rows(tmp_path / node / "captures")) == first_row
    assert kept[0] == kept[1] == {f"r{k}" for k in range(60) if share("m", f"r{k}") < 0.5}


@pytest.mark.parametrize("before", [0, 10])
def test_a_disk_that_takes_nothing_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int) -> None:
    one, _ = rings(tmp_path)
    found = records(30)
    append(one, found[:before])
    subject = tap(tmp_path)
    drain(subject)
    append(one, found[before:20])
    sizes = [path.stat().st_size for path in paths(tmp_path / "captures")]
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", _full)
        for _ in range(2):
            with pytest.raises(OSError, match="No space"):
                subject.poll(NOW)
    assert sum(path.stat().st_size for path in paths(tmp_path / "captures")) == sum(sizes)
    append(one, found[20:])
    drain(subject)
    subject.tidy(SETTINGS, NOW)
    assert places(tmp_path / "captures") == expected(found) and subject.dropped["lost"] == 0


def _full(descriptor: int, data: bytes) -> int:
    raise OSError(28, "No space left on device")


def test_few_frames_at_a_time_are_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tapping, "MAX_FRAMES", 7)
    one, _ = rings(tmp_path)
    found = records(50)
    append(one, found)
    subject = tap(tmp_path)
    assert subject.poll(NOW)
    assert subject.figures(NOW + 60).lag_s == pytest.approx(60 - 6)
    drain(subject)
    assert subject.figures(NOW + 60).lag_s == 0
    assert places(tmp_path / "captures") == expected(found)


def test_a_ring_that_was_replaced_is_read_from_its_start(tmp_path: Path) -> None:
    one, _ = rings(tmp_path)
    append(one, records(5))
    subject = tap(tmp_path)
    drain(subject)
    (tmp_path / "rings" / "worker-0.ring").unlink()
    again = RingWriter(tmp_path / "rings" / "worker-0.ring", 2**20)
    append(again, records(5, first=5))
    drain(subject)
    assert places(tmp_path / "captures") == expected(records(10))
    assert record.decode(record.encode(records(1)[0])) == records(1)[0]


def test_places_that_did_not_change_are_not_written_again(tmp_path: Path) -> None:
    one, _ = rings(tmp_path)
    append(one, records(3))
    subject, place = tap(tmp_path), tmp_path / "captures" / tapping.CHECKPOINT

    def kept() -> int:
        subject.tidy(SETTINGS, NOW)
        return place.stat().st_mtime_ns

    drain(subject)
    first = kept()
    assert kept() == first
    append(one, records(1, first=3))
    drain(subject)
    assert kept() > first


def test_a_model_that_is_no_longer_served_keeps_its_retention(tmp_path: Path) -> None:
    one, _ = rings(tmp_path)
    append(one, records(3))
    subject = tap(tmp_path)
    drain(subject)
    subject.tidy({"m": Capture(enabled=True, retention_days=100)}, NOW)
    subject.close()
    again = tap(tmp_path)
    again.tidy({}, NOW + 99 * DAY_S)
    assert places(tmp_path / "captures") == expected(records(3))
    again.tidy({"other": Capture()}, NOW + 101 * DAY_S)
    assert places(tmp_path / "captures") == [] and again.figures(NOW).expired["age"] == len(expected(records(3)))
