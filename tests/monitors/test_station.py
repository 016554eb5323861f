from pathlib import Path

import msgspec
import pytest

from monitors.report import Document
from monitors.station import Station
from serving import record
from serving.config import Monitors
from serving.errors import Unavailable
from serving.manifest import Manifest
from serving.ring import RingWriter
from tests.monitors.cluster import Judge, settle
from tests.monitors.traffic import START, Registry, manifest, stream

SETTINGS = Monitors(
    event_time="request", slot_s=3600, block_s=6 * 3600, block_rows=50, lateness_s=600, label_horizon_s=4 * 3600
)
NOW = START + 10**8
REGISTRY = Registry(manifest("1"), manifest("2"))


def station(folder: Path, settings: Monitors = SETTINGS, registry: Registry = REGISTRY) -> Station:
    return Station(settings, "n", folder / "rings", folder / "monitors.db", registry.manifest, registry.read)


def document(subject: Station, judge: Judge | None = None) -> Document:
    """What is said when all of it is judged."""
    found = settle(subject, judge or Judge(SETTINGS, REGISTRY), NOW).document
    assert found is not None
    return found


def test_a_station_lost_between_any_two_commits_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    records, labels = stream(1200, spacing_s=120, shift=1.0)
    straight, broken = tmp_path / "a", tmp_path / "b"
    rings = [RingWriter(folder / "rings" / "worker-0.ring", 2**22) for folder in (straight, broken)]
    a, b = station(straight), station(broken)
    for k, found in enumerate(records):
        for ring in rings:
            ring.append(record.encode(found), found.rows)
        if k % 20 == 19:
            ready = [label for label in labels if label.id in {f"r{i}" for i in range(k - 19, k + 1)}]
            a.poll(NOW)
            a.label(ready, NOW)
            b.poll(NOW)
            if k % 3:  # lost before the commit: the labels were not answered and are sent again
                b.label(ready[:7], NOW)
                b._journal.close()  # what was not committed is gone
                b = station(broken)
                b.poll(NOW)
            b.label(ready, NOW)
            b.commit(at_once=True)
    assert msgspec.json.encode(document(a)) == msgspec.json.encode(document(b))
    assert document(a).models["m"]["1"].drift["_all"].blocks > 3


def test_nothing_read_says_nothing_and_an_old_ok_is_stale(tmp_path: Path) -> None:
    subject = station(tmp_path)
    subject.poll(NOW)
    assert document(subject).models == {}
    assert document(subject).clock is None
    ring = RingWriter(tmp_path / "rings" / "worker-0.ring", 2**22)
    records, _ = stream(1200, spacing_s=120)
    ring.append(record.encode(records[0]), records[0].rows)
    subject.poll(NOW)
    judge = Judge(SETTINGS, REGISTRY)
    assert document(subject, judge).models["m"]["1"].state == "no_data"
    for found in records[1:]:
        ring.append(record.encode(found), found.rows)
    subject.poll(NOW)
    assert document(subject, judge).models["m"]["1"].state == "ok"
    for old in (subject.report(NOW, judge.judged, stale=True), subject.report(NOW + 86400, judge.judged)):
        assert old.document is not None and old.document.models["m"]["1"].state == "stale"


def test_a_repository_that_cannot_be_reached_holds_the_records_back(tmp_path: Path) -> None:
    class Away(Registry):
        away = True

        def manifest(self, model: str, version: str) -> Manifest:
            if self.away:
                raise Unavailable("connection refused")
            return super().manifest(model, version)

    registry = Away(manifest("1"), manifest("2"))
    subject = station(tmp_path, registry=registry)
    ring = RingWriter(tmp_path / "rings" / "worker-0.ring", 2**22)
    records, _ = stream(50)
    for found in records:
        ring.append(record.encode(found), found.rows)
    with pytest.raises(Unavailable, match="connection refused"):
        subject.poll(NOW)
    assert document(subject).models == {}
    registry.away = False
    subject.poll(NOW)
    assert sum(v.rows for v in document(subject).models["m"].values()) == sum(r.rows for r in records)
    subject.commit(at_once=True)
    registry.away = True  # what was met once is known without the repository
    again = station(tmp_path, registry=registry)
    ring.append(record.encode(records[0]), records[0].rows)
    again.poll(NOW)
    assert sum(v.rows for v in document(again).models["m"].values()) > sum(r.rows for r in records)


def test_other_slots_than_those_on_disk_begin_anew(tmp_path: Path) -> None:
    ring = RingWriter(tmp_path / "rings" / "worker-0.ring", 2**22)
    records, _ = stream(50)
    for found in records:
        ring.append(record.encode(found), found.rows)
    first = station(tmp_path)
    first.poll(NOW)
    first.close()
    again = station(tmp_path, msgspec.structs.replace(SETTINGS, slot_s=60.0))
    assert again.tally().books == ()
    again.poll(NOW)
    assert sum(book.rows for *_, book in again.tally().books) == sum(r.rows for r in records)


def test_lost_rows_are_in_the_report_and_survive_a_restart(tmp_path: Path) -> None:
    ring = RingWriter(tmp_path / "rings" / "worker-0.ring", 2**16)
    records, _ = stream(600)
    for found in records:
        ring.append(record.encode(found), found.rows)
    subject = station(tmp_path)
    subject.poll(NOW)
    said = document(subject)
    read, lost = sum(version.rows for version in said.models["m"].values()), said.lost_rows
    assert lost > 0
    assert read + lost == sum(found.rows for found in records)
    subject.close()
    assert document(station(tmp_path)).lost_rows == lost


def test_a_version_that_is_served_has_no_data_before_its_first_row(tmp_path: Path) -> None:
    subject = station(tmp_path)
    subject.expect([manifest("1"), manifest("2")])
    found = document(subject).models["m"]
    assert {version: (v.state, v.rows) for version, v in found.items()} == {"1": ("no_data", 0), "2": ("no_data", 0)}
    subject.close()
    assert document(station(tmp_path)).models["m"].keys() == {"1", "2"}
