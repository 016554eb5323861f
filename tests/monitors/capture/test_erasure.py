"""After an erasure no segment has a row of it, and all others are there."""

from hashlib import sha256
from pathlib import Path

import pytest

from monitors.capture.erasure import Erased, erase, of_id, of_key
from monitors.capture.shelf import Shelf
from monitors.capture.tap import Tap
from serving.config import Capture
from serving.errors import ArtifactCorrupt
from serving.record import Record
from serving.ring import RingWriter
from tests.monitors.capture.captured import NOW, append, expected, key, paths, places, records, rows

SETTINGS = {"m": Capture(enabled=True)}


@pytest.fixture
def found() -> list[Record]:
    return records(60) + records(10, first=60, version="2")


@pytest.fixture
def tap(tmp_path: Path, found: list[Record]) -> Tap:
    """Has sealed some and has some open, as a sidecar has that runs."""
    ring = RingWriter(tmp_path / "rings" / "worker-0.ring", 2**20)
    subject = Tap(tmp_path / "rings", tmp_path / "captures")
    append(ring, found[:40])
    subject.poll(NOW)
    subject.tidy(SETTINGS, NOW + 4000)
    append(ring, found[40:])
    subject.poll(NOW + 4000)
    return subject


def test_a_request_is_erased_from_all_segments(tmp_path: Path, tap: Tap, found: list[Record]) -> None:
    captures = tmp_path / "captures"
    for id in ("r8", "r50"):
        one = next(record for record in found if record.ids == [id])
        assert erase(captures, "m", of_id(id)) == Erased("m", one.rows, 1)
        assert id not in {row["request_id"] for row in rows(captures)}
    kept = [record for record in found if record.ids not in (["r8"], ["r50"])]
    assert sorted(places(captures)) == sorted(expected(kept))
    listed = [one.rows for path in captures.glob("m/*") for one in Shelf(path).sealed.values()]
    assert sum(listed) == len(expected(kept))


def test_a_key_is_erased_from_all_versions(tmp_path: Path, tap: Tap, found: list[Record]) -> None:
    gone = [record for record in found if record.keys == [key(4)]]
    erased = erase(tmp_path / "captures", "m", of_key(key(4)))
    assert erased == Erased("m", len(expected(gone)), 3)
    kept = [record for record in found if record.keys != [key(4)]]
    assert sorted(places(tmp_path / "captures")) == sorted(expected(kept))
    assert erase(tmp_path / "captures", "m", of_key(key(4))) == Erased("m", 0, 0)


def test_rows_without_a_key_have_none(tmp_path: Path, tap: Tap, found: list[Record]) -> None:
    assert erase(tmp_path / "captures", "m", of_key(0)).rows == 0


def test_capturing_goes_on_where_it_was(tmp_path: Path, tap: Tap, found: list[Record]) -> None:
    """What was open was sealed under its writer; nothing comes back and nothing is written twice."""
    captures = tmp_path / "captures"
    erase(captures, "m", of_id("r50"))
    ring = tmp_path / "rings" / "worker-0.ring"
    tap.close()
    kept = [record for record in found if record.ids != ["r50"]]
    again = Tap(tmp_path / "rings", captures)
    append(RingWriter(ring.with_name("worker-1.ring"), 2**20), records(5, first=100))
    again.poll(NOW)
    assert sorted(places(captures)) == sorted(expected([*kept, *records(5, first=100)]))
    again.poll(NOW)
    erase(captures, "m", of_id("r101"))
    append(RingWriter(ring.with_name("worker-2.ring"), 2**20), records(5, first=200))
    again.poll(NOW)
    later = [record for record in records(5, first=100) if record.ids != ["r101"]] + records(5, first=200)
    assert sorted(places(captures)) == sorted(expected([*kept, *later]))
    assert again.figures(NOW).written["m", "1"].rows == sum(r.rows for r in [*found[:60], *later]) + 3


def test_the_manifests_stay_right_while_the_sidecar_goes_on(tmp_path: Path, tap: Tap, found: list[Record]) -> None:
    captures = tmp_path / "captures"
    erase(captures, "m", of_id("r8"))
    append(RingWriter(tmp_path / "rings" / "worker-1.ring", 2**20), records(5, first=100))
    tap.poll(NOW + 4001)
    tap.tidy(SETTINGS, NOW + 9000)
    for path in paths(captures):
        assert Shelf(path.parent).sealed[path.name].digest == sha256(path.read_bytes()).hexdigest()
    assert sum(one.rows for v in "12" for one in Shelf(captures / "m" / v).sealed.values()) == len(places(captures))


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_an_erasure_that_is_killed_can_be_repeated(
    tmp_path: Path, tap: Tap, found: list[Record], renames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it takes the segment from the manifest, replaces it, or lists it again."""
    captures = tmp_path / "captures"
    tap.close()
    rename, left = Path.rename, iter([True] * renames)

    def killed(path: Path, to: Path) -> Path:
        if next(left, False):
            return rename(path, to)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            erase(captures, "m", of_id("r50"))
    erase(captures, "m", of_id("r50"))
    assert sorted(places(captures)) == sorted(expected([record for record in found if record.ids != ["r50"]]))


def test_a_damaged_segment_is_said_and_nothing_is_erased(tmp_path: Path, tap: Tap, found: list[Record]) -> None:
    captures = tmp_path / "captures"
    tap.close()
    path = paths(captures)[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    before = {path: path.read_bytes() for path in paths(captures)}
    with pytest.raises(ArtifactCorrupt, match=f"nothing is erased: {path} is damaged"):
        erase(captures, "m", of_id("r50"))
    assert {path: path.read_bytes() for path in paths(captures)} == before


def test_other_models_are_left_alone(tmp_path: Path, tap: Tap) -> None:
    before = {path: path.read_bytes() for path in paths(tmp_path / "captures")}
    assert erase(tmp_path / "captures", "other", of_id("r8")).rows == 0
    assert {path: path.read_bytes() for path in paths(tmp_path / "captures")} == before
