"""Hourly blocks of data with a strong daily and weekly season."""

from collections.abc import Callable
from functools import cache

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from monitors.backtest.past import Past, Ruler
from monitors.backtest.replay import Replay
from monitors.book import Version
from monitors.budget import Division
from monitors.case import Case
from monitors.drift.e_detector import CLIPS, Bettor, BlockBettor
from monitors.drift.season import bet
from monitors.drift.watch import SavedWatch, Watch, judge
from monitors.explain.explaining import explain
from monitors.marginal import Marginal
from monitors.monitor import Monitor
from monitors.quality import CheckVerdict, QualityWatch, SavedQuality
from monitors.reference import Part, Profile, build
from monitors.slot import Counts, count
from serving.commands.monitor import _state
from serving.config import Monitors
from tests.monitors import seasons
from tests.monitors.seasons import HOUR_S, MONDAY
from tests.monitors.traffic import manifest

HOURLY = Monitors(slot_s=3600, block_s=3600, block_rows=100)
TWENTY, THOUSAND = float(np.log(20)), float(np.log(1_000))

Hours = dict[int, NDArray[np.int64]]


def block(law: Marginal, rng: np.random.Generator, hour: int, rows: int, season: seasons.Season, shift: float) -> Hours:
    """One hour of live rows, `hour` in hours since that Monday."""
    x = seasons.values(rng, np.full(rows, (MONDAY + hour) * HOUR_S), season) + shift
    return {hour % 168: law.count(x)}


def alarms(watch: Watch, seed: int, season: seasons.Season, *, blocks: int, rows: int = 200, joined: int = 1) -> int:
    """At A = 20, of blocks of so many hours joined; a watch without strata gets them as they are."""
    rng, found = np.random.default_rng(seed), 0
    for number in range(blocks):
        hours: Hours = {}
        for hour in range(number * joined, (number + 1) * joined):
            hours |= block(watch.law, rng, hour, rows // joined, season, 0.0)
        watch.judge(hours if watch.law.strata else sum(hours.values()), 1.0, TWENTY, 10)  # type: ignore[arg-type]
        found += watch.save().log_e >= TWENTY
    return found


def null_alarms(
    change: Callable[[Marginal], Marginal], season: seasons.Season, streams: int, *, weeks: int = 2, joined: int = 1
) -> int:
    """Each stream has a reference of its own, of six or eight weeks."""
    laws = [change(seasons.law(season, 6 + 2 * (seed % 2), 300, seed)) for seed in range(streams)]
    return sum(
        alarms(Watch(law, 0.02), 100 + seed, season, blocks=weeks * 168 // joined, joined=joined)
        for seed, law in enumerate(laws)
    )


def forgotten(law: Marginal) -> Marginal:
    """A mutant: one reference for all hours, as if its season were none."""
    return msgspec.structs.replace(law, strata=msgspec.UNSET)


def limit(streams: int, weeks: int = 2, joined: int = 1) -> float:
    return float(stats.poisson.ppf(0.999, streams * weeks * 168 / joined / 20))


@pytest.mark.parametrize(("season", "joined"), [(seasons.weeks, 1), (seasons.weeks, 3)])
def test_a_season_is_no_drift(season: seasons.Season, joined: int) -> None:
    """And is one to a reference that forgets it, which must exceed what the promise allows."""
    assert null_alarms(lambda law: law, season, 3, joined=joined) <= limit(3, joined=joined)
    assert null_alarms(forgotten, season, 3, joined=joined) > limit(3, joined=joined)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("season", [seasons.none, seasons.days, seasons.weeks])
@pytest.mark.parametrize("joined", [1, 2, 6])
def test_a_season_is_no_drift_in_many_streams(season: seasons.Season, joined: int) -> None:
    streams, weeks = 60, 4
    found = null_alarms(lambda law: law, season, streams, weeks=weeks, joined=joined)
    assert found <= limit(streams, weeks, joined)


def delay(law: Marginal, season: seasons.Season, shift: float, seed: int) -> int:
    """Blocks of 200 rows, at most 60, from the shift to the alarm; a week of the season comes before."""
    watch, rng = Watch(law, 0.02), np.random.default_rng(seed)
    for hour in range(168 + 60):
        shifted = hour >= 100 + seed * 3 % 60
        watch.judge(block(law, rng, hour, 200, season, shift * shifted), 1.0, THOUSAND, 10)
        if watch.save().alarm.on:
            assert shifted
            return hour - (100 + seed * 3 % 60) + 1
    return 60


def test_a_shift_on_top_of_the_season_is_found_about_as_soon() -> None:
    """0.3 standard deviations at a tolerance of about 0.05, where rows without a season take 9 blocks."""
    law = seasons.law(seasons.days)
    assert law.strata and law.strata.by == "hour of the day" and 0.02 + law.error < 0.06
    delays = [delay(law, seasons.days, 0.3, seed) for seed in range(9)]
    assert np.median(delays) <= 14
    assert np.median([delay(law, seasons.days, 0.5, seed) for seed in range(5)]) <= 6


@pytest.mark.parametrize("kind", [Bettor, BlockBettor])
def test_a_bet_is_fair_in_every_hour(kind: type[Bettor]) -> None:
    """E[e] <= 1 under the law of each hour, and of any law within the tolerance, whatever was learned."""
    rng = np.random.default_rng(7)
    theta = rng.dirichlet(np.ones(5), 4)
    bettor = kind(theta.mean(0), 0.1)
    for _ in range(30):
        bet(bettor, theta, np.full(4, 0.1), rng.multinomial(50, rng.dirichlet(np.ones(5)), 4), np.array(1.0))
    one = np.eye(5, dtype=np.int64)
    for hour in range(4):
        before = bettor.q
        won = []
        for cell in one:
            bettor.q = before
            won.append(bet(bettor, theta[[hour]], np.full(1, 0.1), cell[None], np.array(1.0)))
        e = np.exp(np.stack(won))  # shape (cells, clips)
        worst = theta[hour][:, None] * e
        assert (worst.sum(0) <= 1).all()
        assert (worst.sum(0) + 0.1 * (e.max(0) - e.min(0)) <= 1 + 1e-12).all()


def test_hours_that_are_all_alike_teach_as_one_does() -> None:
    """But for half a row in each cell."""
    theta, rng = np.full(4, 0.25), np.random.default_rng(1)
    one, hourly = Bettor(theta, 0.05), Bettor(theta, 0.05)
    for _ in range(10):
        counts = rng.multinomial(4_000, [0.4, 0.3, 0.2, 0.1])
        alone = one.update(counts)
        halves = np.stack([counts // 2, counts - counts // 2])
        together = bet(hourly, np.stack([theta, theta]), np.full(2, 0.05), halves, np.array(1.0))

        assert together == pytest.approx(alone, rel=0.02, abs=0.5)
    assert hourly.q == pytest.approx(one.q, abs=1e-3)


def test_features_of_several_hours_are_judged_as_each_alone() -> None:
    kinds = [seasons.days, seasons.weeks, seasons.none]
    laws = [seasons.law(season, 4, 150, seed) for seed, season in enumerate(kinds)]
    alone, together = [Watch(law, 0.02) for law in laws], [Watch(law, 0.02) for law in laws]
    rng = np.random.default_rng(3)
    for number in range(8):
        hours = (2 * number, 2 * number + 1)
        cells = [{h: rng.multinomial(90, law.at(h).theta) for h in hours} for law in laws]
        given = [c if law.strata else sum(c.values()) for c, law in zip(cells, laws, strict=True)]
        judge(together, given, float(number), THOUSAND, 3)  # type: ignore[arg-type]
        for watch, found in zip(alone, given, strict=True):
            watch.judge(found, float(number), THOUSAND, 3)  # type: ignore[arg-type]
    assert [msgspec.msgpack.encode(w.save()) for w in alone] == [msgspec.msgpack.encode(w.save()) for w in together]


def test_effect_sizes_and_the_explanation_are_against_the_same_hours() -> None:
    """A morning: against all hours it is far off, against other mornings it is not."""
    law, rng = seasons.law(seasons.days), np.random.default_rng(4)
    watch, whole = Watch(law, 0.02), Watch(law.whole(), 0.02)
    for hour in range(3, 10):
        rows = block(law, rng, hour, 400, seasons.days, 0.0)
        watch.judge(rows, HOUR_S * (hour + 1), THOUSAND, 10)
        whole.judge(rows[hour], HOUR_S * (hour + 1), THOUSAND, 10)
    here, there = watch.verdict(THOUSAND), whole.verdict(THOUSAND)
    assert here.tv < 0.03 and abs(here.psi) < 0.02 and there.tv > 0.2
    assert (here.season, there.season) == ("hour of the day", "")
    for hour in range(10, 16):
        watch.judge(block(law, rng, hour, 400, seasons.days, 0.7), HOUR_S * (hour + 1), THOUSAND, 10)
    found = explain("x", law, watch.past(THOUSAND))
    assert found.onset and found.onset.at == 10 * HOUR_S and found.direction == "higher"
    assert found.moved == pytest.approx(2 * stats.norm.cdf(0.35) - 1, abs=0.06)


def test_hours_without_a_reference_are_not_bet_on() -> None:
    time = seasons.times(5, 300)
    time = time[(time // HOUR_S) % 24 != 5]
    rng = np.random.default_rng(1)
    law = build({"x": seasons.values(rng, time, seasons.days)}, {"x": "numeric"}, time=time,
                block_s=HOUR_S).features["x"]  # fmt: skip
    watch = Watch(law, 0.02)
    far = law.count(np.full(300, 2.0))
    assert not watch.judge({5: far}, 1.0, TWENTY, 10)
    assert watch.judge({5: far, 6: law.count(rng.normal(seasons.days(np.array([6]))[0], size=300))}, 2.0, TWENTY, 10)
    assert watch.verdict(TWENTY).n == 300


PROFILE = seasons.reference(seasons.weeks, 6, 300)


def slot_counts(rng: np.random.Generator, profile: Profile, hour: int, rows: int) -> dict[str, NDArray[np.float64]]:
    time = np.full(rows, (MONDAY + hour) * HOUR_S)
    return {"x": seasons.values(rng, time, seasons.weeks), "y": rng.normal(size=rows)}


@pytest.mark.parametrize("block_rows", [100, 400])
@pytest.mark.parametrize("unit", ["row", "block"])
def test_two_nodes_and_a_restart_give_the_same_bits(block_rows: int, unit: str) -> None:
    settings = Monitors(slot_s=900, block_s=900, block_rows=block_rows, unit=unit)
    one, two = Monitor(PROFILE, settings, 2), Monitor(PROFILE, settings, 2)
    rng = np.random.default_rng(block_rows)
    for number in range(60):
        values = slot_counts(rng, PROFILE, number // 4, rows := int(rng.integers(0, 300)))
        slot, cut = MONDAY * 4 + number, int(rng.integers(0, rows + 1))
        one.fold(slot, count(PROFILE, values))
        merged = count(PROFILE, {name: column[cut:] for name, column in values.items()})
        merged.add(count(PROFILE, {name: column[:cut] for name, column in values.items()}))
        two.advance(slot)
        two.fold(slot, merged)
        if number in (7, 8, 30):
            restarted = Monitor(PROFILE, settings, 2)
            restarted.restore(two.encode())
            two = restarted
    assert one.encode() == two.encode() and one.drift() == two.drift()
    assert one.drift()["x"].blocks > 10


def test_hourly_blocks_of_a_season_may_call_somebody() -> None:
    monitor = Monitor(PROFILE, HOURLY, 2)
    assert monitor.drift()["_all"].severity == "ticket" and monitor.drift()["x"].season == "hour of the week"
    assert "at the same hours (x by hour of the week (UTC); y at all hours together)" in monitor.drift()["_all"].promise
    assert monitor.drift()["_joint"].note.startswith("features are compared by hour")
    whole = msgspec.structs.replace(PROFILE, features={name: law.whole() for name, law in PROFILE.features.items()})
    pooled = Monitor(whole, HOURLY, 2)
    assert pooled.drift()["_all"].severity == "info" and not pooled.drift()["_joint"].note
    daily = Monitor(PROFILE, Monitors(slot_s=3600, block_s=86400), 2)
    assert daily.drift()["x"].season == "" and "at the same hours" not in daily.promise()


@cache
def gaps() -> Profile:
    """At night a batch lacks `x` in a third of the rows."""
    rng, time = np.random.default_rng(9), seasons.times(6, 300)
    night = (time // HOUR_S) % 24 < 4
    x = np.where(rng.random(len(time)) < np.where(night, 0.35, 0.01), np.nan, rng.normal(size=len(time)))
    return build({"x": x, "y": rng.normal(size=len(time))}, {"x": "numeric"}, time=time, block_s=HOUR_S)


def test_what_is_told_of_quality_is_of_the_hours_of_the_newest_blocks() -> None:
    law = gaps().features["x"]
    subject, rows = QualityWatch(gaps().features, 10_000, 0.02), np.arange(13) * 20

    def told(*hours: int) -> CheckVerdict:
        for hour in hours:
            cells = {name: rows[: law.size] for name, law in gaps().features.items()}
            counts = Counts(int(rows.sum()), cells, hours={hour: cells})
            subject.judge(counts, 1.0, THOUSAND, 10)
        return subject.verdict(THOUSAND).checks["x"]["missing"]

    whole, night, day, both = told(), told(1, 2), told(12, 13), told(2)
    assert whole.reference == pytest.approx(law.counts[-1] / law.rows, rel=0.01)
    assert night.reference == pytest.approx(0.35, abs=0.02) and day.reference == pytest.approx(0.01, abs=0.005)
    assert night.bound > night.reference > whole.bound > day.bound > day.reference
    assert both.reference == pytest.approx((night.reference + day.reference) / 2, abs=0.02)
    saved = msgspec.msgpack.decode(msgspec.msgpack.encode(subject.save()), type=SavedQuality)
    restarted = QualityWatch(gaps().features, 10_000, 0.02)
    restarted.load(saved)
    assert restarted.verdict(THOUSAND) == subject.verdict(THOUSAND)


def test_quality_is_compared_with_the_same_hours() -> None:
    """What is usual at night is a fault at noon."""
    profile = gaps()

    def fed(profile: Profile, missing: Callable[[int], float]) -> bool:
        monitor, rng = Monitor(profile, HOURLY, 2), np.random.default_rng(2)
        for hour in range(100):
            x = np.where(rng.random(300) < missing(hour), np.nan, rng.normal(size=300))
            monitor.fold(MONDAY + hour, count(profile, {"x": x, "y": rng.normal(size=300)}))
        return monitor.checks().quality.checks["x"]["missing"].alarm

    usual = lambda hour: 0.35 if hour % 24 < 4 else 0.01  # noqa: E731
    one = msgspec.structs.replace(profile, features={name: forgotten(law) for name, law in profile.features.items()})
    assert not fed(profile, usual) and fed(one, usual)
    assert fed(profile, lambda hour: 0.35 if hour % 24 < 4 or hour > 90 else 0.01)


def test_state_and_counts_of_an_earlier_release_are_read() -> None:
    watch = Watch(PROFILE.features["x"], 0.02)
    watch.judge({3: watch.law.count(np.zeros(200))}, 1.0, TWENTY, 10)
    saved = msgspec.msgpack.decode(msgspec.msgpack.encode(watch.save()))
    old = msgspec.msgpack.decode(msgspec.msgpack.encode(saved[:-1]), type=SavedWatch)
    assert old.hours == []
    again = Watch(PROFILE.features["x"], 0.02)
    again.load(old)
    again.judge({4: watch.law.count(np.zeros(200))}, 2.0, TWENTY, 10)
    assert [list(hours) for hours in again.past(TWENTY).hours] == [[], [4]]
    assert again.seen().counts.sum() == 400 and again.verdict(TWENTY).n == 400
    assert Counts(3, {"x": np.array([1, 2])}).at(5, ["x"]) != Counts(3, {"x": np.array([1, 2])})
    assert len(CLIPS) == len(again.s)


def test_a_backtest_compares_with_the_same_hours() -> None:
    """Mornings, by blocks of the past: near the mornings of the reference, far from all hours."""
    rng, time = np.random.default_rng(6), (MONDAY + np.repeat(np.arange(3, 9), 400)) * HOUR_S
    rows = Part({"x": seasons.values(rng, time, seasons.weeks), "y": rng.normal(size=len(time))}, time=time)
    ruler = Ruler(HOUR_S, HOUR_S)

    def sizes(profile: Profile) -> list[float]:
        past = Past(profile, ruler, HOURLY)
        past.add(rows)
        return [f.sizes["x"].values["tv"] for f in Replay(profile, ruler, HOURLY, labels=False).blocks(past.blocks)]

    one = msgspec.structs.replace(PROFILE, features={name: forgotten(law) for name, law in PROFILE.features.items()})
    assert max(sizes(PROFILE)) < 0.1 < min(sizes(one))


def test_the_version_says_why_hours_are_compared_together() -> None:
    version = Version(manifest(), PROFILE)
    hourly, daily = HOURLY, Monitors(slot_s=3600, block_s=86400)
    cases = [Case(version, settings, Division(settings)) for settings in (hourly, daily)]
    assert [case.profile and case.profile.seasonal for case in cases] == [("x",), ()]
    said = "all hours are compared together, although the profile has references by hour: a block is at least a day"
    assert [said in case.notes for case in cases] == [False, True]


def test_the_status_counts_features_by_their_hours() -> None:
    drift = Monitor(PROFILE, HOURLY, 2).drift()
    told = {"state": "ok", "notes": [], "drift": msgspec.to_builtins(drift)}
    assert _state(told) == "ok\n1 by hour of the week"
