from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from scipy import stats

from loadtests.promise.nulls import limit
from monitors.drift.tempering import live_design_effect
from monitors.drift.watch import WINDOW_BLOCKS, AllWatch, SavedWatch, Watch, judge
from monitors.reference import Marginal, marginal
from serving.protocol import Array

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


def test_features_side_by_side_are_judged_as_each_alone() -> None:
    """To the bit, whatever else is judged with them: laws of 13 and of 6 cells, one that no row has, an unfit one."""
    laws = [law(1), law(2), marginal(np.arange(9_000.0) % 3, "categorical"), law(3, rows=300), law(4)]
    alone, together = [Watch(one, 0.02) for one in laws], [Watch(one, 0.02) for one in laws]
    rng = np.random.default_rng(13)
    for number in range(6):
        counts = [rng.multinomial(200, one.theta) for one in laws[:-1]]
        judge(together, [*counts, None], float(number), THRESHOLD, 3)
        for watch, cells in zip(alone, counts, strict=False):
            watch.judge(cells, float(number), THRESHOLD, 3)
    assert [msgspec.msgpack.encode(w.save()) for w in alone] == [msgspec.msgpack.encode(w.save()) for w in together]
    assert [watch.save().blocks for watch in together] == [6, 6, 6, 6, 0]


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
    assert alarms <= limit(25 * 40, 20)


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


NONE_YET = np.empty((0, 13), np.int64)
CALM = np.tile([0, *[20] * 10, 0, 0], (10, 1))  # ten past blocks that show no clusters at all
WILD = np.eye(13, dtype=np.int64)[1:11] * 200  # ten that are one cluster each
SAMPLED = msgspec.structs.replace(law(), design_effect=3.0, block_rows=101.0)


def test_a_denser_block_is_tempered_more() -> None:
    """D - 1 grows with the rows, from what 198 blocks leave possible: the past blocks say how much of that it is."""
    least, most = (3 + 10 * 0.9 * (3 * 197 / stats.chi2.ppf(p, 197) - 1) for p in (0.99, 0.01))
    assert 15 < least < 21 < most < 30
    for past, effect in ((NONE_YET, most), (CALM[:3], most), (CALM, least), (WILD, most)):
        assert live_design_effect(SAMPLED, 1_001, past) == pytest.approx(effect, rel=0.01)
        assert live_design_effect(SAMPLED, 102, past) == pytest.approx(3.0, abs=0.03)
        assert live_design_effect(SAMPLED, 101, past) == 3.0


def test_independent_rows_are_told_by_the_blocks_whatever_a_thin_sample_says() -> None:
    """341 rows a block, whose D is off by chance: of live blocks of 20,000 it would be 19."""
    thin = msgspec.structs.replace(law(rows=24 * 341), design_effect=1.3, block_rows=341.0)
    live = np.random.default_rng(3).multinomial(20_000, thin.theta, 10)
    assert live_design_effect(thin, 20_000, NONE_YET) > 19
    assert live_design_effect(thin, 20_000, live[:4]) < 3
    assert live_design_effect(thin, 20_000, live) < 2


@pytest.mark.parametrize("effect", [1.0, 1.3])
def test_blocks_that_are_no_denser_are_tempered_as_the_reference_says(effect: float) -> None:
    known = msgspec.structs.replace(law(), design_effect=effect, block_rows=101.0)
    for rows in (1, 26, 100, 101):
        assert live_design_effect(known, rows, WILD) == effect
        assert live_design_effect(known, rows, CALM) == 1 + (effect - 1) * (rows - 1) / 100
    single = msgspec.structs.replace(known, block_rows=1.0)
    assert live_design_effect(single, 20_000, WILD) == effect


def test_a_sparser_block_is_tempered_less_where_the_past_shows_no_more() -> None:
    assert live_design_effect(SAMPLED, 26, CALM) == pytest.approx(1.5)
    assert live_design_effect(SAMPLED, 26, WILD) == 3.0
    assert live_design_effect(SAMPLED, 26, NONE_YET) == 3.0
    assert live_design_effect(SAMPLED, 26, CALM[:3]) == 3.0
    assert live_design_effect(SAMPLED, 1, CALM) == 1.0


def test_an_hour_is_no_sparse_day() -> None:
    """A reference of days judged by the hour: a 24th of the rows, of the same clusters."""
    assert live_design_effect(SAMPLED, 26, CALM, split=4) == pytest.approx(3.0, abs=0.1)
    assert live_design_effect(SAMPLED, 26, CALM, split=24) == 3.0


def test_where_no_design_effect_was_measured_it_is_one() -> None:
    assert live_design_effect(law(), 10_000, WILD) == 1.0


Block = Callable[[np.random.Generator, int], Array]


def weather(rng: np.random.Generator, rows: int) -> Array:
    """Of a day on which all rows have the same."""
    return np.full(rows, rng.normal())


def fronts(rng: np.random.Generator, rows: int) -> Array:
    """A day of four clusters, of whose 900 rows `rows` are drawn one by one."""
    return rng.choice(np.repeat(rng.normal(size=4), 225), rows, replace=False)


def users(rng: np.random.Generator, rows: int) -> Array:
    """Fifty equal rows a user; all rows of a user come, or none."""
    return np.repeat(rng.normal(size=rows // 50), 50)


class Untempered(Watch):
    """A mutant: takes clustered rows for independent ones."""

    def design_effect(self, rows: int) -> float:
        return 1.0


class Kish(Watch):
    """A mutant: trusts that rows were thinned one by one, and does not look at the past blocks."""

    def design_effect(self, rows: int) -> float:
        return live_design_effect(self.law, rows, CALM, self._split)


def thinned_alarms(block: Block, rows: int, kind: type[Watch] = Watch, days: int = 200) -> int:
    """Alarms at A = 20 of 20 streams of 80 blocks of `rows` rows, where 80 are allowed on average.

    The references hold `days` blocks of 900 rows.
    """
    rng, found = np.random.default_rng(11), 0
    for _ in range(20):
        reference = np.concatenate([block(rng, 900) for _ in range(days)])
        watch = kind(marginal(reference, "numeric", block=np.arange(len(reference)) // 900), 0.02)
        for _ in range(80):
            watch.judge(watch.law.count(block(rng, rows)), 1.0, np.log(20), 10)
            found += watch.verdict(np.log(20)).log_e >= np.log(20)
    return found


LIMIT = limit(20 * 80, 20)


@pytest.mark.parametrize(
    ("block", "rows", "days"), [(weather, 180, 200), (weather, 180, 25), (fronts, 180, 200), (users, 100, 200)]
)
def test_a_version_with_a_part_of_the_traffic_keeps_the_promise(block: Block, rows: int, days: int) -> None:
    """25 days of one weather each leave an error near the largest that is judged."""
    assert thinned_alarms(block, rows, days=days) <= LIMIT
    assert thinned_alarms(block, rows, Untempered, days) > LIMIT


def test_rows_thinned_by_user_are_not_rows_thinned_one_by_one() -> None:
    assert thinned_alarms(users, 100, Kish) > LIMIT


class Trusting(Watch):
    """A mutant: takes a thin sample's word that there are no clusters."""

    def design_effect(self, rows: int) -> float:
        return self.law.design_effect


def dense_alarms(kind: type[Watch]) -> int:
    """Alarms at A = 20 of 10 streams of 60 blocks of 20,000 rows that are worth 35 (D = 572).

    Of each of 1,000 blocks the reference has 8 rows, worth 7; by chance they show no clusters at all.
    """
    rng, found = np.random.default_rng(3), 0
    sample = marginal(np.tile([0.0, 1.0], 4_000), "categorical", block=np.repeat(np.arange(1_000), 8))
    assert (sample.design_effect, sample.block_rows) == (1.0, 8.0)
    for _ in range(10):
        watch = kind(sample, 0.02)
        for rows in rng.binomial(20_000, rng.beta(17, 17, 60)).tolist():
            watch.judge(np.array([rows, 20_000 - rows, 0, 0, 0]), 1.0, np.log(20), 10)
            found += watch.verdict(np.log(20)).log_e >= np.log(20)
    return found


def test_a_thin_sample_without_a_sign_of_clusters_keeps_the_promise_on_dense_blocks() -> None:
    assert dense_alarms(Watch) <= limit(10 * 60, 20)
    assert dense_alarms(Trusting) > limit(10 * 60, 20)


class Unscaled(Watch):
    """Tempers by the reference's design effect, however few rows a block has."""

    def design_effect(self, rows: int) -> float:
        return self.law.design_effect


def season_delay(rows: int, kind: type[Watch] = Watch) -> float:
    """Median blocks, at most 60, to the alarm for another season, after a reference of sixty days' weather."""
    rng, first = np.random.default_rng(12), []
    days = np.repeat(rng.normal(size=60), 900)
    season = marginal(days, "numeric", block=np.arange(len(days)) // 900)
    assert 0.3 < season.error < 0.5
    for _ in range(9):
        watch, number = kind(season, 0.02), 0
        while number < 60 and not watch.verdict(THRESHOLD).alarm:
            number += 1
            watch.judge(watch.law.count(np.full(rows, rng.normal(3.0))), 1.0, THRESHOLD, 10)
        first.append(number)
    return float(np.median(first))


def test_a_version_with_a_fifth_of_the_traffic_sees_a_season_nearly_as_soon() -> None:
    all_rows, fifth = season_delay(900), season_delay(180)
    assert all_rows <= 28 and fifth <= all_rows + 8
    assert season_delay(180, Unscaled) == 60
