from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from monitors.aggregator import Aggregator
from monitors.drift.watch import Watch
from monitors.journal import Journal
from monitors.ledger import Ledger
from monitors.marginal import Marginal
from monitors.monitor import Monitor
from monitors.orders import Order
from monitors.rebase import Recount, rebase, recount
from monitors.reference import build
from monitors.slot import LOSS_UNIT, LabelCounts
from serving.record import Record
from tests.monitors import seasons
from tests.monitors.explain.faults import Law, carriers, celsius, miles, reference
from tests.monitors.test_aggregator import KNOWN, NOW, SETTINGS, VERSIONS, aggregator, ledgers, parcel
from tests.monitors.traffic import packed, profile, stream

DAY = 86400.0
THRESHOLD = float(np.log(1_000))
ORDER = Order(1, "rebase", "m", "1", NOW, "me", "it stays so")


def judged(watch: Watch, law: Law, plus: float, days: range, rows: int = 300) -> Watch:
    rng = np.random.default_rng(days.start)
    for day in days:
        watch.judge(watch.law.count(law(rng, rows) + plus), DAY * (day + 1), THRESHOLD, 10)
    return watch


def warmed(plus: float = 6.0) -> Watch:
    """In alarm: warmer from day 10 on."""
    return judged(judged(Watch(reference(celsius), 0.02), celsius, 0.0, range(10)), celsius, plus, range(10, 22))


def test_the_blocks_since_the_change_are_the_new_reference_in_the_old_cells() -> None:
    watch = warmed()
    found = recount(watch.law, watch.past(THRESHOLD), DAY)
    law = found.of(watch.law)
    assert law.rows == 12 * 300
    assert (law.edges, law.size) == (watch.law.edges, watch.law.size)
    assert law.counts == tuple(np.array(watch.past(THRESHOLD).counts)[10:].sum(0).tolist())
    assert 1 <= law.design_effect < 3 and law.block_rows == 300


def test_what_is_is_right_then_and_what_was_is_drift() -> None:
    watch = warmed()
    law = recount(watch.law, watch.past(THRESHOLD), DAY).of(watch.law)
    same = judged(Watch(law, 0.02), celsius, 6.0, range(30, 60))
    assert not same.verdict(THRESHOLD).alarm
    back = judged(Watch(law, 0.02), celsius, 0.0, range(30, 40))
    assert back.verdict(THRESHOLD).alarm


def test_without_an_alarm_all_kept_blocks_are_taken() -> None:
    watch = judged(Watch(reference(celsius), 0.02), celsius, 0.0, range(15))
    assert recount(watch.law, watch.past(THRESHOLD), DAY).of(watch.law).rows == 15 * 300


@pytest.mark.parametrize(
    ("days", "rows", "plus", "why"),
    [
        (3, 2000, 0.0, "3 blocks since the change, 4 are needed"),
        (6, 100, 0.0, "600 rows since the change, [0-9]+ are needed"),
        (12, 300, 60.0, "100% of its values lie outside the bins: publish a version with a newer reference"),
    ],
)
def test_what_is_no_reference_is_refused(days: int, rows: int, plus: float, why: str) -> None:
    watch = judged(Watch(reference(celsius), 0.02), celsius, plus, range(days), rows)
    with pytest.raises(ValueError, match=why):
        recount(watch.law, watch.past(THRESHOLD), DAY)


def test_days_of_their_own_weather_are_worth_few_rows() -> None:
    rng, watch = np.random.default_rng(3), Watch(reference(celsius), 0.02)
    for day in range(12):
        watch.judge(watch.law.count(rng.normal(rng.normal(15, 8), 0.5, 300)), DAY * (day + 1), THRESHOLD, 10)
    with pytest.raises(ValueError, match="reference too small: its 3600 rows come in clusters and are worth"):
        recount(watch.law, msgspec.structs.replace(watch.past(THRESHOLD), onset=None), DAY)


def test_a_feature_with_references_by_hour_keeps_them() -> None:
    """Four afternoon hours would be the reference of every night."""
    laws = {"x": seasons.law(seasons.days)}
    subject, rng = Watch(laws["x"], 0.02), np.random.default_rng(3)
    for hour in range(14, 18):
        x = seasons.values(rng, np.full(500, (seasons.MONDAY + hour) * seasons.HOUR_S), seasons.days)
        subject.judge({hour: laws["x"].count(x)}, seasons.HOUR_S * (hour + 1), THRESHOLD, 10)
    found = rebase(1, laws, {"x": subject.past(THRESHOLD)}, None, seasons.HOUR_S)
    assert not found.features
    assert found.left["x"].startswith("its reference is by hour, and the kept blocks hold no weeks")


def test_how_long_blocks_stay_alike_is_not_known_of_too_few_neighbours() -> None:
    past = warmed().past(THRESHOLD)
    gaps = msgspec.structs.replace(past, counts=past.counts[-4:], ends=[DAY * day for day in (1, 2, 4, 7)], onset=None)
    found = recount(reference(celsius), gaps, DAY)
    assert found.correlation_s is None and found.of(reference(celsius)).correlation_s is msgspec.UNSET
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(found), type=Recount) == found


def test_a_feature_that_cannot_be_rebased_keeps_what_it_has() -> None:
    rng = np.random.default_rng(3)
    laws: dict[str, Marginal] = {"a": reference(celsius), "b": reference(miles), "c": reference(carriers)}
    watch, short = warmed(), judged(Watch(laws["b"], 0.02), miles, 0.0, range(2))
    text = Watch(laws["c"], 0.02)
    for day in range(12):
        text.judge(laws["c"].count(carriers(rng, 300)), DAY * (day + 1), THRESHOLD, 10)
    pasts = {name: one.past(THRESHOLD) for name, one in {"a": watch, "b": short, "c": text}.items()}
    first = rebase(7, laws, pasts, None, DAY)
    assert set(first.features) == {"a", "c"} and first.left == {"b": "2 blocks since the change, 4 are needed"}
    assert first.notes == (
        "the reference of drift are live rows up to Fri 23 Jan 1970 (order 7): a, c",
        "b keeps its reference: 2 blocks since the change, 4 are needed",
        "how features go together is not judged: of live rows it is not kept",
    )
    published = build({"a": celsius(rng, 3000), "z": miles(rng, 3000)}, {"a": "numeric", "z": "numeric"})
    applied = first.applied(published)
    assert applied.features["z"] == published.features["z"] and applied.sample is None
    assert applied.risk == published.risk


def test_a_recount_is_stored_exactly() -> None:
    found = recount(reference(celsius), warmed().past(THRESHOLD), DAY)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(found), type=Recount) == found


def test_a_second_order_keeps_what_the_first_brought_where_it_brings_nothing() -> None:
    laws, past = {"a": reference(celsius)}, warmed().past(THRESHOLD)
    first = rebase(1, laws, {"a": past}, None, DAY)
    short = msgspec.structs.replace(past, counts=past.counts[-2:], ends=past.ends[-2:])
    second = rebase(2, laws, {"a": short}, first, DAY)
    assert second.features == first.features and set(second.left) == {"a"}
    nothing = rebase(1, laws, {"a": short}, None, DAY)
    assert nothing.notes[0] == "order 1 changed no reference" and nothing.applied(profile()) == profile()


def test_harm_is_no_part_of_it() -> None:
    monitor = Monitor(profile(), SETTINGS, pagers=2)
    for slot in range(400):
        monitor.fold_labels(slot, LabelCounts(100, 100, int(60 / LOSS_UNIT)))
    assert monitor.risk().alarm
    monitor.reset(harm=False)
    assert monitor.risk().alarm and monitor.risk().onset is not None
    monitor.reset()
    assert not monitor.risk().alarm and monitor.risk().onset is None


def test_labels_that_have_stopped_are_found_again_after_a_reset_and_no_part_of_a_rebase() -> None:
    monitor = Monitor(profile(), SETTINGS, pagers=2)
    risk = profile().risk
    assert risk is not None
    bins = len(risk.calibration)
    ones = LabelCounts(100 * bins, 97 * bins, 0, [97] * bins, [97] * bins, [0] * bins)  # the model says 0
    for slot in range(600):
        monitor.fold_labels(slot, ones if slot < 400 else LabelCounts(100 * bins))
    alarmed = monitor.checks()
    assert alarmed.coverage.alarm and alarmed.calibration.alarm
    monitor.reset(harm=False)
    kept = monitor.checks()
    assert (kept.coverage, kept.calibration) == (alarmed.coverage, alarmed.calibration)
    monitor.reset()
    checks = monitor.checks()
    assert not checks.coverage.alarm and not checks.calibration.alarm
    assert checks.coverage.log_e == checks.calibration.log_e == 0.0
    assert checks.coverage.usual == pytest.approx(0.97)
    for slot in range(600, 1000):
        monitor.fold_labels(slot, LabelCounts(100 * bins))
    assert monitor.checks().coverage.alarm


def fed(judges: Sequence[Aggregator], records: Sequence[Record], core: Ledger) -> None:
    for start in range(0, len(records), 250):
        core.ingest(packed(records[start : start + 250]), KNOWN, NOW)
        part = parcel(core.seal())
        for judge in judges:
            judge.take("a", [part])
            judge.judge(["a"], NOW)


def test_an_order_ends_the_alarm_for_good_and_a_successor_goes_on_to_the_same_bits() -> None:
    records, _ = stream(6000, spacing_s=120, shift=1.5)
    (core,), straight, journal = ledgers(1), aggregator(), Journal(None, "test")
    fed([straight], records[:5000], core)
    assert straight.verdicts(("m", "1")).state == "alarm"
    straight.obey([ORDER], {}, NOW)
    found = straight.verdicts(("m", "1"))
    assert found.state == "ok" and found.order == 1
    assert any(note.startswith("the reference of drift are live rows up to") for note in found.notes)
    journal.begin()
    straight.save(journal)
    journal.commit()
    successor = Aggregator(SETTINGS)
    successor.load(journal)
    for version in VERSIONS:
        successor.know(version)
    assert msgspec.json.encode(successor.verdicts(("m", "1"))) == msgspec.json.encode(found)
    for judge in (straight, successor):
        judge.obey([ORDER], {}, NOW)  # it was carried out
    fed([straight, successor], records[5000:], core)
    assert straight.verdicts(("m", "1")).state == "ok"
    assert straight.verdicts(("m", "2")).state == "alarm"
    assert msgspec.json.encode(straight.verdicts(("m", "1"))) == msgspec.json.encode(successor.verdicts(("m", "1")))
