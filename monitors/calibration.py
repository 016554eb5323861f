"""Calibration: evidence that a model's own probabilities are no longer believable, and what they say of its risk.

The reference's table has, for each bin of the prediction, by how much labels exceed predictions on average: that much
is added to a prediction p to make the calibrated probability c(p). Of a sealed block of labels, in a bin and in all
of them, y is the mean label and c the mean calibrated probability, which is known before the labels are. Null: given
the past, |E y - c| <= m, where m is what the table may be wrong by, plus the tolerance. For sizes of bets kappa

    e+ = 1 + kappa (y / (c + m) - 1),    e- = 1 + kappa ((1 - y) / (1 - c + m) - 1);    S <- max(S, 0) + log e

E[e] <= 1 whatever the dependence of the rows in a block, as y and 1 - y are not negative (Waudby-Smith & Ramdas 2024);
each exp(S) is an e-detector and so is their mean, in which the bins together weigh as much as all rows.
"""

from collections.abc import Sequence

import msgspec
import numpy as np

from monitors.alarm import Alarm, Severity, State
from monitors.drift.e_detector import Floats, accumulated, log_mean_exp
from monitors.loss import Calibration, Risk
from monitors.reference import Marginal
from monitors.slot import LOSS_UNIT, LabelCounts
from serving.config import Monitors

KAPPAS = np.geomspace(0.05, 0.9, 5)
WINDOW_BLOCKS = 10  # judged blocks behind what is shown


class CalibrationVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """Evidence in nats. Mean label and mean calibrated probability are of the newest judged blocks, n rows."""

    state: State = "unfit"
    log_e: float = 0.0  # when the newest block was judged; if it reached the threshold, it begins again at 0
    threshold: float
    alarm: bool = False
    since: float | None = None  # end of the block that raised the alarm, seconds since 1970 UTC
    blocks: int = 0  # judged so far
    expected: float | None = None  # 0..1
    realised: float | None = None
    n: int = 0
    severity: Severity = "info"
    note: str = ""  # why it is not judged


class SavedCalibration(msgspec.Struct, array_like=True):
    """Float64 and integers, exactly. `s` by bin and all, sign, size of bet."""

    s: list[list[list[float]]] = []
    alarm: Alarm = msgspec.field(default_factory=Alarm)
    log_e: float = 0.0
    blocks: int = 0
    window: list[tuple[int, float, float]] = []  # of the newest judged blocks: rows, sums of c and of labels


class CalibrationWatch:
    """Takes sealed blocks of labels, holds the alarm.

    >>> table = (Calibration(0.0, 5000, 0.2, 0.25, 0.01),)
    >>> risk = Risk(task="classification", mean=0.1, bound=0.11, n=5000, blocks=0, calibration=table, label_error=0.01)
    >>> watch, half = CalibrationWatch(risk, Monitors()), LabelCounts(100, 100, 0, [100], [50], [20 << 32])
    >>> for hour in range(20):
    ...     watch.judge(half, at=3600.0 * hour, threshold=7.0, quiet_blocks=10)
    >>> verdict = watch.verdict(7.0)
    >>> verdict.alarm, verdict.expected, verdict.realised
    (True, 0.25, 0.5)
    """

    def __init__(self, risk: Risk | None, settings: Monitors) -> None:
        self.note = _why_not(risk)
        self._min_coverage, table = settings.min_coverage, risk.calibration if risk and not self.note else ()
        self._offsets = np.array([bin.label - bin.prediction for bin in table])
        errors = [*(bin.error or 0.0 for bin in table), (risk.label_error or 0.0) if risk else 0.0]
        self._m = np.array(errors) + settings.tolerance
        self._s = np.zeros((len(errors), 2, len(KAPPAS)))
        self._state = SavedCalibration()

    def judge(self, counts: LabelCounts, at: float, threshold: float, quiet_blocks: int) -> None:
        """Judge a block that ended at `at`; one with too few labels leaves the evidence as it was."""
        if self.note or counts.coverage < self._min_coverage or len(counts.bin_rows) != len(self._offsets):
            return
        rows = np.array(counts.bin_rows, np.float64)
        labels = np.array(counts.bin_labels, np.float64).clip(0.0, rows)
        c = np.array([float(units) for units in counts.bin_predictions]) * LOSS_UNIT + rows * self._offsets
        rows, labels, c = (np.append(by_bin, by_bin.sum()) for by_bin in (rows, labels, c))
        if not rows[-1]:
            return
        some = rows > 0
        won = log_e(labels[some] / rows[some], (c[some] / rows[some]).clip(0.0, 1.0), self._m[some])
        self._s[some] = accumulated(self._s[some], won)
        state = self._state
        state.log_e = float(log_mean_exp(np.array([log_mean_exp(self._s[:-1], None), log_mean_exp(self._s[-1], None)])))
        state.blocks += 1
        state.window = [*state.window, (int(rows[-1]), float(c[-1]), float(labels[-1]))][-WINDOW_BLOCKS:]
        crossed = state.log_e >= threshold
        if crossed:
            self._s = np.zeros_like(self._s)
        state.alarm.update(crossed, at, quiet_blocks, state.log_e)

    def reset(self) -> None:
        """No evidence, no alarm."""
        self._state = msgspec.structs.replace(self._state, alarm=Alarm(), log_e=0.0)
        self._s = np.zeros_like(self._s)

    def fade(self, nats: float) -> None:
        """The threshold fell by so much, and the evidence with it."""
        self._s = self._s - nats

    def verdict(self, threshold: float) -> CalibrationVerdict:
        state = self._state
        n = sum(rows for rows, *_ in state.window)
        fit: State = "no_data" if not state.blocks else "alarm" if state.alarm.on else "ok"
        return CalibrationVerdict(
            state="unfit" if self.note else fit, log_e=state.log_e, threshold=threshold, alarm=state.alarm.on,
            since=state.alarm.since, blocks=state.blocks, n=n, note=self.note,
            expected=sum(c for _, c, _ in state.window) / n if n else None,
            realised=sum(labels for *_, labels in state.window) / n if n else None,
        )  # fmt: skip

    def save(self) -> SavedCalibration:
        return msgspec.structs.replace(self._state, s=self._s.tolist())

    def load(self, saved: SavedCalibration) -> None:
        """State of another table is left aside, and evidence that is no number."""
        if len(saved.s) == len(self._s):
            self._state, self._s = saved, np.nan_to_num(np.array(saved.s), posinf=0.0, neginf=0.0)
            self._state.log_e = float(np.nan_to_num(saved.log_e, posinf=0.0, neginf=0.0))


def log_e(y: Floats, c: Floats, m: Floats) -> Floats:
    """Log winnings of mean labels y where c was expected, shapes (n,), give or take m; shape (n, signs, kappas)."""
    part = np.stack([y / np.minimum(c + m, 1.0), (1 - y) / np.minimum(1 - c + m, 1.0)], -1)
    return np.asarray(np.log1p(KAPPAS * (part - 1)[..., None]))


class Estimate(msgspec.Struct, frozen=True):
    """The mean loss of the newest predictions, from their calibrated probabilities, while labels are missing."""

    mean: float | None  # 0..1; None where it cannot be said
    n: int  # predictions
    doubts: tuple[str, ...]  # why it is not to be believed; empty: nothing speaks against it

    @property
    def believable(self) -> bool:
        return self.mean is not None and not self.doubts


def estimate(risk: Risk | None, law: Marginal | None, cells: Sequence[int], calibration: CalibrationVerdict,
             tolerance: float) -> Estimate:  # fmt: skip
    """`cells` are counts of predictions in the cells of their reference `law`; missing ones have no loss.

    Of a bin with mean prediction p and mean label c the expected loss is (p - c)^2 + c (1 - c): Brier's score where
    predictions of a bin are alike.
    """
    if note := _why_not(risk):
        return Estimate(None, 0, (note,))
    if risk is None or law is None or not sum(cells[:-1]):
        return Estimate(None, 0, ("no prediction was counted yet",))
    n = np.array(cells[:-1])
    mean = float((n * _losses(risk.calibration, law)).sum() / n.sum())
    return Estimate(mean, int(n.sum()), tuple(_doubts(law, n, calibration, tolerance)))


def _losses(table: Sequence[Calibration], law: Marginal) -> Floats:
    """Expected loss in the cells below, bins, above of the prediction, by the bin that the middle of each lies in."""
    edges = np.array([law.low, *law.edges, law.high])
    middles = np.array([law.low, *((edges[:-1] + edges[1:]) / 2), law.high])
    p, c = np.array([(bin.prediction, bin.label) for bin in table]).T
    loss = (p - c) ** 2 + c * (1 - c)
    at = np.searchsorted([bin.low for bin in table], middles, side="right") - 1
    return np.asarray(loss[np.maximum(at, 0)])


def _doubts(law: Marginal, n: Floats, calibration: CalibrationVerdict, tolerance: float) -> list[str]:
    doubts = []
    if calibration.alarm:
        said = f"{calibration.expected:.2f} of them were expected to be 1, {calibration.realised:.2f} were"
        doubts.append(f"labels contradict the calibrated probabilities: {said}")
    elif not calibration.blocks:
        doubts.append("no block of labels has confirmed the calibrated probabilities yet")
    outside = float((n[0] + n[-1]) / n.sum())
    if outside > tolerance:
        doubts.append(f"{outside:.2f} of the predictions lie outside of the range that the reference has")
    return doubts


def _why_not(risk: Risk | None) -> str:
    if risk is None or not risk.calibration:
        return "calibration is not judged: the reference has no predictions with labels"
    if risk.task != "classification":
        return "calibration is not judged: a regression has no probabilities"
    if risk.label_error is None:
        return "calibration is not judged: its profile is of an earlier release; publish it again"
    return ""
