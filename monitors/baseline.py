"""The loss of the reference rows, added up over as many parts as they come in: what a version's risk is held to."""

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from monitors.loss import (
    Calibration,
    Risk,
    losses,
    mean_error,
    mean_error_of_blocks,
    upper_bound_of,
    upper_bound_of_means,
)
from monitors.sampling import MIN_BLOCKS
from serving.protocol import Array

CAP_QUANTILE = 0.99  # of the reference's absolute errors: a loss of 1
CALIBRATION_BINS = 10
TABLE_ALPHA = 0.32  # about one standard error: what explains and calls nobody may err for a bad table, to see more

Floats = NDArray[np.float64]


class Baseline:
    """A sample decides the cap and the bins of the calibration table; all rows are added up.

    >>> f, y = np.tile([0.0, 1.0], 5000), np.tile([0.0, 1.0, 1.0, 1.0], 2500)
    >>> baseline = Baseline("classification", f, y)
    >>> for part in (slice(0, 8000), slice(8000, None)):
    ...     _ = baseline.add(f[part], y[part], None)
    >>> risk, why = baseline.risk(alpha=0.01)
    >>> risk.mean, risk.n, why
    (0.25, 10000, '')
    """

    def __init__(self, task: str | None, predictions: Array | None, labels: Array | None) -> None:
        """Predictions and labels of the sampled rows, shape (n,); NaN where unknown."""
        self._why = _why_none(task, predictions, labels)
        self._task: Literal["classification", "regression"]
        self._task = "classification" if task == "classification" else "regression"
        self._cap, self._lows = 1.0, np.empty(0)
        self._n, self._sum, self._squares = 0, 0.0, 0.0  # losses: how many, sum, sum of squares about the mean
        self._lowest = math.inf
        self._blocks: dict[int, Floats] = {}  # of each block of time: losses, sum of them
        self._gaps: dict[int, Floats] = {}  # of each block and bin: rows, sum of label less prediction
        self._bins = np.zeros((3, 0))  # of the calibration table: rows, sums of predictions and labels
        if self._why:
            return
        f, y, _ = _known(predictions, labels)
        if len(f):
            self._lows = np.unique(np.quantile(f, np.arange(CALIBRATION_BINS) / CALIBRATION_BINS, method="lower"))
            self._lowest = float(self._lows[0])
            if self._task == "regression":
                self._cap = float(np.quantile(np.abs(f - y), CAP_QUANTILE)) or 1.0
            self._bins = np.zeros((3, len(self._lows)))

    def add(self, predictions: Array | None, labels: Array | None, block: NDArray[np.int64] | None) -> Floats | None:
        """Add rows, shape (n,); `block` is the block of time of each. Returns their losses, NaN where not known."""
        if self._why:
            return None
        f, y, known = _known(predictions, labels)
        if self._task == "classification" and not np.isin(y, (0.0, 1.0)).all():
            self._why = "risk is not judged: labels of a classification must be 0 or 1"
        if self._why or not len(f) or not len(self._lows):
            return None
        loss = losses(self._task, self._cap, f, y)
        self._pool(loss)
        self._lowest = min(self._lowest, float(f.min()))
        bin_, size = np.maximum(np.searchsorted(self._lows, f, side="right") - 1, 0), len(self._lows)
        if block is not None:
            self._add_blocks(loss, block[known])
            self._add_gaps(y - f, bin_, block[known])
        self._bins += np.stack([np.bincount(bin_, weights, size) for weights in (None, f, y)])
        found = np.full(len(known), np.nan)
        found[known] = loss
        return found

    def risk(self, alpha: float) -> tuple[Risk | None, str]:
        """The risk, or the sentence why there is none or why it cannot be judged."""
        if self._why:
            return None, self._why
        if self._n < 2:
            return None, f"risk is not judged: {self._n} reference rows have both a prediction and a label"
        mean = self._sum / self._n
        bound = upper_bound_of(self._n, mean, self._squares / (self._n - 1), alpha)
        clustered = len(self._blocks) >= MIN_BLOCKS
        if clustered:
            n, total = self._block_sums()
            bound = max(bound, upper_bound_of_means(np.asarray(total / n), alpha))
        risk = Risk(
            task=self._task,
            cap=self._cap,
            mean=mean,
            bound=bound,
            n=self._n,
            blocks=len(self._blocks) if clustered else 0,
            calibration=self._calibration(),
            label_error=self._label_errors()[-1],
            design_effect=self._design_effect() if clustered else 1.0,
        )
        return risk, "" if bound < 1 else "risk is not judged: the reference is too small to bound it below 1"

    def _pool(self, loss: Floats) -> None:
        """Mean and squares of two parts make those of both (Chan, Golub & LeVeque 1983)."""
        n, total, squares = len(loss), float(loss.sum()), float(np.square(loss - loss.mean()).sum())
        if self._n:
            apart = total / n - self._sum / self._n
            squares += self._squares + apart**2 * (n * self._n / (n + self._n))
        self._n, self._sum, self._squares = self._n + n, self._sum + total, squares

    def _add_blocks(self, loss: Floats, block: NDArray[np.int64]) -> None:
        number, rows = np.unique(block, return_inverse=True)
        sums = np.stack([np.bincount(rows), np.bincount(rows, loss)], 1)
        for key, added in zip(number.tolist(), sums, strict=True):
            self._blocks[key] = self._blocks.get(key, 0.0) + added

    def _block_sums(self) -> tuple[Floats, Floats]:
        """Losses of each block, and their sum, in the order of time; shape (blocks,)."""
        n, total = np.array([self._blocks[key] for key in sorted(self._blocks)]).T
        return n, total

    def _design_effect(self) -> float:
        """Of block means: the mean of n (mean - overall mean)^2 over the variance of a loss, at least 1."""
        n, total = self._block_sums()
        between = float((n * (total / n - self._sum / self._n) ** 2).sum()) / (len(n) - 1)
        variance = self._squares / (self._n - 1)
        return max(1.0, between / variance) if variance > 0 else 1.0

    def _add_gaps(self, gap: Floats, bin_: NDArray[np.intp], block: NDArray[np.int64]) -> None:
        number, rows = np.unique(block, return_inverse=True)
        size, place = len(self._lows), rows * len(self._lows) + bin_
        sums = np.stack([np.bincount(place, weights, len(number) * size) for weights in (None, gap)])
        for key, added in zip(number.tolist(), sums.reshape(2, -1, size).swapaxes(0, 1), strict=True):
            self._gaps[key] = np.add(self._gaps.get(key, 0.0), added)

    def _calibration(self) -> tuple[Calibration, ...]:
        lows, errors = [self._lowest, *self._lows[1:].tolist()], self._label_errors()[:-1]
        return tuple(
            Calibration(low, int(n), p / n, y / n, error)
            for low, (n, p, y), error in zip(lows, self._bins.T.tolist(), errors, strict=True)
        )

    def _label_errors(self) -> list[float]:
        """By how much mean labels may be from what the table says: of each bin, and of all rows."""
        n, p, y = self._bins
        if not self._gaps:
            return [mean_error(float(rows), TABLE_ALPHA) for rows in (*n, n.sum())]
        gaps = np.array([self._gaps[key] for key in sorted(self._gaps)])
        rows, total = gaps[:, 0], gaps[:, 1] - gaps[:, 0] * (y - p) / n
        pairs = [*zip(rows.T, total.T, strict=True), (rows.sum(1), total.sum(1))]
        return [mean_error_of_blocks(total[rows > 0] / rows[rows > 0], TABLE_ALPHA) for rows, total in pairs]


def _why_none(task: str | None, predictions: Array | None, labels: Array | None) -> str:
    if task not in ("classification", "regression"):
        return "risk is not judged: the version declares no task"
    if predictions is None or labels is None:
        return f"risk is not judged: the reference has no {'prediction' if predictions is None else 'labels'}"
    try:
        _known(predictions, labels)
    except (TypeError, ValueError):
        return "risk is not judged: the reference's labels are not numbers"
    return ""


def _known(predictions: Array | None, labels: Array | None) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Predictions and labels where both are known, and where that is."""
    f, y = np.asarray(predictions, np.float64), np.asarray(labels, np.float64)
    known = np.isfinite(f) & np.isfinite(y)
    return f[known], y[known], known
