import itertools
import math
import sqlite3
from collections.abc import Sequence
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitors.adoption import Edition
from monitors.book import Version
from monitors.bottom_k import BottomK, K, hashes
from monitors.cell_losses import Losses, added, follow
from monitors.journal import Journal
from monitors.labels import Label, LabelStore
from monitors.ledger import Ledger, Sealed
from monitors.reference import PREDICTION
from monitors.scorecard import scorecard
from monitors.slot import LOSS_UNIT, ROWS, Counts
from serving.config import Monitors
from serving.manifest import Segment
from serving.record import Column, Record
from tests.monitors.traffic import FEATURES, START, manifest, packed, profile, record, stream

SETTINGS = Monitors(event_time="request", slot_s=3600, block_s=86400, lateness_s=600, label_horizon_s=4 * 3600)
NOW = START + 10**8
X = np.zeros((1, FEATURES), np.float32)


def ledger(settings: Monitors = SETTINGS, journal: Journal | None = None) -> Ledger:
    sql = journal.sql if journal else sqlite3.connect(":memory:", isolation_level=None)
    return Ledger(settings, LabelStore(sql, settings.label_budget_rows))


def ingest(subject: Ledger, records: Sequence[Record]) -> None:
    versions = {"1": Version(manifest("1"), profile()), "2": Version(manifest("2"), profile())}
    known = {(r.model, r.version, r.digest): versions.get(r.version) for r in records}
    subject.ingest(packed(records), known, NOW)


def plain(sealed: Sealed) -> list[tuple[str, str, int, bytes]]:
    slots = [(*slot[:3], slot.counts.encode()) for slot in sealed.slots]
    return slots + [(*slot[:3], slot.counts.encode()) for slot in sealed.labels]


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(1, 299), max_size=40), st.integers(0, 5))
def test_how_many_records_are_read_at_once_does_not_change_a_count(cuts: set[int], seed: int) -> None:
    records, _ = stream(300, seed=seed, spacing_s=400)
    rng = np.random.default_rng(seed)  # out of order by up to half an hour, so that some are late
    order = np.argsort(np.arange(300) * 400 + rng.uniform(0, 5400, 300))
    records = [records[i] for i in order]
    once, often = ledger(), ledger()
    ingest(once, records)
    whole = plain(once.seal())
    parts: list[tuple[str, str, int, bytes]] = []
    for start, end in pairwise([0, *sorted(cuts), 300]):
        ingest(often, records[start:end])
        parts += plain(often.seal())
    assert sorted(whole) == sorted(parts)
    assert once.books == often.books
    assert sum(book.late for book in once.books.values()) > 0


@pytest.mark.parametrize("read_at_once", [500, 33])
def test_the_sample_of_a_slot_is_of_all_its_rows(read_at_once: int) -> None:
    times, x = [START + k for k in range(500)], np.random.default_rng(1).normal(size=(500, FEATURES)).astype(np.float32)
    records, subject = [record([f"r{k}"], x[k : k + 1], [at]) for k, at in enumerate(times)], ledger()
    for first in range(0, 500, read_at_once):
        ingest(subject, records[first : first + read_at_once])
    (slot,) = subject.seal(START + 9999).slots
    columns = {f"x{k}": x[:, k] for k in range(FEATURES)} | {PREDICTION: (1 / (1 + np.exp(-x.sum(1))))}
    cells = np.stack([profile().features[name].cells(column) for name, column in columns.items()], 1)
    expected = BottomK.of(hashes(np.array(times), np.zeros(500)), cells.astype(np.uint8))
    assert len(expected) == K and slot.counts.sample == expected


def test_a_row_for_a_sealed_slot_is_counted_as_late_and_is_no_evidence() -> None:
    subject = ledger()
    ingest(subject, [record(["a"], X, [START]), record(["b"], X, [START + 4200])])
    assert [slot.counts.rows for slot in subject.seal().slots] == [1]
    ingest(subject, [record(["c"], X, [START + 3599])])
    ingest(subject, [record(["d"], X, [START + 10 * 3600])])
    assert sum(slot.counts.rows for slot in subject.seal().slots) == 1
    assert (subject.books["m", "1"].rows, subject.books["m", "1"].late) == (4, 1)


def test_labels_after_the_seal_enter_the_mean_and_never_the_evidence() -> None:
    subject = ledger()
    ingest(subject, [record(["a", "b"], np.zeros((2, FEATURES), np.float32), [START, START])])
    subject.label([Label("m", "a", 0, 1.0, START + 60)], NOW)
    ingest(subject, [record(["z"], X, [START + 6 * 3600])])
    sealed = subject.seal().labels
    assert [(c.counts.predictions, c.counts.labelled, c.counts.mean) for c in sealed] == [(2, 1, 0.25)]
    subject.label([Label("m", "b", 0, 1.0, START + 120)], NOW)
    book = subject.books["m", "1"]
    assert (book.joined, book.expected, book.due, book.due_labelled, book.mean_loss) == (2, 3, 2, 1, 0.25)
    ingest(subject, [record(["y"], X, [START + 9 * 3600])])
    assert [c for c in subject.seal().labels if c.counts.labelled] == []


def test_mean_loss_is_the_brier_score_whatever_came_twice_or_was_corrected() -> None:
    subject, (records, labels) = ledger(), stream(200)
    ingest(subject, records)
    wrong = [label._replace(label=1 - label.label, time=label.time - 1) for label in labels[::3]]
    for batch in (labels[50:], wrong, labels, labels[:50]):
        subject.label(batch, NOW)
    p = {(r.ids[0], row): value for r in records for row, value in enumerate(r.outputs["p"].array()[:, 1].tolist())}
    loss = [(p[label.id, label.row] - label.label) ** 2 for label in labels]
    books = subject.books.values()
    assert sum(book.joined for book in books) == len(labels)
    total = sum(book.loss for book in books) * LOSS_UNIT
    assert math.isclose(total, sum(loss), abs_tol=len(loss) * LOSS_UNIT)
    assert subject.marks.conflicting == len(wrong)


def test_what_waits_is_what_open_label_slots_lack_and_late_labels_are_counted() -> None:
    subject, (records, labels) = ledger(), stream(200, spacing_s=120)
    for k in range(0, 200, 10):
        ingest(subject, records[k : k + 10])
        subject.label([label for label in labels[::2] if label.id in {f"r{i}" for i in range(k - 60, k - 50)}], NOW)
        subject.seal()
        lacking = sum(counts.predictions - counts.labelled for counts in subject._label_slots.values())
        assert sum(sum(book.waiting.values()) for book in subject.books.values()) == lacking
    early = labels[1:20:2]  # of the first hour
    assert subject.label(early, NOW).late == sum(book.late_labels for book in subject.books.values()) == 10
    assert subject.label(early, NOW).late == 0


def test_a_book_of_before_metrics_begins_them_and_survives_what_is_taken_back() -> None:
    subject = ledger()
    ingest(subject, [record(["a", "b"], np.zeros((2, FEATURES), np.float32), [START, START])])
    book = subject.books["m", "1"]
    book.tables = None
    subject.label([Label("m", "a", 0, 1.0, START)], NOW)
    ingest(subject, [record(["c"], X, [START])])
    subject.label([Label("m", "a", 0, 0.0, START + 1), Label("m", "b", 0, 1.0, START)], NOW)
    metrics = scorecard(book.tables, 1).metrics
    assert book.joined == 2 and all(0 <= metric.lower <= metric.value <= metric.upper for metric in metrics.values())


def test_a_kpi_goes_the_way_of_its_label() -> None:
    subject = ledger()
    version = Version(msgspec.structs.replace(manifest("1"), kpi_range=(0.0, 100.0)), profile())
    found = record(["a", "b"], np.zeros((2, FEATURES), np.float32), [START, START], of=version.manifest)
    subject.label([Label("m", "a", 0, 1.0, START, 30.0), Label("m", "b", 0, 1.0, START)], NOW)
    subject.ingest(packed([found]), {("m", "1", found.digest): version}, NOW)
    tables = subject.books["m", "1"].tables
    assert tables is not None
    assert scorecard(tables, 1).metrics["kpi"].value == pytest.approx((30 + 1) / 2)
    subject.label([Label("m", "a", 0, 1.0, START, 50.0), Label("m", "a", 0, 1.0, START, 40.0)], NOW)
    assert scorecard(tables, 1).metrics["kpi"].value == pytest.approx((50 + 1) / 2)


def test_what_was_saved_goes_on_to_the_same_counts() -> None:
    records, labels = stream(300, spacing_s=300)
    journal = Journal(None, "test")
    straight, broken = ledger(), ledger(journal=journal)
    seals: tuple[list[tuple[str, str, int, bytes]], ...] = ([], [])
    for k in range(0, 300, 20):
        for subject, seal in zip((straight, broken), seals, strict=True):
            ingest(subject, records[k : k + 20])
            subject.label([label for label in labels if label.id == f"r{k // 2}"], NOW)
            seal += plain(subject.seal())
        journal.begin()
        broken.save(journal)
        broken = ledger(journal=journal)
        broken.load(journal)
    assert seals[0] == seals[1]
    assert straight.books == broken.books
    assert straight.marks == broken.marks


@pytest.mark.parametrize("time", [math.nan, -1.0, math.inf, NOW + 86400])
def test_an_event_time_that_is_none_does_not_move_the_clock(time: float) -> None:
    subject = ledger()
    ingest(subject, [record(["a"], X, [START]), record(["b"], X, [time], arrivals=[START])])
    assert subject.marks.clock == START
    assert subject.books["m", "1"].misdated == 1


def test_unknown_versions_failed_requests_and_tensors_that_do_not_fit_are_counted_and_kill_nothing() -> None:
    subject = ledger()
    odd = msgspec.structs.replace(record(["odd"], X, [START]), outputs={"q": Column.of("FP32", X)})
    narrow = record(["narrow"], X, [START])
    narrow = msgspec.structs.replace(narrow, inputs={"x": Column.of("FP32", X[:, :1])})
    failed = record(["f", "g"], np.zeros((2, FEATURES), np.float32), [START, START], statuses=[500, 200])
    text = np.array([[b"not", b"a number"]], object)
    words = msgspec.structs.replace(record(["words"], X, [START]), outputs={"p": Column.of("BYTES", text)})
    ingest(subject, [record(["a"], X, [START], version="9"), odd, narrow, words, failed, record(["b"], X, [START])])
    assert subject.marks.dropped == {"unknown_version": 1, "unreadable": 2}
    assert subject.books["m", "1"].failed == 1
    ingest(subject, [record(["z"], X, [START + 7200])])
    assert [c.counts.cells["_prediction"].sum() for c in subject.seal().slots] == [2]


@pytest.mark.parametrize("width", [0, FEATURES - 1])
@pytest.mark.parametrize("unit", ["row", f"cluster:x{FEATURES - 1}"])
def test_rows_narrower_than_declared_cost_only_themselves(
    unit: str, width: int, caplog: pytest.LogCaptureFixture
) -> None:
    """What they lack names clusters and segments, and they come between rows that are whole."""
    lacking = f"x{FEATURES - 1}"
    version = Version(msgspec.structs.replace(manifest(), segments=(Segment(lacking, edges=(0.0,)),)), profile())
    x, narrow = np.random.default_rng(1).normal(size=(40, FEATURES)).astype(np.float32), list[Record]()
    whole = [record([f"r{k}"], x[k : k + 1], [START + k], of=version.manifest) for k in range(40)]
    for k, one in enumerate(whole[::4]):
        cut = Column.of("FP32", one.inputs["x"].array()[:, :width])
        narrow.append(msgspec.structs.replace(one, ids=[f"n{k}"], inputs={"x": cut}))
    alone, mixed = (ledger(msgspec.structs.replace(SETTINGS, unit=unit)) for _ in range(2))
    of = {("m", "1", version.manifest.digest): version}
    alone.ingest(packed(whole), of, NOW)
    for k in range(10):
        mixed.ingest(packed([*whole[4 * k : 4 * k + 2], narrow[k], *whole[4 * k + 2 : 4 * k + 4]]), of, NOW)
    assert (mixed.marks.dropped, mixed.books["m", "1"].expected) == ({"unreadable": 10}, 40)
    assert f"feature 'x{width}' is column {width} of 'x', which has {width}" in caplog.text
    (expected,), (found,) = (subject.seal(START + 9999).slots for subject in (alone, mixed))
    expected.counts.add(Counts(10, {ROWS: np.array([10])}))
    assert parts(found.counts) == parts(expected.counts) and (found.counts.clusters is None) == (unit == "row")


def test_rows_of_two_references_that_cannot_be_read_are_counted_with_neither() -> None:
    """Only the second one knows the feature whose values are no numbers."""
    fine = profile()
    alone = {PREDICTION: fine.features[PREDICTION]}
    published = msgspec.structs.replace(fine, features=alone, losses=None, sample=None)
    later = Edition(1, int(START // 3600) + 1, fine, fine.digest, 1)
    version, words = Version(manifest(), published, later=(later,)), np.full((2, FEATURES), b"a word", object)
    found = record(["a", "b"], np.zeros((2, FEATURES), np.float32), [START, START + 3600])
    found = msgspec.structs.replace(found, inputs={"x": Column.of("BYTES", words)})
    subject = ledger()
    subject.ingest(packed([found]), {("m", "1", found.digest): version}, NOW)
    assert subject.marks.dropped == {"unreadable": 2} and subject.books["m", "1"].expected == 0
    slots = subject.seal(START + 9999).slots
    assert [(slot.counts.rows, slot.counts.reference, [*slot.counts.cells]) for slot in slots] == [
        (1, 0, [ROWS]), (1, 1, [ROWS]),
    ]  # fmt: skip


def parts(counts: Counts) -> tuple[object, ...]:
    cells = {name: cells.tolist() for name, cells in counts.cells.items()}
    return counts.rows, cells, counts.sample, counts.clusters, counts.contents


def test_a_shadow_is_counted_for_its_version_and_gets_the_same_label() -> None:
    subject = ledger()
    ingest(subject, [record(["a"], X, [START]), record(["a"], X, [START], version="2", role="shadow")])
    assert subject.label([Label("m", "a", 0, 1.0, START)], NOW).joined == 1
    assert [book.joined for book in subject.books.values()] == [1, 1]


def test_a_label_that_cannot_be_judged_is_refused_with_a_reason() -> None:
    subject = ledger()
    ingest(subject, [record(["a"], X, [START])])
    labels = [Label("m", "a", 0, 0.0, START), Label("m", "a", 0, 2.0, START), Label("nobody", "a", 0, 2.0, START)]
    assert subject.refusals(labels) == [None, "label of a classification must be 0 or 1, got 2", None]


def test_other_content_under_a_version_starts_its_book_anew() -> None:
    subject = ledger()
    ingest(subject, [record(["a"], X, [START])])
    other = msgspec.structs.replace(manifest("1"), files={"model.onnx": "other"})
    found = record(["b"], X, [START], of=other)
    subject.ingest(packed([found]), {("m", "1", other.digest): Version(other, profile())}, NOW)
    assert subject.books["m", "1"].rows == 1
    ingest(subject, [record(["z"], X, [START + 7200], version="2")])
    assert [slot.counts.rows for slot in subject.seal().slots] == [1]


def test_with_arrival_time_the_wall_clock_seals_only_when_asked() -> None:
    subject = ledger(Monitors(slot_s=60, lateness_s=60))
    ingest(subject, [record(["a"], X, [0.0], arrivals=[START])])
    assert subject.seal().slots == []
    assert len(subject.seal(START + 120).slots) == 1


def test_labels_and_predictions_beyond_0_to_1_are_counted_and_kill_nothing() -> None:
    """A label that came before its model was known is judged when they meet; an infinite prediction waits for none."""
    journal = Journal(None, "test")
    subject, x = ledger(journal=journal), np.zeros((4, FEATURES), np.float32)
    first = [Label("m", "a", 0, 1e250, START + 60), Label("m", "b", 0, 1e250, START + 60)]
    subject.label([*first, Label("m", "inf", 0, 1.0, START + 60), Label("m", "far", 0, 1.0, START + 60)], NOW)
    found = record(["a", "b", "inf", "far"], x, [START] * 4)
    p = np.array([[0.5, 0.5], [0.5, 0.5], [0.0, np.inf], [0.0, 1e12]], np.float32)
    ingest(subject, [msgspec.structs.replace(found, outputs={"p": Column.of("FP32", p)})])
    book = subject.books["m", "1"]
    assert (book.expected, book.joined, book.corrected, book.mean_loss) == (3, 1, 0, 1.0)
    subject.label([Label("m", "b", 0, 1.0, START + 90)], NOW)
    assert (book.joined, book.corrected, sum(book.delays)) == (2, 0, 2)
    journal.begin()
    subject.save(journal)
    again = ledger(journal=journal)
    again.load(journal)
    counts, told = (slot.counts for slot in again.seal(START + 30 * 3600).labels)
    assert (counts.predictions, counts.labelled, sum(counts.bin_rows), sum(counts.bin_labels)) == (3, 2, 2, 2)
    assert (told.predictions, told.labelled, len(told.cells)) == (0, 0, 16 * sum(book.cells))
    assert sum(counts.bin_predictions) * LOSS_UNIT == 0.5 + 1.0
    assert again.books["m", "1"].due_labelled == 2


def test_the_error_of_a_regression_is_capped_however_large_it_is() -> None:
    version = Version(msgspec.structs.replace(manifest("1"), task="regression"), profile())
    found = record(["a", "b", "c"], np.zeros((3, FEATURES), np.float32), [START] * 3, of=version.manifest)
    p = np.array([[0, 1e308], [0, -1e308], [0, np.inf]])
    found = msgspec.structs.replace(found, outputs={"p": Column.of("FP64", p)})
    subject, journal = ledger(), Journal(None, "test")
    versions = {("m", "1", found.digest): version}
    subject.label([Label("m", id, 0, label, START) for id, label in (("a", -1e308), ("b", 1e308), ("c", 1.0))], NOW)
    subject.ingest(packed([found]), versions, NOW)
    book = subject.books["m", "1"]
    assert (book.joined, book.mean_loss) == (2, 1.0)
    assert book.tables is not None
    assert scorecard(book.tables, 1).metrics["mae"].value == book.tables.plan.most_error
    journal.begin()
    subject.save(journal)


def test_losses_by_cell_are_those_of_the_joined_rows_in_whatever_order_they_came() -> None:
    """Two nodes, labels before and after their predictions, a third of them corrected: a table a version and block."""
    known, rng, (records, labels) = profile(), np.random.default_rng(3), stream(300, spacing_s=300)
    assert known.losses is not None
    wrong = [label._replace(label=1 - label.label, time=label.time - 1) for label in labels[::3]]
    said = [([*labels, *wrong])[i] for i in rng.permutation(len(labels) + len(wrong)).tolist()]
    nodes, found = (ledger(), ledger()), dict[tuple[str, int], bytes]()
    for number, node in enumerate(nodes):
        mine = [found for k, found in enumerate(records) if k // 2 % 2 == number]
        ids = {found.ids[0] for found in mine}
        told = [label for label in said if label.id in ids]
        node.label(told[::3], NOW)
        ingest(node, mine)
        node.label([*told[1::3], *told[2::3], *told[:9]], NOW)
        for slot in node.seal(START + 10 * 86400).labels:
            of = slot.version, slot.slot // 24
            assert not slot.counts.cells or slot.slot % 24 == 23
            found[of] = added(found.get(of, b""), slot.counts.cells)
    assert {of: table for of, table in found.items() if table} == by_hand(known.losses, records, labels)


def by_hand(known: Losses, records: Sequence[Record], labels: Sequence[Label]) -> dict[tuple[str, int], bytes]:
    truth, tables = {(label.id, label.row): label.label for label in labels}, dict[tuple[str, int], bytes]()
    for found in records:
        x, p = found.inputs["x"].array(), found.outputs["p"].array()[:, 1]
        values = {PREDICTION: p, **{f"x{k}": x[:, k] for k in range(FEATURES)}}
        for row in range(len(x)):
            if (y := truth.get((found.ids[0], row))) is not None:
                cells = [profile().features[name].cells(values[name][row : row + 1])[0] for name in known.names]
                units = round((float(p[row]) - y) ** 2 / LOSS_UNIT)
                of = found.version, int(found.event_times[0] // 86400)
                one = follow(b"", known.sizes, np.array([cells], np.uint8), [1], [units])
                tables[of] = added(tables.get(of, b""), one)
    return tables


USUAL = [Label("m", "a", 0, 1.0, START + 10), Label("m", "a", 0, 0.0, START + 20)]
ODD = [Label("m", "a", 0, 7.0, START + 15), Label("m", "a", 0, 1e250, START + 99)]


@pytest.mark.parametrize("order", itertools.permutations(range(5)))
def test_a_label_that_cannot_be_judged_displaces_none_in_whatever_order_they_came(order: tuple[int, ...]) -> None:
    """Refused where the version is known, else kept and counted as unusable when it is."""
    subject, refused = ledger(), 0
    for event in order:
        if event == 4:
            ingest(subject, [record(["a"], X, [START])])
            continue
        label = (*USUAL, *ODD)[event]
        if subject.refusals([label]) == [None]:
            subject.label([label], NOW)
        else:
            refused += 1
    book = subject.books["m", "1"]
    assert (book.joined, book.mean_loss, sum(book.delays)) == (1, 0.25, 1)  # p is 0.5; the good one of START + 20
    assert book.delay_s == 20.0
    assert subject.marks.unusable + refused == 2
    subject.label([Label("m", "a", 0, 1.0, START + 30)], NOW)
    assert (book.joined, book.delay_s) == (1, 30.0)
