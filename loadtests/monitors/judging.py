"""Processor time of judging blocks, of telling what came of it, and of writing the judge's state."""

import time
from dataclasses import dataclass

import numpy as np

from monitors.bottom_k import hashes
from monitors.budget import ALL
from monitors.counting import Rows, count, draw
from monitors.drift.watch import DriftVerdict
from monitors.monitor import Monitor
from monitors.panel import Panel
from monitors.reference import PREDICTION, Profile, build
from monitors.selftest import chosen
from monitors.slot import Counts
from serving.config import Monitors
from serving.manifest import Feature

REFERENCE_ROWS, DAYS = 20_000, 30
BLOCK_ROWS = 2_000
WARM = 12  # blocks before the clock runs: windows are full then


@dataclass(frozen=True)
class Judged:
    """Microseconds of processor time a feature and block; `verdict` is that of `_all` after the last block."""

    judging: float
    telling: float  # the verdict with effect sizes and their intervals, and all else that is said of the version
    keeping: float  # the state, written once a slot
    verdict: DriftVerdict

    @property
    def us(self) -> float:
        """Judging and telling."""
        return self.judging + self.telling


def judge(features: int, blocks: int) -> Judged:
    """Of so many features, the prediction among them, and blocks of an hour."""
    profile, rng = _profile(features), np.random.default_rng(2)
    monitor = Monitor(profile, Monitors(slot_s=3600, block_s=3600), pagers=5)
    spent = []
    for block in range(WARM + blocks + 1):
        counts, marks = _counts(profile, rng), [time.process_time()]
        monitor.fold(block, counts)
        marks.append(time.process_time())
        verdict = _told(monitor)
        marks.append(time.process_time())
        monitor.encode()
        marks.append(time.process_time())
        spent.append(np.diff(marks))
    judging, telling, keeping = (np.median(spent[WARM + 1 :], axis=0) / features * 1e6).tolist()
    return Judged(judging, telling, keeping, verdict)


def _told(monitor: Monitor) -> DriftVerdict:
    """All that is said of a version when its verdicts are read, as in `Aggregator.verdicts`."""
    drift, *_ = monitor.drift(), monitor.risk(), monitor.checks(), monitor.promise(), monitor.which(), monitor.past()
    return drift[ALL]


def _profile(features: int) -> Profile:
    """With blocks of time, so that it has design effects."""
    x = np.random.default_rng(1).normal(size=(REFERENCE_ROWS, features))
    *columns, prediction = (column.astype(np.float32) for column in x.T)
    time = np.arange(REFERENCE_ROWS) * (DAYS * 86400.0 / REFERENCE_ROWS)
    return build({f"f{k}": column for k, column in enumerate(columns)}, {}, prediction=prediction, time=time)


def _counts(profile: Profile, rng: np.random.Generator) -> Counts:
    """A block of rows without drift, as a sidecar counts it."""
    names = [name for name in profile.features if name != PREDICTION]
    features = [Feature(name, "x", k) for k, name in enumerate(names)]
    panel = Panel(profile.features, [*features, Feature(PREDICTION, PREDICTION)], chosen(profile))
    x = rng.normal(size=(BLOCK_ROWS, len(names) + 1)).astype(np.float32)
    drawn = hashes(rng.random(BLOCK_ROWS), np.zeros(BLOCK_ROWS, np.int64))
    rows, block = Rows({"x": x[:, :-1], PREDICTION: x[:, -1]}, np.zeros(BLOCK_ROWS, np.int64), drawn), Counts()
    count(lambda _: block, panel, rows)
    if profile.sample is not None:
        draw(lambda _: block, panel, rows, profile.sample.features)
    return block
