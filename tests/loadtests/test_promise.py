"""What the program that measures the promise measures with, and what it writes."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from loadtests.promise import plot, quarter, streams, table
from loadtests.promise.page import page
from loadtests.promise.streams import Outcome
from monitors.budget import run_blocks
from monitors.drift.watch import AllWatch, Watch
from monitors.reference import marginal

OURS = Outcome("Gaugeway", "drift of the whole", "minute", 90, 0.0, 1.0, 14.0, 1 / 5)
OTHER = Outcome("PSI", "above 0.2", "hour", 0.25, 2_160.0, 3_000.0, math.inf)


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
        expected = everything.verdict(threshold, ()).alarm, [watch.save().alarm.on for watch in alone]
        called, alarms = together.update(counts)
        assert (called, alarms.tolist()) == expected
        found.append(called)
    assert not any(found[:6]) and sum(found) > 2


def test_a_day_without_drift_calls_nobody_and_ks_calls_all_day() -> None:
    ours, *others = quarter.outcomes(days=1)
    assert (ours.name, ours.calls, ours.alarms) == ("Gaugeway", 0.0, 0.0) and ours.delay_min < 30
    calls = {(found.name, found.window): found.calls / streams.DAYS for found in others}
    assert calls["Kolmogorov-Smirnov", "minute"] > 0.5 * streams.BLOCKS
    assert calls["Kolmogorov-Smirnov", "hour"] > 10 and calls["PSI", "hour"] == 0


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
    assert table.limit(80_000, 20.0) == stats.poisson.ppf(0.999, 4_000)
    row = table.Row("normal", 1_000, 35, 400, (3, 0, 0), (760, 93, 16))
    assert row.kept and not table.Row("normal", 1_000, 35, 400, (761, 0, 0), (760, 93, 16)).kept


def test_every_table_is_on_the_page(tmp_path: Path) -> None:
    rows = [
        table.Row("normal", 1_000, 35, 400, (3, 1, 0), (760, 93, 16)),
        table.Row("clusters", 1_000, 0, 400, (0, 0, 0), (0, 0, 0)),
    ]
    text = page(
        when="2026-01-01", machine="a machine", minutes=3.2, outcomes=[OURS, OTHER], rows=rows,
        mutants=[("bets have seen the block", "small blocks", 900, 760)], delays=[(0.2, 12, 10.0, math.inf)],
        risks=[(0.15, 2_500, 1_900.0)], missing=["river (no network)"],
    )  # fmt: skip
    assert "| Gaugeway | drift of the whole | minute | 90 | 0 (promised: 0.20) | 1 | 14 |" in text
    assert "| PSI | above 0.2 | hour | 0.25 | 2,160 | 3,000 | not in 240 |" in text
    assert "| normal | 1,000 | 3 of 760 | 1 of 93 | 0 of 16 |" in text
    assert "| clusters | 1,000 | unfit | unfit | unfit |" in text
    assert "| 0.2 | 12 | 10 | never |" in text and "| 0.15 | 2,500 | 1,900 |" in text
    assert "Not run: river (no network)." in text
    plot.draw([OURS, OTHER], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000
