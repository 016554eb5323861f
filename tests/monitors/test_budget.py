from collections.abc import Callable
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitors.budget import ALL, PERIOD_S, RISK, Division, pagers, run_blocks, severity
from monitors.drift.watch import DriftVerdict
from monitors.journal import Journal
from monitors.monitor import Monitor
from monitors.reference import PREDICTION, Profile, build
from monitors.risk import RiskVerdict
from monitors.slot import LabelCounts, count
from serving.config import Monitors
from serving.protocol import Array

HOURLY = Monitors(slot_s=3600, block_s=3600, block_rows=100, label_horizon_s=3600)
QUARTER = int(PERIOD_S / 3600)  # slots of an hour in 90 days


def profile(rows: int = 20_000, labels: bool = True) -> Profile:
    rng = np.random.default_rng(1)
    p = rng.random(rows).astype(np.float32)
    truth = (rng.random(rows) < p).astype(float) if labels else None
    return build({"x": rng.normal(size=rows)}, {}, prediction=p, labels=truth, task="classification")


PROFILE = profile()


def test_harm_pages_drift_of_the_whole_opens_a_ticket_and_a_feature_explains() -> None:
    severities = {name: severity(name) for name in (RISK, ALL, PREDICTION, "x")}
    assert severities == {RISK: "page", ALL: "ticket", PREDICTION: "ticket", "x": "info"}
    monitor = Monitor(PROFILE, HOURLY, 3)
    drift = {name: verdict.severity for name, verdict in monitor.drift().items()}
    assert {name: (drift | {RISK: monitor.risk().severity})[name] for name in severities} == severities


def test_what_cannot_be_judged_takes_no_part_in_the_budget() -> None:
    assert pagers(PROFILE, HOURLY, True) == 5  # harm, coverage, `_all`, `_prediction`, `_quality`
    assert pagers(profile(labels=False), HOURLY, False) == 3
    assert pagers(profile(rows=300), HOURLY, True) <= 3
    assert pagers(build({"x": np.arange(2_000.0)}, {}), HOURLY, False) == 2
    assert pagers(build({"x": np.arange(300.0)}, {}), HOURLY, False) == 1  # quality is judged of what is unfit, too
    assert (pagers(None, HOURLY, False), pagers(None, HOURLY, True)) == (0, 1)


def test_drift_that_calls_nobody_takes_no_part_in_the_budget() -> None:
    slow = dict(PROFILE.features)
    slow["x"] = msgspec.structs.replace(slow["x"], correlation_s=7_200.0)
    of_x = msgspec.structs.replace(PROFILE, features=slow)
    assert pagers(of_x, HOURLY, True) == 3  # harm, coverage and `_prediction`
    assert pagers(of_x, msgspec.structs.replace(HOURLY, allow_correlated_blocks=True), True) == 5
    assert pagers(of_x, msgspec.structs.replace(HOURLY, block_s=7_200.0), True) == 5
    slow[PREDICTION] = msgspec.structs.replace(slow[PREDICTION], correlation_s=7_200.0)
    assert pagers(msgspec.structs.replace(PROFILE, features=slow), HOURLY, True) == 2


def test_the_budget_is_false_calls_in_90_days_of_all_pagers_together() -> None:
    settings = Monitors(block_s=600, false_pages_per_90_days=3)
    blocks = PERIOD_S / 600
    for n in (1, 3, 300):
        assert n * blocks / run_blocks(n, settings) == pytest.approx(3)


def test_a_version_shares_the_budget_from_its_first_rows_to_90_days_after_its_last() -> None:
    division = Division(HOURLY)
    for slot in (0, 1):
        division.note(("m", "1"), slot, 3)
    division.note(("m", "2"), 5, 2)
    for slot in (QUARTER, 2 * QUARTER):
        division.note(("m", "2"), slot, 2)
    hours = (1, 5, 6, QUARTER + 2, QUARTER + 3, 3 * QUARTER + 1, 3 * QUARTER + 2)
    assert [division.at(3600.0 * hour) for hour in hours] == [3, 3, 5, 5, 2, 2, 1]
    assert [(change.at / 3600, change.version, change.joined, change.pagers) for change in division.changes(1e10)] == [
        (0, "1", True, 3), (5, "2", True, 5), (QUARTER + 2, "1", False, 2), (3 * QUARTER + 1, "2", False, 1),
    ]  # fmt: skip
    assert len(division.changes(6 * 3600.0)) == 2


def test_other_content_under_the_same_name_takes_the_place_of_the_old() -> None:
    division = Division(HOURLY)
    division.note(("m", "1"), 0, 3)
    division.note(("m", "1"), 4, 2)
    assert [division.at(3600.0 * hour) for hour in (4, 5)] == [3, 2]
    assert [change.pagers for change in division.changes(10 * 3600.0)] == [3, 2]


rows = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5 * QUARTER)), max_size=30)


@settings(deadline=None)
@given(rows=rows, cuts=st.lists(st.integers(0, 5 * QUARTER), max_size=4))
def test_who_shares_does_not_depend_on_when_slots_were_folded(rows: list[tuple[str, int]], cuts: list[int]) -> None:
    """At every mark all slots before it are noted, by version; blocks up to the mark may then be judged."""
    once, piecewise = Division(HOURLY), Division(HOURLY)
    journal = Journal(None, "test")
    for name, slot in sorted(set(rows)):
        once.note(("m", name), slot, 3)
    marks = [0, *sorted(cuts), 5 * QUARTER + 1]
    for before, mark in pairwise(marks):
        for name, slot in sorted(set(rows)):
            if before <= slot < mark:
                piecewise.note(("m", name), slot, 3)
        for end in np.linspace(before, mark, 7) * 3600:
            assert piecewise.at(end) == once.at(end)
        piecewise.save(journal)
        piecewise = Division(HOURLY)
        piecewise.load(journal)
    assert piecewise.changes(1e10) == once.changes(1e10)


def judged(pagers: Callable[[float], int], blocks: int, shift: float = 0.3) -> Monitor:
    monitor, rng = Monitor(PROFILE, HOURLY, pagers), np.random.default_rng(3)
    for slot in range(blocks + 1):
        values: dict[str, Array] = {"x": rng.normal(shift, size=300), PREDICTION: rng.random(300).astype(np.float32)}
        monitor.fold(slot, count(PROFILE, values))
        monitor.fold_labels(slot, LabelCounts(200, 200, int(0.9 * 200 * 2**32)))
    return monitor


def verdicts(monitor: Monitor) -> list[DriftVerdict | RiskVerdict]:
    drift = monitor.drift()
    return [drift["x"], drift[ALL], monitor.risk()]


def test_when_more_share_the_threshold_rises_and_evidence_stays() -> None:
    few, more = judged(lambda at: 2, 4), judged(lambda at: 2 if at < 4 * 3600 else 20, 4)
    for name, verdict in few.drift().items():
        assert more.drift()[name].log_e == verdict.log_e
        assert more.drift()[name].threshold == pytest.approx(verdict.threshold + np.log(10))
    assert more.risk().log_e == few.risk().log_e > 0
    assert more.risk().threshold == pytest.approx(few.risk().threshold + np.log(10))
    assert more.drift()["x"].log_e > 2


def test_when_fewer_share_evidence_falls_with_the_threshold() -> None:
    """Otherwise what was gathered under the higher threshold would be an alarm at once, and nobody promised that."""
    many, fewer = judged(lambda at: 20, 4), judged(lambda at: 20 if at < 4 * 3600 else 2, 4)
    for before, after in zip(verdicts(many), verdicts(fewer), strict=True):
        assert before.log_e > np.log(10)
        assert after.threshold - after.log_e == pytest.approx(before.threshold - before.log_e, abs=0.5)


def test_the_promise_stands_beside_every_alarm() -> None:
    monitor = Monitor(PROFILE, Monitors(slot_s=3600, block_s=3600, false_pages_per_90_days=2), 4)
    assert monitor.promise().startswith(
        "At most 2 false pages and tickets in 90 days on average over all versions"
        " (each of 4 alarms at most one in 4320 blocks of 1 h), as long as (1) "
    )
    for verdict in verdicts(monitor):
        assert verdict.promise.startswith("At most one false alarm in 180 days on average (4320 blocks of 1 h)")
    assert "for x;" in monitor.drift()["x"].promise and "for _prediction;" in monitor.drift()[PREDICTION].promise
    assert "fair sample" in monitor.risk().promise and "fair sample" not in monitor.drift()[ALL].promise


def test_what_cannot_be_judged_promises_nothing() -> None:
    monitor = Monitor(build({"x": np.arange(300.0)}, {}), HOURLY, 2)
    assert {verdict.promise for verdict in verdicts(monitor)} == {""}


def test_a_restored_monitor_knows_under_which_division_it_judged() -> None:
    monitor = judged(lambda at: 20, 4)
    restored = Monitor(PROFILE, HOURLY, lambda at: 2)
    restored.restore(monitor.encode())
    assert msgspec.json.encode(restored.drift()) == msgspec.json.encode(monitor.drift())
    assert restored.risk() == monitor.risk()
