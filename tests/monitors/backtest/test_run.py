import json

import numpy as np
import pytest

from monitors.backtest.document import File, shown
from monitors.backtest.past import Past, Ruler
from monitors.backtest.run import run
from monitors.drift import EFFECTS
from monitors.loss import upper_bound_of
from monitors.reference import Part, build
from serving.config import Monitors
from serving.errors import BadRequest
from tests.monitors.backtest.history import DAY_S, DAYS, EVIL, ROWS, SETTINGS, document, profile, rows

FILE = File("rows.parquet", 0, "0" * 64)


def days(subject: str) -> list[int]:
    """Number of the day at whose end each alarm of the subject was raised."""
    return [
        int(str(a.time)[8:10]) - 2 + 31 * (int(str(a.time)[5:7]) - 1) for a in document().alarms if a.subject == subject
    ]


def test_what_changed_is_found_when_it_changed_and_explained() -> None:
    assert [day for day in days(EVIL) if day < 30] == [] and days(EVIL)[0] in range(30, 34)
    assert len(days("_risk")) == 1 and days("_risk")[0] in range(40, 50)
    assert days("carrier") == []
    by_subject = {alarm.subject: alarm for alarm in document().alarms}
    drift, harm = by_subject[EVIL], by_subject["_risk"]
    assert (drift.kind, drift.severity, harm.kind, harm.severity) == ("feature", "info", "risk", "page")
    assert "is higher than in the reference since about Sat 31 Jan 1970" in drift.explanation
    assert "The mean Brier loss is 0." in harm.explanation and EVIL in harm.explanation
    assert harm.until is None or shown(harm.until) > shown(harm.time)


def test_the_blocks_hold_every_row_and_what_was_said() -> None:
    blocks = document().blocks
    assert [block.rows for block in blocks] == [ROWS] * DAYS
    assert [(b.start, b.end) for b in blocks[:2]] == [
        ("1970-01-01T00:00:00Z", "1970-01-02T00:00:00Z"), ("1970-01-02T00:00:00Z", "1970-01-03T00:00:00Z")]  # fmt: skip
    bad = blocks[45]
    assert bad.risk is not None and bad.risk.mean is not None and blocks[5].risk is not None
    assert bad.risk.lower < bad.risk.mean < bad.risk.upper and bad.risk.lower > blocks[5].risk.upper
    assert bad.risk.n == ROWS - 6 and bad.risk.coverage == pytest.approx(0.98)
    assert bad.features[EVIL].effects["ks"] == pytest.approx(0.68, abs=0.1)  # two standard deviations
    assert bad.quality[EVIL]["above"] == pytest.approx(0.06, abs=0.06) and bad.quality[EVIL]["missing"] == 0


def test_the_interval_of_a_blocks_risk_is_empirical_bernsteins() -> None:
    part, risk = rows(DAYS, 2, warm_from=30, wrong=range(40, 50)), document().blocks[7].risk
    assert part.prediction is not None and part.labels is not None and risk is not None
    loss = ((part.prediction - part.labels) ** 2)[7 * ROWS : 8 * ROWS]
    loss = loss[np.isfinite(loss)]
    assert risk.mean == pytest.approx(loss.mean(), abs=1e-8)
    n, mean, variance = len(loss), float(loss.mean()), float(loss.var(ddof=1))
    assert risk.upper == pytest.approx(upper_bound_of(n, mean, variance, 0.025), abs=1e-6)
    assert risk.lower == pytest.approx(1 - upper_bound_of(n, 1 - mean, variance, 0.025), abs=1e-6)


def test_the_interval_of_a_blocks_risk_misses_as_rarely_as_it_says() -> None:
    """Of 50 blocks, each missed with probability 0.05 at most, more than 8 in one of a thousand runs (binomial)."""
    mean = 0.15  # E p (1 - p) of beta(1, 3)
    good = [block.risk for i, block in enumerate(document().blocks) if i not in range(40, 50)]
    assert sum(not risk.lower <= mean <= risk.upper for risk in good if risk) <= 8


@pytest.mark.parametrize("known", [0, 1])
def test_the_newest_block_may_have_no_labels_yet(known: int) -> None:
    ruler, part = Ruler(DAY_S, 60.0), rows(3, 4)
    assert part.labels is not None
    part.labels[2 * ROWS + known :] = np.nan
    part.labels[2 * ROWS : 2 * ROWS + known] = 1.0
    past = Past(profile(), ruler, SETTINGS)
    past.add(part)
    file = File("rows.parquet", past.rows, "0" * 64)
    last = run(profile(), past, ruler, SETTINGS, reference=file, data=file, gaugeway="0").blocks[-1]
    assert last.judged and last.risk is not None and last.risk.n == known
    assert (last.risk.lower, last.risk.upper) == (0.0, 1.0) and (last.risk.mean is None) == (not known)


def test_with_clusters_what_is_shown_is_of_the_counted_rows() -> None:
    """A user with two thirds of the rows is one of 101 users."""
    rng = np.random.default_rng(6)
    known = build({"x": rng.normal(size=5000)}, {"x": "numeric"})
    user = np.r_[np.zeros(200), np.arange(1, 101)]
    settings, ruler = Monitors(block_s=DAY_S, unit="cluster:user"), Ruler(DAY_S, 60.0)
    past = Past(known, ruler, settings)
    past.add(Part({"x": np.where(user == 0, 9.0, rng.normal(size=300))}, time=np.zeros(300)), clusters=user)
    (block,) = run(known, past, ruler, settings, reference=FILE, data=FILE, gaugeway="0").blocks
    assert block.rows == 300
    assert (block.features["x"].effects["ks"] or 1.0) < 0.2  # with probability 0.999 or more (Massart 1990)
    assert block.quality["x"]["above"] == pytest.approx(1 / 101, abs=0.02)


def test_the_monitor_tests_itself_and_judges_features_together() -> None:
    found = document()
    assert (found.selftest.halves, found.selftest.shift, found.selftest.blocks) == ("passed", "passed", DAYS)
    assert all("_joint" in block.others for block in found.blocks)
    assert "_joint" not in {alarm.subject for alarm in found.alarms if alarm.severity != "info"}


def test_what_was_never_judged_has_no_evidence_and_a_note() -> None:
    """Ten blocks with labels say what is usual; one feature is not together with anything."""
    found = document(9)
    assert all("_coverage" not in block.others for block in found.blocks)
    assert "whether labels still come is not judged: 1 more blocks with labels say what is usual" in found.notes
    assert all("_coverage" in block.others for block in document().blocks[10:])


def test_the_json_is_flat_and_whole() -> None:
    tree = json.loads(document().encode())
    block = tree["blocks"][45]
    assert {"log_e", "threshold", "alarm", *EFFECTS} <= block["features"][EVIL].keys()
    assert {"log_e", "threshold", "alarm", *EFFECTS} <= block["prediction"].keys()
    assert {"mean", "lower", "upper", "log_e", "alarm", "n"} <= block["risk"].keys()
    assert block["quality"]["carrier"].keys() == {"missing", "unseen"}
    assert {"time", "kind", "severity", "subject", "explanation"} <= tree["alarms"][0].keys()
    assert tree["selftest"].keys() >= {"halves", "shift", "blocks"}
    assert tree["promise"].startswith("At most 1 false") and tree["settings"]["block_s"] == DAY_S


def test_a_past_without_a_whole_block_is_refused() -> None:
    ruler = Ruler(DAY_S, 60.0)
    past = Past(profile(), ruler, SETTINGS)
    part = rows(1, 3)
    past.add(
        Part(
            {name: column[:50] for name, column in part.values.items()},
            time=part.time[:50] if part.time is not None else None,
        )
    )
    with pytest.raises(BadRequest, match=r"rows.csv has 50 rows, too few for a block: 200 are needed \(--block-rows\)"):
        run(profile(), past, ruler, SETTINGS, reference=File("r", 1, ""), data=File("rows.csv", 50, ""), gaugeway="0")
