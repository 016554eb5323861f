from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pytest

from monitors.profile import decode
from monitors.reference import Part, build, of_parts
from monitors.sampling import correlation_s, dispersion
from monitors.strata import HOURS, STRATA, _local, chosen, hours_of_week, within_hours
from serving.config import Monitors
from serving.errors import PublishRefused
from tests.monitors import seasons
from tests.monitors.seasons import HOUR_S

HOURLY = Monitors(slot_s=60, block_s=3600)


def counts(share: np.ndarray, rows: int, seed: int = 1) -> np.ndarray:
    """Of blocks with such shares of the first of two cells."""
    first = np.random.default_rng(seed).binomial(rows, share)
    return np.stack([first, rows - first], 1)


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"])
def test_the_hour_of_the_week_is_that_of_the_clock(zone: str) -> None:
    first = datetime(2026, 3, 1, tzinfo=UTC)
    hours = int(first.timestamp() // 3600) + np.arange(24 * 300)
    local = [(first + timedelta(hours=n)).astimezone(ZoneInfo(zone)) for n in range(len(hours))]
    assert hours_of_week(hours, zone).tolist() == [at.weekday() * 24 + at.hour for at in local]


def test_the_clock_is_asked_once_for_all_features() -> None:
    time = np.repeat(seasons.MONDAY + np.arange(4 * HOURS), 5) * HOUR_S
    asked = _local.cache_info().misses
    build({name: time for name in "abc"}, dict.fromkeys("abc", "numeric"), time=time, block_s=HOUR_S, zone="Asia/Tokyo")
    assert _local.cache_info().misses == asked + 1


def test_strata_are_numbered_from_zero_and_nest() -> None:
    finer = STRATA["hour of the week"]
    for by, strata in STRATA.items():
        assert np.unique(strata).tolist() == list(range(int(strata.max()) + 1)), by
        assert len({(a, b) for a, b in zip(finer.tolist(), strata.tolist(), strict=True)}) == finer.max() + 1
        finer = strata


@pytest.mark.parametrize(
    ("share", "weeks", "by"),
    [
        (lambda hour: 0.4 + 0.2 * np.sin(2 * np.pi * hour / 24), 6, "hour of the day"),
        (lambda hour: 0.4 + 0.2 * (hour % 24 < 12) * (hour < 120), 6, "hour of workdays and weekends"),
        (lambda hour: 0.4 + 0.2 * np.sin(2 * np.pi * hour / 168), 6, "hour of the week"),
        (lambda hour: 0.4 + 0.3 * (hour == 50), 6, "hour of the week"),  # one hour in 168
        (lambda hour: 0.4 + 0.2 * (hour % 24 < 12) * (hour < 120), 3, "hour of workdays and weekends"),
        (lambda hour: 0.4 + 0.2 * np.sin(2 * np.pi * hour / 168), 3, None),
        (lambda hour: np.full(len(hour), 0.4), 6, None),
    ],
)
def test_the_coarsest_strata_that_leave_no_season(share: seasons.Season, weeks: int, by: str | None) -> None:
    hours = seasons.MONDAY + np.arange(weeks * HOURS)
    found, why = chosen(counts(share(hours_of_week(hours)), 600), hours)
    assert (found.by if found else None) == by
    assert why == ("the reference holds fewer than 4 of most hours" if weeks == 3 else "")


def test_ten_days_do_not_tell_workdays_from_weekends() -> None:
    time = np.repeat(seasons.MONDAY + np.arange(240), 200) * HOUR_S
    y = np.random.default_rng(1).normal(size=len(time))
    seen = "no season is seen by hour of the day; no finer, since the reference holds fewer than 4 of most hours"
    notes = build({"y": y}, {"y": "numeric"}, time=time, block_s=HOUR_S).notes
    assert f"y: compared with all hours together, since {seen}" in notes


def test_too_few_rows_for_every_hour() -> None:
    hours = seasons.MONDAY + np.arange(4 * HOURS)
    share = 0.4 + 0.2 * np.sin(2 * np.pi * hours / 24)
    assert chosen(counts(share, 5), hours) == (None, "most hours have too few reference rows")
    found, why = chosen(counts(share, 100), hours)
    assert found is not None and (found.by, why) == ("hour of the day", "most hours have too few reference rows")


def test_an_hour_with_too_few_rows_is_not_judged() -> None:
    """Night has a fiftieth of the rows, and an hour on Sundays none."""
    hours = seasons.MONDAY + np.arange(6 * HOURS)
    week = hours_of_week(hours)
    there = week != 160
    rows = np.where(week % 24 < 3, 20, 1000)[there]
    found, _ = chosen(counts((0.4 + 0.2 * np.sin(2 * np.pi * week / 168))[there], rows), hours[there])
    assert found is not None and found.by == "hour of the week"
    judged = np.flatnonzero(found.judged)
    assert set(judged) == set(np.flatnonzero((np.arange(HOURS) % 24 >= 3) & (np.arange(HOURS) != 160)))


def test_independent_rows_have_no_season() -> None:
    hours = seasons.MONDAY + np.arange(4 * HOURS)
    rng = np.random.default_rng(3)
    share = rng.dirichlet(np.ones(10))
    assert not any(chosen(rng.multinomial(300, share, len(hours)), hours)[0] for _ in range(60))


def test_what_is_left_after_the_season_is_measured() -> None:
    """Clusters of five equal rows in a strong season, four weeks: design effect 5, and no correlation time."""
    hours = seasons.MONDAY + np.arange(4 * HOURS)
    share = 0.4 + 0.2 * np.sin(2 * np.pi * hours_of_week(hours) / 24)
    found = 5 * counts(share, 200)
    fit, _ = chosen(found, hours)
    assert fit is not None
    assert dispersion(found) > 50 and dispersion(found, fit.expected) == pytest.approx(5, rel=0.15)
    season_s = correlation_s(found, hours, HOUR_S)
    assert season_s is not None and season_s > 3 * HOUR_S
    assert correlation_s(found, hours, HOUR_S, fit.expected) == 0.0


def test_correlation_beyond_the_season_is_still_seen() -> None:
    hours = seasons.MONDAY + np.arange(6 * HOURS)
    rng, weather = np.random.default_rng(4), np.zeros(len(hours))
    for n in range(1, len(hours)):
        weather[n] = 0.8 * weather[n - 1] + rng.normal(0, 0.02)
    found = counts(0.4 + 0.2 * np.sin(2 * np.pi * hours / 24) + weather, 2_000)
    fit, _ = chosen(found, hours)
    left = correlation_s(found, hours, HOUR_S, fit.expected) if fit else None
    assert left is not None and left == pytest.approx(-HOUR_S / np.log(0.8), rel=0.4)


def test_local_seasons_follow_local_clocks() -> None:
    """An office opens at eight, before and after the end of summer time."""
    hours = int(datetime(2026, 9, 28, tzinfo=UTC).timestamp() // 3600) + np.arange(8 * HOURS)
    share = 0.3 + 0.4 * (hours_of_week(hours, "Europe/Berlin") % 24 >= 8)
    found = counts(share, 1_000)
    (local, _), (utc, _) = chosen(found, hours, "Europe/Berlin"), chosen(found, hours)
    assert local is not None and local.by == "hour of the day"
    assert dispersion(found, local.expected) < 1.2
    assert utc is None or dispersion(found, utc.expected) > 3


def test_the_profile_has_strata_where_there_is_a_season() -> None:
    profile = seasons.reference(seasons.weeks)
    law = profile.features["x"]
    assert law.strata and law.strata.by == "hour of the week" and not profile.features["y"].strata
    assert np.array(law.strata.counts).shape == (HOURS, law.size)
    assert np.array(law.strata.counts).sum(0).tolist() == list(law.counts)
    assert "x: compared by hour of the week (UTC)" in profile.notes
    assert "y: compared with all hours together, since no season is seen" in profile.notes
    assert profile.correlated(0.0) == {}
    assert law.whole().memory_s > HOUR_S and law.whole().design_effect > 2 * law.design_effect
    again = decode(profile.encode())
    assert again == profile and again.digest == profile.digest
    whole = msgspec.structs.replace(profile, features={name: law.whole() for name, law in profile.features.items()})
    assert whole.digest != profile.digest and b"strata" not in whole.encode()


def test_bounds_of_all_hours_hold_together() -> None:
    """In 0.99 of references no hour's law is further from the truth than its error says."""
    wrong = 0
    truth = np.array([0.4 + 0.2 * np.sin(2 * np.pi * h / 24) for h in range(HOURS)])
    hours = seasons.MONDAY + np.arange(4 * HOURS)
    for seed in range(50):
        fit, _ = chosen(counts(truth[hours_of_week(hours)], 100, seed), hours)
        assert fit is not None and fit.by == "hour of the day"
        wrong += bool((np.abs(fit.shares[:, 0] - truth) > 0.1)[fit.judged].any())
    assert wrong <= 3


def test_three_weeks_fall_back_with_a_sentence() -> None:
    profile = seasons.reference(seasons.days, length=3, rows=300)
    law = profile.features["x"]
    assert law.strata and law.strata.by == "hour of the day"
    assert any("no finer, since the reference holds fewer than 4 of most hours" in note for note in profile.notes)


def test_three_days_have_no_hours() -> None:
    time = np.repeat(np.arange(3 * 24), 500) * HOUR_S
    x = seasons.values(np.random.default_rng(1), time, seasons.days)
    profile = build({"x": x}, {"x": "numeric"}, time=time, block_s=HOUR_S)
    assert not profile.features["x"].strata
    said = "x: compared with all hours together, since the reference holds fewer than 4 of most hours"
    assert said in profile.notes


def test_blocks_of_days_and_of_odd_lengths_have_none() -> None:
    time = seasons.times(4, 20)
    x = seasons.values(np.random.default_rng(1), time, seasons.days)
    daily, odd = (build({"x": x}, {"x": "numeric"}, time=time, block_s=s) for s in (86400.0, 7200.0))
    assert not daily.features["x"].strata and not odd.features["x"].strata
    assert not any("hours" in note for note in daily.notes)
    assert "blocks of 7200 s are neither parts of an hour nor days: all hours are compared together" in odd.notes


@pytest.mark.parametrize("block_s", [900.0, 3600.0])
def test_parts_and_the_whole_have_the_same_strata(block_s: float) -> None:
    rng, time = np.random.default_rng(5), seasons.times(4, 100)
    part = Part({"x": seasons.values(rng, time, seasons.days)}, time=time + rng.uniform(0, 3600, len(time)))
    cuts = [part.of(rows) for rows in np.array_split(np.arange(part.rows), 7)]
    whole, parts = (of_parts(part, np.arange(part.rows), given, {"x": "numeric"}, block_s=block_s).encode()
                    for given in ([part], cuts))  # fmt: skip
    assert whole == parts and b'"by":"hour of the day"' in whole


def test_when_hours_are_not_compared_apart() -> None:
    profile = seasons.reference(seasons.days, length=4, rows=100)
    assert profile.judged(HOURLY) is profile and profile.why_whole(HOURLY) == ""
    for settings, why in (
        (Monitors(slot_s=60, block_s=86400), "a block is at least a day"),
        (Monitors(slot_s=7000, block_s=14000), "slots of 7000 s (monitors.slot_s) reach over the ends of hours"),
        (Monitors(slot_s=60, block_s=3600, unit="cluster:x"), "with monitors.unit = 'cluster:x' the row"),
    ):
        assert profile.why_whole(settings).startswith(why)
        law, strata = profile.judged(settings).features["x"], profile.features["x"].strata
        assert strata and not law.strata and law.design_effect == strata.whole.design_effect
        assert profile.judged(settings).judged(settings) == profile.judged(settings)


def test_milliseconds_are_no_time_of_a_calendar() -> None:
    time = seasons.times(1, 20) * 1e6
    with pytest.raises(PublishRefused, match="lies in no year of Europe/Berlin: is it in seconds"):
        build({"x": np.arange(len(time))}, {}, time=time, block_s=HOUR_S, zone="Europe/Berlin")


def test_a_mixture_of_hours_is_worth_what_its_strata_are() -> None:
    law = seasons.law(seasons.weeks)
    strata = law.strata
    assert strata
    night, day = (law.mixed({hour: 200}) for hour in (6, 18))
    rows = strata.table.sum(1)
    assert night.effective_rows == pytest.approx(rows[6] / law.design_effect, rel=0.01)
    both = law.mixed({6: 100, 18: 300})
    assert np.array(both.counts) == pytest.approx(np.array(night.counts) / 4 + 3 * np.array(day.counts) / 4, abs=2)
    assert both.effective_rows > night.effective_rows
    laws = law.expected([{6: 100, 18: 300}, {6: 9}, {}])
    assert laws[0] == pytest.approx(strata.theta[6] / 4 + 3 * strata.theta[18] / 4)
    assert (laws[1:] == [strata.theta[6], law.theta]).all() and law.mixed({}) is law
    assert law.at(6).counts == tuple(strata.table[6].tolist()) and law.at(6).alpha == law.alpha / HOURS


def test_slots_lie_within_hours() -> None:
    assert [s for s in (60.0, 90.0, 100.0, 3600.0, 7000.0) if within_hours(s)] == [60.0, 90.0, 100.0, 3600.0]
