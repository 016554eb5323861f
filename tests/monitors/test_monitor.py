from collections.abc import Iterable

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.promise.nulls import limit
from monitors.budget import ALL
from monitors.drift.joint import JOINT
from monitors.monitor import Monitor
from monitors.reference import PREDICTION, Profile, build
from monitors.slot import Counts, LabelCounts, count
from serving.config import Monitors
from serving.protocol import Array

HOURLY = Monitors(slot_s=3600, block_s=3600, block_rows=100, label_horizon_s=3600)


def profile(rows: int = 20_000, time: bool = False, features: int = 3) -> Profile:
    rng = np.random.default_rng(1)
    p = rng.random(rows).astype(np.float32)
    return build(
        {f"f{n}": rng.normal(size=rows).astype(np.float32) for n in range(features)},
        {},
        prediction=p,
        labels=(rng.random(rows) < p).astype(float),
        task="classification",
        time=np.arange(rows) * 432.0 if time else None,
    )


PROFILE = profile()


def live(rng: np.random.Generator, rows: int, shift: float = 0.0, features: int = 3) -> dict[str, Array]:
    values: dict[str, Array] = {f"f{n}": rng.normal(shift * (n == 0), size=rows) for n in range(features)}
    return values | {PREDICTION: rng.random(rows).astype(np.float32)}


def fed(monitor: Monitor, shifts: Iterable[float], rows: int = 300, seed: int = 2, first: int = 0) -> Monitor:
    rng = np.random.default_rng(seed)
    for slot, shift in enumerate(shifts, first):
        monitor.fold(slot, count(PROFILE, live(rng, rows, shift)))
    return monitor


def labels(mean: float, labelled: int = 200, predictions: int = 200) -> LabelCounts:
    return LabelCounts(predictions, labelled, int(mean * labelled * 2**32))


slots = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 300), st.floats(0, 1)), min_size=1, max_size=15)


@settings(max_examples=60, deadline=None)
@given(slots=slots, seed=st.integers(0, 2**32), restart=st.integers(0, 15))
def test_two_sidecars_and_a_restart_give_the_same_bits(
    slots: list[tuple[int, int, float]], seed: int, restart: int
) -> None:
    """Each slot is (slots since the last, rows, share of the rows that the first sidecar saw)."""
    rng, number = np.random.default_rng(seed), 0
    one, two = Monitor(PROFILE, HOURLY, 2), Monitor(PROFILE, HOURLY, 2)
    for place, (gap, rows, share) in enumerate(slots):
        if place == restart:
            restarted = Monitor(PROFILE, HOURLY, 2)
            restarted.restore(two.encode())
            two = restarted
        number, values, cut = number + gap, live(rng, rows, shift=place % 3), int(rows * share)
        one.fold(number, count(PROFILE, values))
        merged = count(PROFILE, {name: column[cut:] for name, column in values.items()})
        merged.add(count(PROFILE, {name: column[:cut] for name, column in values.items()}))
        two.advance(number)
        two.fold(number, merged)
        losses = rng.random(rows)
        for monitor, parts in ((one, [losses]), (two, [losses[cut:], losses[:cut]])):
            total = LabelCounts(rows)
            for part in parts:
                total.add(LabelCounts(0, len(part), sum(np.rint(part * 2**32).astype(int).tolist())))
            monitor.fold_labels(number, total)
    assert one.encode() == two.encode()
    assert (one.drift(), one.risk(), one.state) == (two.drift(), two.risk(), two.state)


def test_a_shift_is_found_by_its_feature_and_by_all() -> None:
    monitor = fed(Monitor(PROFILE, HOURLY, 2), [0.0] * 5 + [1.0] * 8)
    verdicts = monitor.drift()
    assert set(verdicts) == {"f0", "f1", "f2", PREDICTION, ALL, JOINT}
    assert [name for name, verdict in verdicts.items() if verdict.alarm] == ["f0", ALL]
    assert verdicts["f0"].psi > 0.3 > 0.05 > abs(verdicts["f1"].psi)
    assert verdicts["f0"].since is not None and 6 * 3600 < verdicts["f0"].since <= 9 * 3600
    assert monitor.state == "alarm"


def test_the_promise_holds_for_all_features_together() -> None:
    """A = 20, four features: alarms of `_all` on 12 null streams of 60 blocks."""
    short = Monitors(slot_s=3600, block_s=3600, false_pages_per_90_days=1e6)
    found = 0
    for seed in range(12):
        monitor, rng, since = Monitor(PROFILE, short, 1), np.random.default_rng(seed), None
        assert monitor.threshold == np.log(20)
        for slot in range(60):
            monitor.fold(slot, count(PROFILE, live(rng, 200)))
            verdict = monitor.drift()[ALL]
            found, since = found + (verdict.alarm and verdict.since != since), verdict.since
    assert found <= limit(12 * 60, 20)


def test_the_budget_is_shared_by_the_pagers() -> None:
    monitor = Monitor(PROFILE, Monitors(false_pages_per_90_days=2, block_s=3600), pagers=2)
    assert monitor.run_blocks == 2 * 45 * 24
    assert monitor.threshold == pytest.approx(np.log(2160))


def test_the_promise_names_its_assumptions() -> None:
    daily = Monitors(slot_s=3600, block_s=86400)
    rows, independent, risk = Monitor(PROFILE, daily, 2).assumptions
    assert "at most 0.02 of the rows" in rows and "may be wrong by (at most 0.02" in rows
    assert independent == "rows do not depend on one another (no design effect was measured)"
    assert "no more than 0.1" in risk and "fair sample" in risk
    assert "(3) a block's mean loss" in Monitor(PROFILE, daily, 2).promise()
    clustered = Monitor(profile(time=True), HOURLY, 2).assumptions
    assert "only inside a block" in clustered[1] and "shorter than those it was measured on" in clustered[1]
    assert "blocks of 1 h are shorter" in clustered[1] and "(24 h)" in clustered[1]
    assert "shorter" not in Monitor(profile(time=True), daily, 2).assumptions[1]


def test_without_a_profile_there_is_nothing_to_judge() -> None:
    monitor = Monitor(None, HOURLY, 2)
    monitor.fold(1, Counts(500))
    monitor.fold_labels(1, labels(0.5))
    monitor.advance(99)
    monitor.advance_labels(99)
    assert monitor.state == "unfit"
    assert monitor.drift()[ALL].note == "no feature can be judged"
    assert monitor.risk().note == "there is no reference profile"
    assert monitor.promise() == "No promise: there is nothing that can be judged."


def test_nothing_came_yet() -> None:
    monitor = Monitor(PROFILE, HOURLY, 2)
    states = [monitor.state]
    fed(monitor, [0.0])
    states.append(monitor.state)  # the block is open
    monitor.advance(1)
    assert [*states, monitor.state] == ["no_data", "no_data", "ok"]


def test_rows_without_any_feature_are_no_data() -> None:
    monitor = Monitor(PROFILE, HOURLY, 2)
    for slot in range(5):
        monitor.fold(slot, Counts(500))
    assert (monitor.state, monitor.drift()[ALL].blocks) == ("no_data", 0)


def test_harm_is_an_alarm() -> None:
    monitor = Monitor(PROFILE, HOURLY, 2)
    for slot in range(40):
        monitor.fold_labels(slot, labels(0.4))
    risk = monitor.risk()
    assert monitor.state == "alarm" and risk.alarm and risk.state == "alarm"
    assert (risk.n, round(risk.mean, 6), risk.blocks) == (8_000, 0.4, 39)


def test_blocks_of_too_few_labels_are_no_data() -> None:
    monitor = Monitor(PROFILE, HOURLY, 2)
    for slot in range(40):
        monitor.fold_labels(slot, labels(1.0, labelled=99))
    risk = monitor.risk()
    assert (risk.state, risk.alarm, risk.log_e, risk.blocks) == ("no_data", False, 0.0, 0)
    assert risk.coverage == 0.495 and risk.n == 40 * 99


def test_why_risk_is_not_judged() -> None:
    bare = build({"x": np.arange(2_000.0)}, {})
    assert Monitor(bare, HOURLY, 2).risk().note == "risk is not judged: the version declares no task"


def test_state_of_other_blocks_is_left_aside() -> None:
    saved = fed(Monitor(PROFILE, HOURLY, 2), [2.0] * 5).encode()
    bare = build({"x": np.arange(9.0)}, {})
    for other in (Monitor(PROFILE, Monitors(slot_s=60, block_s=3600), 2), Monitor(bare, HOURLY, 2)):
        fresh = other.encode()
        other.restore(saved)
        assert other.encode() == fresh


def test_a_new_threshold_takes_the_evidence_along() -> None:
    saved = fed(Monitor(PROFILE, HOURLY, 2), [0.15] * 6).encode()
    monitor = Monitor(PROFILE, HOURLY, 20)
    monitor.restore(saved)
    assert monitor.encode() == saved
    assert monitor.drift()[ALL].threshold == pytest.approx(np.log(4_320))  # of the newest judged block
    fed(monitor, [0.15], first=6)
    assert monitor.drift()[ALL].threshold == pytest.approx(np.log(43_200))


def test_a_year_of_drift_stays_finite() -> None:
    monitor = fed(Monitor(PROFILE, HOURLY, 2), [5.0] * 300, rows=1_000)
    assert all(np.isfinite(verdict.log_e) for verdict in monitor.drift().values())
    assert len(monitor.encode()) < 12_000


def test_slots_come_in_order() -> None:
    monitor = fed(Monitor(PROFILE, HOURLY, 2), [0.0] * 3)
    with pytest.raises(ValueError, match="slot 2 comes after slot 2"):
        monitor.fold(2, Counts())


def test_a_block_as_the_unit_promises_whatever_its_rows_depend_on() -> None:
    blocks = Monitors(slot_s=3600, block_s=3600, unit="block")
    monitor = fed(Monitor(PROFILE, blocks, 2), [0.0] * 5 + [2.0] * 20)
    assert "on average over a block" in monitor.assumptions[0] and "however its own rows" in monitor.assumptions[1]
    rows = fed(Monitor(PROFILE, HOURLY, 2), [0.0] * 5 + [2.0] * 20)
    alarmed, sooner = monitor.drift()["f0"].since, rows.drift()["f0"].since
    assert alarmed is not None and sooner is not None and alarmed > sooner
    assert [found.feature for found in rows.which()] == ["f0"]


def slow_profile() -> Profile:
    """Five hundred hours, a level that stays for about ten of them."""
    rng = np.random.default_rng(4)
    level = np.repeat(np.sin(np.arange(500) / 12), 60)
    values = {"f0": level + rng.normal(size=30_000), "f1": rng.normal(size=30_000)}
    return build(values, {}, time=np.arange(30_000) * 60.0, block_s=3_600.0)


def test_blocks_shorter_than_the_correlation_time_call_nobody() -> None:
    slow = slow_profile()
    assert slow.correlated(3_600.0).keys() == {"f0"} and not slow.correlated(86_400.0)
    allowed = msgspec.structs.replace(HOURLY, allow_correlated_blocks=True)
    rng = np.random.default_rng(5)
    blocks = [{"f0": rng.normal(3.0, size=300), "f1": rng.normal(size=300)} for _ in range(30)]
    seen = {}
    for name, hourly in (("default", HOURLY), ("allowed", allowed)):
        monitor = seen[name] = Monitor(slow, hourly, 1)
        for hour, values in enumerate(blocks):
            monitor.fold(hour, count(slow, values))
    for monitor in seen.values():
        assert monitor.drift()[ALL].alarm and monitor.drift()["f0"].alarm
    assert (seen["default"].state, seen["allowed"].state) == ("ok", "alarm")
    assert (seen["default"].drift()[ALL].severity, seen["allowed"].drift()[ALL].severity) == ("info", "ticket")
    sentence = "blocks of 1 h are shorter than the correlation time of f0 ("
    assert all(sentence in monitor.promise() for monitor in seen.values())
    assert "call nobody" in seen["default"].promise() and "call nobody" not in seen["allowed"].promise()
    assert sentence not in seen["default"].drift()["f1"].promise
    (note,) = (note for note in slow.notes if note.startswith("correlation times: f0 "))
    assert note.endswith(" h; blocks of 1 h are shorter than those of f0")


def test_blocks_as_long_as_the_correlation_time_call() -> None:
    daily = Monitors(slot_s=3600, block_s=86_400, block_rows=100)
    monitor = Monitor(slow_profile(), daily, 1)
    assert "correlation time" not in monitor.promise()
    assert monitor.drift()[ALL].severity == "ticket"
