"""What the program that measures the promise measures with, and what it writes."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from loadtests.promise import interval, kept, plan, plot, quarter, streams, table
from loadtests.promise.delays import Rise, Shift
from loadtests.promise.nulls import limit
from loadtests.promise.page import page
from loadtests.promise.steps import Failed, Step, run
from loadtests.promise.streams import Outcome
from monitors.budget import run_blocks
from monitors.drift.watch import AllWatch, Watch
from monitors.reference import marginal

OURS = Outcome("Gaugeway", "drift of the whole", "minute", 129_600, (0,), (13.0, 14.0, 19.0), 1 / 5)
OTHER = Outcome("PSI", "above 0.2", "hour", 20, (1, 0, 0, 1), (math.inf, math.inf, 60.0))


def test_side_by_side_is_what_the_monitors_do_one_by_one() -> None:
    laws = [marginal(streams.reference(feature), "numeric") for feature in range(3)]
    together, alone = quarter.Watch(laws), [Watch(law, quarter.SETTINGS.tolerance) for law in laws]
    everything, rows = AllWatch(), [streams.day(feature, 0) for feature in range(3)]
    threshold = math.log(run_blocks(quarter.PAGERS, quarter.SETTINGS))
    found = []
    for number in range(40):
        shift = 0.4 * (number > 5)
        counts = np.stack([law.count(row[number] + shift) for law, row in zip(laws, rows, strict=True)])
        for watch, row in zip(alone, counts, strict=True):
            watch.judge(row, 60.0 * number, threshold, 1)
        everything.judge(alone, 60.0 * number, threshold, 1)
        expected = (
            everything.verdict(threshold, ()).log_e >= threshold,
            [watch.verdict(threshold).log_e >= threshold for watch in alone],
        )
        called, alarms = together.update(counts)
        assert (called, alarms.tolist()) == expected
        found.append(called)
    assert not any(found[:6]) and sum(found) > 2


def test_a_day_without_drift_calls_nobody_and_ks_calls_all_day() -> None:
    ours, any_feature, *others = quarter.outcomes(days=1)
    assert (ours.name, ours.called, any_feature.called) == ("Gaugeway", (0,), (0,)) and ours.windows == streams.BLOCKS
    assert ours.delay_min < 30 and any_feature.delay_min < 30
    called = {(found.name, found.window): sum(found.called) for found in others}
    assert called["Kolmogorov-Smirnov", "minute"] > 0.5 * streams.BLOCKS
    assert called["Kolmogorov-Smirnov", "hour"] > 10 and called["PSI", "hour"] == 0


def test_ks_is_scipys() -> None:
    reference = streams.reference(0)
    law, ordered = marginal(reference, "numeric"), np.sort(reference)
    rows = np.random.default_rng(3).normal(np.linspace(0.0, 0.15, 40)[:, None], 1.0, (40, 200))
    found = quarter.ks_test(law, np.zeros((40, law.size), int), quarter._ranks(ordered, rows))
    p = np.array([stats.ks_2samp(row, reference).pvalue for row in rows])
    sure = abs(p - quarter.KS_ALPHA) > 0.005  # exact there, asymptotic here
    assert (found == (p < quarter.KS_ALPHA))[sure].all() and 5 < found.sum() < 35


def test_psi_is_of_ten_bins() -> None:
    reference = streams.reference(0)
    law = marginal(reference, "numeric")
    rows = np.random.default_rng(3).normal(0.3, 1.0, (1, 5_000))
    edges = [-np.inf, *law.edges, np.inf]
    p, q = (np.histogram(values, edges)[0] / len(values) for values in (rows[0], reference))
    assert len(p) == 10
    binned = quarter._binned(quarter._count(law, rows))[0] / 5_000
    assert binned == pytest.approx(p)
    psi = float(((p - q) * np.log(p / q)).sum())
    assert psi < quarter.MAX_PSI and not quarter.psi_test(law, quarter._count(law, rows), rows)[0]
    far = rows + 0.5
    assert quarter.psi_test(law, quarter._count(law, far), far)[0]


def test_the_same_rows_come_again_and_a_shift_is_one() -> None:
    assert (streams.day(3, 7) == streams.day(3, 7)).all()
    for feature in range(len(streams.LAWS)):
        rows = streams.day(feature, 0)
        assert abs(rows.mean()) < 0.02 and abs(rows.std() - 1) < 0.05
    assert np.mean(list(streams.shifted(0))) == pytest.approx(streams.SIGMA, abs=0.02)


def test_a_count_of_alarms_has_a_limit_and_a_row_says_whether_it_is_kept() -> None:
    assert limit(80_000, 20.0) == stats.poisson.ppf(0.999, 4_000)
    row = table.Row("normal", 1_000, 35, 400, (3, 0, 0), (760, 93, 16))
    assert row.kept and not table.Row("normal", 1_000, 35, 400, (761, 0, 0), (760, 93, 16)).kept


def test_what_a_rival_says_is_heard_and_runs_are_one_outcome(capsys: pytest.CaptureFixture[str]) -> None:
    runs = [Outcome("KS", "5 %", "hour", 20, (n,), (60.0, math.inf)) for n in (3, 5)]
    print("a library says something first")
    streams.say(*runs, OURS)
    heard = streams.heard(capsys.readouterr().out)
    assert heard == [*runs, OURS]
    assert streams.merged(heard) == [Outcome("KS", "5 %", "hour", 20, (3, 5), (60.0, math.inf) * 2), OURS]


def test_calls_are_scaled_to_a_quarter() -> None:
    assert (OTHER.quarter, OTHER.looked_at, OTHER.calls) == (2_160, 80, 54.0)
    assert OTHER.delay_min == math.inf and OURS.delay_min == 14.0
    assert Outcome("x", "half", "hour", 20, (0,), ()).delay_min == math.inf


def test_the_interval_of_calls_is_the_wider_of_windows_and_runs() -> None:
    alone = Outcome("x", "x", "hour", 80, (2,), ())
    exact = stats.binomtest(2, 80).proportion_ci(0.95, "exact")
    assert interval.of_calls(alone) == pytest.approx((exact.low * 2_160, exact.high * 2_160))
    apart = Outcome("x", "x", "hour", 20, (0, 20, 0, 20), ())
    low, high = interval.of_calls(apart)
    assert (low, high) == (0.0, 2_160.0)
    assert interval.of_calls(Outcome("x", "x", "hour", 80, (0,), ()))[0] == 0.0
    assert interval.of_calls(Outcome("x", "x", "hour", 80, (80,), ()))[1] == 2_160.0


def test_an_interval_covers_the_calls_that_are_due() -> None:
    rng, covered = np.random.default_rng(1), 0
    for called in rng.binomial(40, 0.1, (400, 5)):
        low, high = interval.of_calls(Outcome("x", "x", "hour", 40, tuple(called.tolist()), ()))
        covered += low <= 0.1 * 2_160 <= high
    assert covered >= stats.binom.ppf(0.001, 400, 0.95)


def test_a_run_that_was_stopped_goes_on(tmp_path: Path) -> None:
    done: list[float] = []

    def step(number: float, broken: bool = False) -> Step:
        def act(given: float) -> list[float]:
            if broken:
                raise KeyboardInterrupt
            done.append(given)
            return [given, math.inf]

        return Step(f"step {number}", 1.0, list[float], act, (number,), (Path(streams.__file__),))

    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        run([step(1.0), step(2.0), step(3.0, broken=True)], tmp_path, said.append)
    course = run([step(1.0), step(2.0), step(3.0)], tmp_path, said.append)
    assert done == [1.0, 2.0, 3.0] and course.failures == {}
    assert course.results == {f"step {number}": [number, math.inf] for number in (1.0, 2.0, 3.0)}
    assert [line.partition(": ")[2].startswith("kept") for line in said] == [False, False, True, True, False]
    assert said[-1].endswith("about 0 s left")


def test_what_cannot_be_done_is_told_and_the_rest_is_done(tmp_path: Path) -> None:
    def fail() -> None:
        raise Failed("no network")

    steps = [
        Step("rival", 60.0, list[Outcome], fail, (), ()),
        Step("ours", 1.0, list[Outcome], lambda: [OURS], (), ()),
    ]
    course = run(steps, tmp_path, lambda line: None)
    assert (course.results, course.failures) == ({"ours": [OURS]}, {"rival": "no network"})
    assert run(steps, tmp_path, lambda line: None).results == {"ours": [OURS]}


def test_a_result_is_kept_under_all_that_it_depends_on() -> None:
    files = [Path(streams.__file__)]
    assert kept.digest("what", files) == kept.digest("what", files) != kept.digest("other", files)
    assert kept.digest("what", files) != kept.digest("what", [Path(table.__file__)])
    names = {file.name for file in kept.sources([Path(table.__file__)])}
    assert {"table.py", "nulls.py", "mutants.py", "e_detector.py", "reference.py", "errors.py"} <= names
    assert not names & {"page.py", "plan.py", "river.py", "numpy"}


def test_every_step_has_a_name_and_a_key_of_its_own() -> None:
    for size in (plan.FULL, plan.QUICK):
        steps = plan.steps(size)
        assert len({step.name for step in steps}) == len({step.key for step in steps}) == len(steps)
    nulls = [step for step in plan.steps(plan.FULL) if step.act is table.row]
    assert plan.FULL.streams * len(nulls) >= 1_166


def test_every_table_is_on_the_page(tmp_path: Path) -> None:
    rows = [
        table.Row("normal", 1_000, 35, 400, (3, 1, 0), (760, 93, 16)),
        table.Row("clusters", 1_000, 0, 400, (0, 0, 0), (0, 0, 0)),
    ]
    found = plan.Findings(
        192.0, rows, [table.Caught("bets have seen the block", "small blocks", 900, 760)], [OURS, OTHER],
        [Shift(0.2, 12, 10.0, math.inf)], [Rise(0.15, 2_500, 1_900.0)], {"river, run 1 of 4": "no network"},
    )  # fmt: skip
    assert not [*found.broken()]
    text = page(found, "a machine", "2026-01-01")
    assert "2026-01-01, on a machine, in 3 minutes" in text
    assert "| Gaugeway | drift of the whole | minute | all 129,600 | 0 (0.00%) | 0 (promised: 0.20) | 14 |" in text
    assert "| PSI | above 0.2 | hour | 80 in 4 runs | 2 (2.50%) | about 54 (0 to 189) | not in 240 |" in text
    assert "| normal | 1,000 | 35 | 3 of 760 | 1 of 93 | 0 of 16 |" in text
    assert "| clusters | 1,000 | 0 | unfit | unfit | unfit |" in text
    assert "| 0.2 | 12 | 10 | never |" in text and "| 0.15 | 2,500 | 1,900 |" in text
    assert "Not run: river, run 1 of 4 (no network)." in text
    plot.draw([OURS, OTHER], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_what_is_broken_is_told() -> None:
    found = plan.Findings(
        1.0, [table.Row("normal", 1_000, 35, 400, (761, 0, 0), (760, 93, 16))],
        [table.Caught("bets have seen the block", "small blocks", 760, 760)],
        [Outcome("Gaugeway", "drift", "minute", 129_600, (9,), (14.0,), 1 / 5)],
        [Shift(0.2, 12, 13.0, math.inf)], [Rise(0.15, 2_500, 2_600.0)], {},
    )  # fmt: skip
    said = [sentence.partition(":")[0] for sentence in found.broken()]
    assert said == [
        "the promise is broken", "a mutant is not caught", "the promise is broken", "a shift is found too late",
        "a risk is found too late",
    ]  # fmt: skip
