"""What the monitors say of the flights while labels are missing: the numbers of docs/quality.md."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from monitors.calibration import CalibrationWatch, estimate
from monitors.reference import PREDICTION, build
from monitors.slot import LOSS_UNIT, LabelCounts
from serving.config import Monitors
from serving.demo.flights import load, source, utc
from serving.demo.training import DAY_S, TRAINED_UNTIL, fit, held_out_days
from serving.protocol import Array

THRESHOLD = float(np.log(180))


@pytest.mark.soak  # reads the flights and trains: half a minute
def test_the_estimate_is_off_and_the_alarm_of_calibration_says_so(tmp_path: Path) -> None:
    flights = load(source(), tmp_path / "flights.parquet")
    period = flights.times < utc(TRAINED_UNTIL["2"])
    held_out = period & held_out_days(flights)
    p = np.asarray(fit(flights, period & ~held_out, lambda: None).predict(flights.rows), np.float32)
    profile = build(
        {}, {}, prediction=p[held_out], labels=flights.labels[held_out], task="classification",
        time=flights.times[held_out],
    )  # fmt: skip
    assert profile.risk is not None
    watch, law = CalibrationWatch(profile.risk, Monitors()), profile.features[PREDICTION]
    lows = [bin.low for bin in profile.risk.calibration]
    alarms, estimates, losses = (dict[int, list[float]]() for _ in range(3))
    for day in np.unique(flights.times[~period] // DAY_S).tolist():
        rows = flights.times // DAY_S == day
        watch.judge(counts := _sealed(lows, p[rows], flights.labels[rows]), (day + 1) * DAY_S, THRESHOLD, 10)
        verdict = watch.verdict(THRESHOLD)
        found = estimate(profile.risk, law, law.count(p[rows]).tolist(), verdict, 0.02)
        assert found.mean is not None and found.believable == (not verdict.alarm)
        month = datetime.fromtimestamp(day * DAY_S, UTC).month
        for table, value in ((alarms, verdict.alarm), (estimates, found.mean), (losses, counts.mean)):
            table.setdefault(month, []).append(float(value))
    on = {month: int(sum(days)) for month, days in alarms.items()}
    assert (on[4] + on[5], on[6], on[7] + on[8], on[12]) == (10, 0, 10, 0)
    for month, expected, realised in ((4, 0.13, 0.20), (6, 0.17, 0.19), (7, 0.16, 0.20), (12, 0.16, 0.20)):
        assert np.mean(estimates[month]) == pytest.approx(expected, abs=0.006)
        assert np.mean(losses[month]) == pytest.approx(realised, abs=0.006)


def _sealed(lows: list[float], p: Array, labels: Array) -> LabelCounts:
    known = np.isfinite(labels)
    counts = LabelCounts(len(p), int(known.sum()), int(np.rint(((p - labels)[known] ** 2).sum() / LOSS_UNIT)))
    for prediction, label in zip(p[known].tolist(), labels[known].tolist(), strict=True):
        counts.follow(lows, prediction, None, label)
    return counts
