import msgspec
import numpy as np
import pytest
from scipy import stats

from monitors.drift.watch import WINDOW_BLOCKS, AllWatch, SavedWatch, Watch, live_design_effect
from monitors.reference import Marginal, marginal

THRESHOLD = float(np.log(1_000))


def law(seed: int = 1, rows: int = 20_000) -> Marginal:
    return marginal(np.random.default_rng(seed).normal(size=rows), "numeric")


def judged(watch: Watch, shifts: list[float], seed: int = 2) -> list[bool]:
    """Whether the alarm is on after each block of 300 rows."""
    rng, on = np.random.default_rng(seed), []
    for number, shift in enumerate(shifts):
        watch.judge(watch.law.count(rng.normal(shift, size=300)), 60.0 * (number + 1), THRESHOLD, 3)
        on.append(watch.verdict(THRESHOLD).alarm)
    return on


def test_an_alarm_latches_restarts_and_clears() -> None:
    watch = Watch(law(), 0.02)
    on = judged(watch, [0.0] * 5 + [1.0] * 2 + [0.0] * 12)
    assert on[:5] == [False] * 5
    assert on[6] and not on[-1]
    assert watch.verdict(THRESHOLD).since is None


def test_the_verdict_shows_the_evidence_that_raised_it_and_goes_on_from_zero() -> None:
    watch = Watch(law(), 0.02)
    judged(watch, [2.0] * 2)  # the first block only teaches
    verdict = watch.verdict(THRESHOLD)
    assert verdict.alarm and verdict.log_e >= THRESHOLD and verdict.since == 120.0
    assert watch.save().s == [0.0] * 4


def test_effect_sizes_are_of_the_last_blocks() -> None:
    watch = Watch(law(), 0.02)
    judged(watch, [3.0] * 5)
    assert watch.verdict(THRESHOLD).psi > 1 and watch.verdict(THRESHOLD).n == 1_500
    judged(watch, [0.0] * WINDOW_BLOCKS)
    verdict = watch.verdict(THRESHOLD)
    assert abs(verdict.psi) < 0.02 and verdict.ks < 0.05
    assert (verdict.n, verdict.blocks) == (300 * WINDOW_BLOCKS, WINDOW_BLOCKS + 5)


def test_a_block_without_rows_of_the_feature_changes_no_evidence() -> None:
    watch = Watch(law(), 0.02)
    judged(watch, [0.2, 0.2])
    before = watch.verdict(THRESHOLD)
    watch.judge(None, 180.0, THRESHOLD, 3)
    watch.judge(np.zeros(watch.law.size, np.int64), 240.0, THRESHOLD, 3)
    assert watch.verdict(THRESHOLD) == before


def test_an_unfit_feature_has_effects_and_no_evidence() -> None:
    watch = Watch(law(rows=300), 0.02)
    judged(watch, [3.0] * 5)
    verdict = watch.verdict(THRESHOLD)
    assert verdict.note.startswith("reference too small: 300 rows")
    assert (verdict.log_e, verdict.alarm) == (0.0, False)
    assert verdict.psi > 1


def test_a_saved_watch_goes_on_to_the_same_bits() -> None:
    one, two = Watch(law(), 0.02), Watch(law(), 0.02)
    judged(one, [0.1] * 3)
    two.load(msgspec.msgpack.decode(msgspec.msgpack.encode(one.save()), type=SavedWatch))
    judged(one, [0.3] * 5, seed=9)
    judged(two, [0.3] * 5, seed=9)
    assert (one.share == two.share).all() and (one.share > 5).any()
    assert msgspec.msgpack.encode(one.save()) == msgspec.msgpack.encode(two.save())


def test_one_feature_of_twenty_is_enough_for_all_of_them() -> None:
    watches, everything = [Watch(law(seed), 0.02) for seed in range(20)], AllWatch()
    rng = np.random.default_rng(5)
    for number in range(8):
        for place, watch in enumerate(watches):
            watch.judge(watch.law.count(rng.normal(0.5 * (place == 3), size=300)), number, THRESHOLD, 10)
        everything.judge(watches, float(number), THRESHOLD, 10)
    verdict = everything.verdict(THRESHOLD, [watch.verdict(THRESHOLD) for watch in watches])
    assert verdict.alarm and verdict.blocks == 8
    assert [watch.verdict(THRESHOLD).alarm for watch in watches] == [place == 3 for place in range(20)]
    assert verdict.psi == watches[3].verdict(THRESHOLD).psi


@pytest.mark.parametrize(("reference_rows", "cluster", "block_rows"), [(1_000, 1, 2_000), (20_000, 50, 200)])
def test_a_watch_keeps_the_promise(reference_rows: int, cluster: int, block_rows: int) -> None:
    """A = 20: a small reference is not taken for the truth, clustered rows not for independent ones."""
    rng, alarms = np.random.default_rng(6), 0
    for _ in range(25):
        rows = np.repeat(rng.normal(size=reference_rows // cluster), cluster)
        watch = Watch(marginal(rows, "numeric", block=np.arange(len(rows)) // 200 if cluster > 1 else None), 0.02)
        for _ in range(40):
            live = np.repeat(rng.normal(size=block_rows // cluster), cluster)
            watch.judge(watch.law.count(live), 1.0, np.log(20), 10)
            alarms += watch.verdict(np.log(20)).log_e >= np.log(20)
    assert alarms <= stats.poisson.ppf(0.999, 25 * 40 / 20)


def test_all_begins_again_after_an_alarm() -> None:
    watches, everything, evidence = [Watch(law(), 0.02)], AllWatch(), []
    rng = np.random.default_rng(7)
    for number in range(6):
        watches[0].judge(watches[0].law.count(rng.normal(3.0 * (number < 2), size=300)), number, THRESHOLD, 10)
        everything.judge(watches, float(number), THRESHOLD, 10)
        evidence.append(everything.verdict(THRESHOLD, [watch.verdict(THRESHOLD) for watch in watches]).log_e)
    assert evidence[1] >= THRESHOLD > 0.0 > evidence[-1]


def test_an_alarm_is_not_cleared_by_silence() -> None:
    watch = Watch(law(), 0.02)
    assert judged(watch, [2.0] * 2)[-1]
    assert not any(watch.judge(None, 60.0 * number, THRESHOLD, 3) for number in range(3, 20))
    assert watch.verdict(THRESHOLD).alarm


def test_all_of_nothing_is_unfit() -> None:
    everything = AllWatch()
    assert everything.verdict(THRESHOLD, []).note == "no feature can be judged"


def test_a_denser_block_is_tempered_more_but_a_sparser_one_not_less() -> None:
    sampled = msgspec.structs.replace(law(), design_effect=3.0, block_rows=101.0)
    assert live_design_effect(sampled, 101) == live_design_effect(sampled, 20) == 3.0
    assert live_design_effect(sampled, 1_001) == pytest.approx(21.0)
    assert live_design_effect(law(), 10_000) == 1.0
