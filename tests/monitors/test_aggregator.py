import math
import sqlite3

import msgspec
import pytest

from monitors.aggregator import Aggregator, Verdicts
from monitors.book import Version
from monitors.journal import Journal
from monitors.labels import Label, LabelStore
from monitors.ledger import Ledger, Sealed
from monitors.parcel import Marks, Outbox, Parcel
from serving.config import Monitors
from serving.record import Record
from tests.monitors.traffic import START, manifest, packed, profile, stream

SETTINGS = Monitors(
    event_time="request", slot_s=3600, block_s=6 * 3600, block_rows=50, lateness_s=600, label_horizon_s=4 * 3600,
    false_pages_per_90_days=18,
)  # fmt: skip
NOW = START + 10**8
VERSIONS = [Version(manifest(version), profile()) for version in ("1", "2")]
KNOWN = {(v.manifest.model, v.manifest.version, v.manifest.digest): v for v in VERSIONS}


def ledgers(n: int) -> list[Ledger]:
    return [Ledger(SETTINGS, LabelStore(sqlite3.connect(":memory:", isolation_level=None), 10**6)) for _ in range(n)]


def aggregator() -> Aggregator:
    subject = Aggregator(SETTINGS)
    for version in VERSIONS:
        subject.know(version)
    return subject


def parcel(sealed: Sealed) -> Parcel:
    outbox = Outbox(Journal(None, "test"))
    outbox.add(sealed)
    outbox.pack()
    return outbox.waiting[0]


def verdicts(subject: Aggregator) -> dict[str, Verdicts]:
    return {version: subject.verdicts((model, version)) for model, version in subject.names}


def run(nodes: int, records: list[Record], labels: list[Label], *, every: int) -> dict[str, Verdicts]:
    """Records go to the nodes in turn, labels to the node of their prediction; each seals at its own pace."""
    names = [f"node-{k}" for k in range(nodes)]
    cores, judge = ledgers(nodes), aggregator()
    place = {record.ids[0]: k % nodes for k, record in enumerate(records)}
    due = sorted(labels, key=lambda label: label.time)
    for start in range(0, len(records), every):
        part = records[start : start + every]
        clock = part[-1].event_times[0]
        ready = [label for label in due if label.time <= clock]
        due = due[len(ready) :]
        for k, (node, core) in enumerate(zip(names, cores, strict=True)):
            core.ingest(packed([r for r in part if place[r.ids[0]] == k]), KNOWN, NOW)
            core.label([label for label in ready if place[label.id] == k], NOW)
            judge.take(node, [parcel(core.seal())])
            judge.judge(names, NOW)
    for node, core in zip(names, cores, strict=True):
        judge.take(node, [parcel(core.seal(records[-1].event_times[0] + 86400))])
        judge.judge(names, NOW)
    return verdicts(judge)


@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_two_nodes_give_the_verdicts_of_one_to_the_bit(shift: float) -> None:
    records, labels = stream(4000, spacing_s=120, shift=shift)
    one = run(1, records, labels, every=100)
    assert msgspec.json.encode(run(2, records, labels, every=170)) == msgspec.json.encode(one)
    assert msgspec.json.encode(run(3, records, labels, every=33)) == msgspec.json.encode(one)
    state = "alarm" if shift else "ok"
    assert {verdict.state for verdict in one.values()} == {state}
    assert one["1"].risk.alarm == bool(shift)
    assert one["1"].risk.n > 3000


def test_a_slot_waits_until_every_live_node_has_sealed_it_and_is_taken_once() -> None:
    records, _ = stream(600, spacing_s=120)
    (core,), judge = ledgers(1), aggregator()
    core.ingest(packed(records), KNOWN, NOW)
    sealed = core.seal()
    judge.take("a", [parcel(sealed)])
    judge.judge(["a", "b"], NOW)
    assert judge.verdicts(("m", "1")).drift["_all"].blocks == 0
    judge.take("a", [parcel(sealed)])  # sent again
    judge.take("b", [Parcel(Marks(sealed.watermark, sealed.label_watermark))])
    judge.judge(["a", "b"], NOW)
    assert judge.verdicts(("m", "1")).drift["_all"].blocks > 0
    assert judge.verdicts(("m", "1")).judged_at == NOW
    once = aggregator()
    once.take("a", [parcel(sealed)])
    once.judge(["a"], NOW)
    assert msgspec.json.encode(verdicts(once)) == msgspec.json.encode(verdicts(judge))


def test_a_node_that_is_gone_holds_nobody_back_and_what_it_kept_is_counted_once() -> None:
    records, _ = stream(600, spacing_s=120)
    (stays, goes), judge = ledgers(2), aggregator()
    stays.ingest(packed(records[::2]), KNOWN, NOW)
    goes.ingest(packed(records[1:300:2]), KNOWN, NOW)
    judge.take("goes", [parcel(goes.seal())], goes.open_rows)
    goes.ingest(packed(records[301:400:2]), KNOWN, NOW)  # of which nobody hears for now
    judge.take("stays", [parcel(stays.seal())])
    judge.judge(["stays", "goes"], NOW)
    blocks = judge.verdicts(("m", "1")).drift["_all"].blocks
    assert judge.gone_rows == 0
    judge.judge(["stays"], NOW)
    assert judge.verdicts(("m", "1")).drift["_all"].blocks > blocks
    given_up = judge.gone_rows
    assert given_up == goes.open_rows - sum(found.rows for found in records[301:400:2])
    late = parcel(goes.seal())
    judge.take("goes", [late], goes.open_rows)  # it is back, too late for what was judged
    assert judge.gone_rows == late.rows
    judge.take("goes", [late], goes.open_rows)
    assert judge.gone_rows == late.rows > given_up


@pytest.mark.parametrize("known", [False, True])
def test_counts_of_other_cells_or_of_a_version_that_is_gone_are_left_out_and_counted(known: bool) -> None:
    """As after a registry was restored from a copy: one number for two references."""
    records, _ = stream(600, spacing_s=120)
    fine, coarse = ledgers(2)
    fine.ingest(packed(records[:300]), KNOWN, NOW)
    others = {name: msgspec.structs.replace(version, profile=profile(rows=700)) for name, version in KNOWN.items()}
    coarse.ingest(packed(records[200:]), others, NOW)
    sent = {"fine": parcel(fine.seal()), "coarse": parcel(coarse.seal())}
    judge = aggregator() if known else Aggregator(SETTINGS)
    for node, found in (*sent.items(), *sent.items()):
        judge.take(node, [found])
    judge.judge(sent, NOW)
    left_out = judge.superseded_rows, judge.gone_rows
    assert left_out == ((sent["coarse"].rows, 0) if known else (0, sent["fine"].rows + sent["coarse"].rows))
    if known:
        alone = aggregator()
        alone.take("fine", [sent["fine"]])
        alone.judge(["fine"], NOW)
        assert [one.drift for one in verdicts(judge).values()] == [one.drift for one in verdicts(alone).values()]


def test_a_node_that_has_said_nothing_holds_all_back() -> None:
    records, _ = stream(600, spacing_s=120)
    (core,), judge = ledgers(1), aggregator()
    core.ingest(packed(records), KNOWN, NOW)
    judge.take("a", [parcel(core.seal())])
    judge.judge(["a", "new"], NOW)
    judge.judge([], NOW)
    assert judge.verdicts(("m", "1")).drift["_all"].blocks == 0


def test_what_was_saved_goes_on_to_the_same_verdicts() -> None:
    records, labels = stream(3000, spacing_s=120, shift=0.5)
    (core,), straight, broken = ledgers(1), aggregator(), aggregator()
    journal = Journal(None, "test")
    for start in range(0, 3000, 50):
        core.ingest(packed(records[start : start + 50]), KNOWN, NOW)
        core.label([label for label in labels if label.id == f"r{start}"], NOW)
        sealed = core.seal()
        for judge in (straight, broken):
            judge.take("a", [parcel(sealed)])
            judge.judge(["a"], NOW)
        journal.begin()
        broken.save(journal)
        journal.commit()
        broken = Aggregator(SETTINGS)
        broken.load(journal)
        for version in VERSIONS:
            broken.know(version)
    assert msgspec.json.encode(verdicts(broken)) == msgspec.json.encode(verdicts(straight))
    assert verdicts(straight)["1"].drift["_all"].blocks > 5


def test_quality_is_read_from_the_cells() -> None:
    records, _ = stream(200, spacing_s=120, shift=30.0)
    (core,), judge = ledgers(1), aggregator()
    core.ingest(packed(records), KNOWN, NOW)
    judge.take("a", [parcel(core.seal(START + 10 * 86400))])
    judge.judge(["a"], NOW)
    found = {name: check.ratio for name, check in judge.verdicts(("m", "1")).checks.quality.checks["x0"].items()}
    assert found == {"missing": 0.0, "below": 0.0, "above": pytest.approx(0.5, abs=0.1), "constant": 0.0}


def test_a_version_without_a_profile_has_no_data_and_says_what_is_not_monitored() -> None:
    judge = Aggregator(SETTINGS)
    judge.know(Version(manifest("1", monitored=False)))
    found = judge.verdicts(("m", "1"))
    assert found.state == "no_data"
    assert "drift is not monitored: the version has no reference profile" in found.notes
    assert "labels are not monitored: the version declares no task" in found.notes


def test_the_budget_is_divided_among_the_versions_that_have_rows() -> None:
    records, _ = stream(600, spacing_s=120)
    (core,), judge, journal = ledgers(1), aggregator(), Journal(None, "test")
    only_first = [record for record in records[:300] if record.version == "1"]
    core.ingest(packed(only_first + records[300:]), KNOWN, NOW)
    judge.take("a", [parcel(core.seal())])
    judge.judge(["a"], NOW)
    of_one = judge.verdicts(("m", "1")).drift["_all"].threshold
    found = judge.budget
    each = found.pagers // 2
    assert [(change.version, change.joined, change.pagers) for change in found.changes] == [
        ("1", True, each), ("2", True, 2 * each),
    ]  # fmt: skip
    assert found.changes[1].at >= records[299].event_times[0] - SETTINGS.slot_s
    assert of_one == pytest.approx(math.log(found.run_blocks)) and found.run_blocks == 2 * each * 5 * 86400 / (6 * 3600)
    judge.save(journal)
    restored = aggregator()
    restored.load(journal)
    assert restored.budget == found
