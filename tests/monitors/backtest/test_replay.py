"""What a backtest says is what the live monitor says of the same rows."""

import numpy as np
import pytest
from numpy.typing import NDArray

from monitors import budget
from monitors.backtest.past import Past, Ruler
from monitors.backtest.replay import Replay
from monitors.bottom_k import BottomK, hashes
from monitors.monitor import Monitor
from monitors.reference import PREDICTION, Part, Profile, build
from monitors.slot import LOSS_UNIT, Counts, LabelCounts, count
from serving.config import Monitors

SETTINGS = Monitors(slot_s=60.0, block_s=3600.0, block_rows=100)


def profile() -> Profile:
    rng = np.random.default_rng(1)
    p = rng.random(8000)
    values = {"x": rng.normal(size=8000)}
    labels = (rng.random(8000) < p) * 1.0
    return build(
        values, {}, prediction=p, labels=labels, task="classification", time=np.arange(8000) * 30.0, block_s=3600.0
    )


def stream(rows_of_hours: list[int]) -> Part:
    rng = np.random.default_rng(2)
    hour = np.repeat(np.arange(len(rows_of_hours)), rows_of_hours)
    n, late = len(hour), hour > len(rows_of_hours) / 2
    p = rng.random(n)
    labels = np.where(rng.random(n) < np.where(late, 1 - p, p), 1.0, 0.0)
    time = (hour + np.sort(rng.random(n) * 0.999)) * 3600.0
    return Part({"x": rng.normal(late * 1.0)}, p, labels, time)


def sample(known: Profile, part: Part, own: NDArray[np.bool_]) -> Counts:
    """The rows that the classifier sees, drawn by their places."""
    assert known.sample is not None
    drawn = hashes(np.zeros(part.rows), np.arange(part.rows))[own]
    cells = [known.features[name].cells(part.columns[name][own]) for name in known.sample.features]
    return Counts(0, {}, BottomK.of(drawn, np.stack(cells, 1).astype(np.uint8)))


def live(known: Profile, part: Part) -> Monitor:
    """Slot by slot, as the aggregator does."""
    monitor = Monitor(known, SETTINGS, budget.pagers(known, SETTINGS, known.risk is not None))
    assert part.time is not None and part.prediction is not None and part.labels is not None
    slots = (part.time // 60.0).astype(int)
    for number in np.unique(slots).tolist():
        own = slots == number
        counts = count(known, {name: column[own] for name, column in part.columns.items()})
        counts.add(sample(known, part, own))
        monitor.fold(number, counts)
        loss = (part.prediction[own] - part.labels[own]) ** 2
        labels = LabelCounts(int(own.sum()), int(own.sum()), int(np.rint(loss / LOSS_UNIT).sum()))
        for p, y in zip(part.prediction[own].tolist(), part.labels[own].tolist(), strict=True):
            labels.follow([bin.low for bin in known.risk.calibration] if known.risk else [], p, None, y)
        monitor.fold_labels(number, labels)
    monitor.advance(int(slots.max()) // 60 * 60 + 60)
    monitor.advance_labels(int(slots.max()) // 60 * 60 + 60)
    return monitor


@pytest.mark.parametrize("rows", [[300] * 24, [300, 20, 0, 70, 300, 10] * 4, [40] * 30])
def test_the_same_bits_as_live(rows: list[int]) -> None:
    """Also where small blocks are joined to the next, and hours have no rows."""
    known, part = profile(), stream(rows)
    past, replay = Past(known, Ruler(3600.0, 60.0), SETTINGS), Replay(known, Ruler(3600.0, 60.0), SETTINGS)
    past.add(part)
    folded = list(replay.blocks(past.blocks))
    expected = live(known, part)
    assert replay.monitor.drift() == expected.drift()
    assert replay.monitor.risk() == expected.risk()
    assert replay.monitor.checks().calibration == expected.checks().calibration
    assert replay.monitor.checks().quality == expected.checks().quality
    assert replay.monitor.drift()["x"].alarm and replay.monitor.drift()["x"].blocks > 5
    assert sum(one.sums.counts.rows for one in folded) == part.rows
    assert [one.verdicts is not None for one in folded[:-1]] == [True] * (len(folded) - 1)
    assert all(one.sums.counts.cells[PREDICTION].sum() >= 100 for one in folded[:-1])
