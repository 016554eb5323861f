"""What is watched beside drift and harm: data quality, calibration, the flow of labels, and the monitor itself."""

import msgspec

from monitors.budget import QUALITY, severity, slow
from monitors.calibration import (
    CalibrationVerdict,
    CalibrationWatch,
    Estimate,
    SavedCalibration,
    estimate,
)
from monitors.coverage import CoverageVerdict, CoverageWatch, SavedCoverage
from monitors.profile import PREDICTION, Profile
from monitors.quality import RECENT_BLOCKS, QualityVerdict, QualityWatch, SavedQuality
from monitors.selftest import SavedSelfTest, SelfTest, SelfTestWatch, chosen
from monitors.slot import HALF, Counts, LabelCounts
from serving.config import Monitors

CALIBRATION = "_calibration"  # the alarm that the probabilities are not believable


class Checks(msgspec.Struct, frozen=True):
    """The verdicts of one version. `estimate` is of risk while labels are missing."""

    quality: QualityVerdict
    calibration: CalibrationVerdict
    estimate: Estimate
    coverage: CoverageVerdict
    self_test: SelfTest


class SavedCheckup(msgspec.Struct, array_like=True):
    """As it is stored, exactly. `predictions` are counts by cell, of the newest judged blocks."""

    quality: SavedQuality
    calibration: SavedCalibration
    coverage: SavedCoverage
    self_test: SavedSelfTest
    predictions: list[list[int]] = []


class Checkup:
    """Of one version, from the blocks that its monitor judges."""

    def __init__(self, profile: Profile | None, settings: Monitors) -> None:
        self._profile, self._settings = profile, settings
        laws = profile.features if profile else {}
        split = max(1.0, profile.block_s / settings.block_s) if profile else 1.0
        self._risk, self._law = profile.risk if profile else None, laws.get(PREDICTION)
        self._tolerance, self._chosen = settings.tolerance, chosen(profile)
        self._quality = QualityWatch(
            laws, profile.rows if profile else 0, settings.tolerance, split,
            repeats=profile.repeats if profile else None, by_block=settings.unit == "block",
        )  # fmt: skip
        self._calibration = CalibrationWatch(self._risk, settings)
        self._coverage = CoverageWatch(settings.tolerance)
        self._self_test = SelfTestWatch(laws.get(self._chosen or ""), settings.tolerance)
        self._severity = severity(QUALITY, slow(profile, settings) if profile else ())
        self._predictions: list[list[int]] = []

    def judge(self, counts: Counts, at: float, threshold: float, quiet_blocks: int) -> None:
        """Take a block of rows that ended at `at`."""
        cells = counts.cells
        self._quality.judge(counts, at, threshold, quiet_blocks)
        self._self_test.judge(cells.get(self._chosen or ""), cells.get(HALF))
        if PREDICTION in cells:
            self._predictions = [*self._predictions, cells[PREDICTION].tolist()][-RECENT_BLOCKS:]

    def judge_labels(self, counts: LabelCounts, at: float, threshold: float, quiet_blocks: int) -> None:
        """Take a sealed block of labels that ended at `at`."""
        self._calibration.judge(counts, at, threshold, quiet_blocks)
        self._coverage.judge(counts, at, threshold, quiet_blocks)

    def reset(self, *, harm: bool) -> None:
        """No evidence, no alarm of rows, nor with `harm` of labels."""
        begun = Checkup(self._profile, self._settings)
        self._quality, self._self_test = begun._quality, begun._self_test
        if harm:
            self._calibration.reset()
            self._coverage.reset()

    def fade(self, nats: float) -> None:
        """The threshold of rows fell by so much, and the evidence with it."""
        self._quality.fade(nats)

    def fade_labels(self, nats: float) -> None:
        """As `fade`, of labels."""
        self._calibration.fade(nats)
        self._coverage.fade(nats)

    def verdict(self, threshold: float, label_threshold: float) -> Checks:
        calibration = self._calibration.verdict(label_threshold)
        newest = [sum(cell) for cell in zip(*self._predictions, strict=True)]
        quality = self._quality.verdict(threshold)
        return Checks(
            quality=msgspec.structs.replace(quality, severity=self._severity),
            calibration=calibration,
            estimate=estimate(self._risk, self._law, newest, calibration, self._tolerance),
            coverage=self._coverage.verdict(label_threshold),
            self_test=self._self_test.verdict(),
        )

    def save(self) -> SavedCheckup:
        return SavedCheckup(
            self._quality.save(), self._calibration.save(), self._coverage.save(), self._self_test.save(),
            self._predictions,
        )  # fmt: skip

    def load(self, saved: SavedCheckup) -> None:
        self.load_labels(saved)
        self._quality.load(saved.quality)
        self._self_test.load(saved.self_test)
        self._predictions = saved.predictions

    def load_labels(self, saved: SavedCheckup) -> None:
        """Of labels alone."""
        self._calibration.load(saved.calibration)
        self._coverage.load(saved.coverage)
