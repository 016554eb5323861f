import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitors import pending
from monitors.labels import FIRST, UNSAID, Label, LabelStore, Match, Prediction, Predictions, Truth


def store(budget_rows: int = 1000) -> LabelStore:
    return LabelStore(sqlite3.connect(":memory:", isolation_level=None), budget_rows)


def usable(model: str, label: float) -> bool:
    return label < 5


@dataclass
class Added:
    """What `LabelStore.add_predictions` said of some predictions."""

    admitted: list[Prediction] = field(default_factory=list)
    matches: list[Match] = field(default_factory=list)
    sampled_out: int = 0
    reused: int = 0


def add(subject: LabelStore, found: Sequence[Prediction]) -> Added:
    """As a ledger does: those of one version and lane at once."""
    added = Added()
    for (model, lane, version), group in groupby(found, lambda p: (p.model, p.lane, p.version)):
        rows = list(group)
        ids = [p.id.encode() for p in rows]
        sizes, request = np.array([len(id) for id in ids]), np.arange(len(rows))
        facts = [(p.row, p.slot, p.value, p.time, p.counted, p.segment) for p in rows]
        columns = [np.array(column) for column in zip(*facts, strict=True)]
        result = subject.add_predictions(Predictions(model, version, lane, b"".join(ids), sizes, request, *columns))
        kept = [p._replace(sampling=result.sampling) for p, k in zip(rows, result.admitted.tolist(), strict=True) if k]
        added.admitted += kept
        added.matches += result.matches
        added.sampled_out += result.sampled_out
        added.reused += result.reused
    return added


def prediction(id: str = "r", *, row: int = 0, lane: str = "", time: float = 10.0, slot: int = 0) -> Prediction:
    return Prediction("m", id, row, lane, lane or "1", slot, 0.5, time)


@dataclass
class Oracle:
    """The join by its definition, from everything that was sent, at once."""

    predictions: list[Prediction] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)

    def joined(self) -> dict[Prediction, Truth]:
        truths: dict[tuple[str, str, int], list[Truth]] = {}
        for label in self.labels:
            if usable(label.model, label.label):
                truths.setdefault(label[:3], []).append(Truth(label.time, label.label, label.kpi))
        holders = {p[:4]: p for p in sorted(self.predictions, key=lambda p: p.time)}
        return {p: max(truths[p[:3]]) for p in holders.values() if p[:3] in truths}

    def conflicting(self) -> int:
        return sum(
            n - 1 for n in Counter(key for key, _ in {(label[:3], label[3:5]) for label in self.labels}).values()
        )


def follow(matches: list[Match], state: dict[Prediction, Truth]) -> None:
    """Apply changes, insisting that each starts from what was true."""
    for match in matches:
        assert state.pop(match.prediction, None) == match.before
        if match.after:
            state[match.prediction] = match.after


ids = st.sampled_from(["a", "b", "c"])
predictions = st.builds(
    Prediction, st.just("m"), ids, st.integers(0, 1), st.sampled_from(["", "9"]), st.just("1"), st.integers(0, 3),
    st.floats(0, 1), st.integers(0, 10**9).map(float), st.booleans(), st.just(1.0),
    st.integers(0, 2**16 - 1), st.just(b""),
)  # fmt: skip
labels = st.builds(
    Label,
    st.just("m"),
    ids,
    st.integers(0, 1),
    st.sampled_from([0.0, 1.0, 5.0]),  # of which nobody can use the last
    st.integers(0, 3).map(float),
    st.sampled_from([UNSAID, 2.0, 3.0]),
)


@pytest.mark.parametrize("reopened", [False, True])
@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(predictions, max_size=4) | st.lists(labels, max_size=4), max_size=12))
def test_any_order_of_doubled_conflicting_unusable_early_and_late_labels_gives_the_oracles_join(
    reopened: bool, batches: list[list[Any]]
) -> None:
    """Also in blocks of three rows, of which few may be displaced, and when it is opened again after every batch."""
    with pytest.MonkeyPatch.context() as patch:
        if reopened:
            patch.setattr(pending, "BLOCK_ROWS", 3)
            patch.setattr(pending, "SLACK_ROWS", 2)
        join(batches, reopened)


def join(batches: list[list[Any]], reopened: bool) -> None:
    times = iter(range(10**6))
    connection = sqlite3.connect(":memory:", isolation_level=None)
    oracle, subject = Oracle(), LabelStore(connection, 1000)
    subject.truths.usable = usable
    state: dict[Prediction, Truth] = {}
    answered = conflicting = 0
    for batch in batches:
        if batch and isinstance(batch[0], Prediction):
            batch = [p._replace(time=p.time + next(times) / 2**20) for p in batch]  # no two alike
            oracle.predictions += batch
            follow(add(subject, batch).matches, state)
        else:
            oracle.labels += batch
            arrival = subject.add_labels(batch, slot=0)
            answered += arrival.joined + arrival.parked + arrival.unknown
            conflicting += arrival.conflicting
            follow(arrival.matches, state)
        if reopened:
            subject.save()
            subject = LabelStore(connection, 1000)
            subject.truths.usable = usable
    assert state == oracle.joined()
    assert answered == len(oracle.labels)
    assert conflicting == oracle.conflicting()
    assert subject.rows == len({p[:4] for p in oracle.predictions})
    known = {p[:3] for p in oracle.predictions}
    assert subject.parked.total() == len({label[:3] for label in oracle.labels} - known)


def test_a_label_that_comes_before_its_prediction_is_parked_and_joined_later() -> None:
    subject = store()
    assert subject.add_labels([Label("m", "r", 0, 1.0, 20.0)], slot=0).parked == 1
    assert add(subject, [prediction()]).matches == [Match(prediction(), None, Truth(20.0, 1.0))]
    assert subject.parked.total() == 0


def test_a_label_sent_twice_is_joined_once() -> None:
    subject = store()
    add(subject, [prediction()])
    first = subject.add_labels([Label("m", "r", 0, 1.0, 20.0)], slot=0)
    again = subject.add_labels([Label("m", "r", 0, 1.0, 20.0)], slot=0)
    assert (first.joined, len(first.matches), first.doubled) == (1, 1, 0)
    assert (again.joined, len(again.matches), again.doubled) == (1, 0, 1)


def test_the_primary_and_its_shadow_get_the_same_label() -> None:
    subject = store()
    add(subject, [prediction()])
    subject.add_labels([Label("m", "r", 0, 1.0, 20.0)], slot=0)
    shadow = prediction(lane="2")
    assert add(subject, [shadow]).matches == [Match(shadow, None, Truth(20.0, 1.0))]


def test_an_id_used_again_takes_the_label_with_it() -> None:
    subject, later = store(), prediction(time=11.0)
    add(subject, [prediction()])
    subject.add_labels([Label("m", "r", 0, 1.0, 20.0)], slot=0)
    result = add(subject, [later])
    truth = Truth(20.0, 1.0)
    assert result.reused == 1
    assert result.matches == [Match(prediction(), truth, None), Match(later, None, truth)]


def test_what_expires_is_gone_and_a_label_without_a_prediction_was_unknown() -> None:
    subject = store()
    add(subject, [prediction("old", slot=0), prediction("new", slot=5)])
    subject.add_labels([Label("m", "nobody", 0, 1.0, 1.0)], slot=0)
    assert subject.expire(5) == {"m": 1}
    assert (subject.rows, subject.labels, subject.parked.total()) == (1, 0, 0)
    assert subject.add_labels([Label("m", "old", 0, 1.0, 1.0)], slot=5).parked == 1
    assert subject.add_labels([Label("m", "new", 0, 1.0, 1.0)], slot=5).joined == 1


def test_a_parked_label_lives_as_long_as_the_prediction_it_met() -> None:
    subject = store()
    subject.add_labels([Label("m", "r", 0, 1.0, 1.0)], slot=0)
    add(subject, [prediction(slot=9)])
    subject.expire(5)
    assert subject.add_labels([Label("m", "r", 0, 1.0, 1.0)], slot=9).doubled == 1


@pytest.mark.parametrize("batch", [1, 7, 500])
def test_the_budget_holds_and_a_fuller_store_samples_more_sparsely(batch: int) -> None:
    subject, sampled_out = store(budget_rows=200), 0
    for start in range(0, 3000, batch):
        result = add(subject, [prediction(f"r{i}") for i in range(start, min(start + batch, 3000))])
        sampled_out += result.sampled_out
        assert {p.sampling for p in result.admitted} <= {2.0**-k for k in range(60)}
        assert subject.rows <= 200
    assert subject.rows + sampled_out == 3000
    assert subject.probability < 1


def test_rows_and_versions_of_one_request_are_sampled_together() -> None:
    subject = store(budget_rows=400)
    add(subject, [prediction(f"fill{i}") for i in range(300)])
    assert subject.probability == 0.5
    both = [prediction(f"r{i}", lane=lane) for i in range(40) for lane in ("", "2")]
    kept = Counter(p.id for p in add(subject, both).admitted)
    assert set(kept.values()) == {2}
    assert 5 < len(kept) < 35


def test_parked_labels_have_a_bound_too() -> None:
    subject = store(budget_rows=3)
    arrival = subject.add_labels([Label("m", f"r{i}", 0, 1.0, 1.0) for i in range(5)], slot=0)
    assert (arrival.parked, arrival.unknown) == (3, 2)


def test_a_store_of_before_kpis_goes_on_with_them() -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute(
        "CREATE TABLE labels (model TEXT, id TEXT, row INTEGER, label REAL, time REAL, slot INTEGER, joined INTEGER,"
        " hash INTEGER, PRIMARY KEY (model, id, row)) WITHOUT ROWID"
    )
    connection.execute("INSERT INTO labels VALUES ('m', 'old', 0, 1.0, 2.0, 0, 0, 7)")
    subject = LabelStore(connection, 100)
    assert subject.strays(FIRST, 9) == [Label("m", "old", 0, 1.0, 2.0)]
    subject.add_labels([Label("m", "new", 0, 1.0, 2.0, 9.0)], slot=0)
    assert [label.kpi for label in subject.strays(FIRST, 9)] == [9.0, UNSAID]


def test_a_store_that_is_opened_again_goes_on(tmp_path: object) -> None:
    connection = sqlite3.connect(f"{tmp_path}/labels.db", isolation_level=None)
    first = LabelStore(connection, 100)
    add(first, [prediction()])
    first.add_labels([Label("m", "r", 0, 1.0, 2.0), Label("m", "x", 0, 1.0, 2.0)], slot=0)
    first.save()
    connection.close()
    again = LabelStore(sqlite3.connect(f"{tmp_path}/labels.db", isolation_level=None), 100)
    assert (again.rows, again.labels, again.parked.total()) == (1, 2, 1)
    assert again.add_labels([Label("m", "r", 0, 1.0, 2.0)], slot=0).doubled == 1


def test_what_another_node_cannot_use_gives_way_to_what_it_replaced() -> None:
    """Parked here, while the prediction is there."""
    subject = store()
    good, odd, lone = Label("m", "r", 0, 1.0, 1.0), Label("m", "r", 0, 5.0, 2.0), Label("m", "s", 0, 5.0, 2.0)
    subject.add_labels([good, odd, lone], slot=0)
    assert subject.strays(FIRST, 9) == [odd, lone]
    subject.leave([], [odd, lone])
    assert subject.strays(FIRST, 9) == [good, lone]
    subject.leave([good])
    assert (subject.strays(FIRST, 9), subject.labels, subject.parked.total()) == ([lone], 1, 1)
