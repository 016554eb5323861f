"""The bounded loss by which a version is judged, and what it was on the reference.

Losses lie in [0, 1]: for classification Brier's (p - y)^2, for regression |y - f| over a cap, at most 1.
"""

import math
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import special

from serving.protocol import Array

CAP_QUANTILE = 0.99  # of the reference's absolute errors: a loss of 1
CALIBRATION_BINS = 10


class Calibration(msgspec.Struct, frozen=True):
    """Reference rows with predictions in [low, next low): how many, their mean prediction and mean label."""

    low: float
    n: int
    prediction: float
    label: float


class Risk(msgspec.Struct, frozen=True, kw_only=True):
    """The loss that is watched, and what it was on the reference rows that have a label."""

    task: Literal["classification", "regression"]
    cap: float = 1.0  # absolute error that counts as a loss of 1
    mean: float
    bound: float  # upper confidence bound of the risk, at least `mean`
    n: int
    blocks: int  # blocks of time behind `bound`; 0: rows were taken as independent
    calibration: tuple[Calibration, ...] = ()  # of the prediction, in increasing order


def losses(task: str, cap: float, predictions: Array, labels: Array) -> NDArray[np.float64]:
    """Loss of each row in [0, 1], shapes (n,); NaN where prediction or label is NaN.

    >>> losses("classification", 1.0, np.array([0.9, 0.5]), np.array([1, 0])).round(3).tolist()
    [0.01, 0.25]
    """
    gap = np.abs(np.asarray(predictions, np.float64) - np.asarray(labels, np.float64))
    return np.minimum(gap, 1.0) ** 2 if task == "classification" else np.minimum(gap / cap, 1.0)


def reference_risk(
    task: str | None, predictions: Array | None, labels: Array | None, block: Array | None, alpha: float
) -> tuple[Risk | None, str]:
    """The reference's risk, or the sentence why there is none. Arrays have shape (n,); NaN labels are left out."""
    if task not in ("classification", "regression"):
        return None, "risk is not judged: the version declares no task"
    if predictions is None or labels is None:
        return None, f"risk is not judged: the reference has no {'prediction' if predictions is None else 'labels'}"
    try:
        f, y = np.asarray(predictions, np.float64), np.asarray(labels, np.float64)
    except (TypeError, ValueError):
        return None, "risk is not judged: the reference's labels are not numbers"
    return _risk(task, f, y, block, alpha)


def upper_bound(loss: Array, alpha: float) -> float:
    """Of the mean of independent losses in [0, 1], with probability 1 - alpha (Maurer & Pontil 2009, thm. 4).

    >>> round(upper_bound(np.tile([0.0, 0.2], 5000), 0.01), 4)
    0.1045
    """
    n, log = len(loss), math.log(2 / alpha)
    if n < 2:
        return 1.0
    bound = loss.mean() + math.sqrt(2 * loss.var(ddof=1) * log / n) + 7 * log / (3 * (n - 1))
    return min(1.0, float(bound))


def upper_bound_of_blocks(loss: Array, block: Array, alpha: float) -> float:
    """Of the mean of block means, by Student's t over blocks: rows of a block may depend in any way."""
    number, rows = np.unique(block, return_inverse=True)
    means = np.bincount(rows, loss) / np.bincount(rows)
    if len(number) < 2:
        return 1.0
    margin = special.stdtrit(len(number) - 1, 1 - alpha) * means.std(ddof=1) / math.sqrt(len(number))
    return min(1.0, float(means.mean() + margin))


def _risk(task: str, f: Array, y: Array, block: Array | None, alpha: float) -> tuple[Risk | None, str]:
    known = np.isfinite(f) & np.isfinite(y)
    f, y, block = f[known], y[known], block if block is None else block[known]
    if len(y) < 2:
        return None, f"risk is not judged: {len(y)} reference rows have both a prediction and a label"
    if task == "classification" and not np.isin(y, (0.0, 1.0)).all():
        return None, "risk is not judged: labels of a classification must be 0 or 1"
    cap = 1.0 if task == "classification" else float(np.quantile(np.abs(f - y), CAP_QUANTILE)) or 1.0
    loss = losses(task, cap, f, y)
    number = 0 if block is None else len(np.unique(block))
    clustered = block is not None and number >= 4
    bound = upper_bound(loss, alpha)
    if clustered and block is not None:
        bound = max(bound, upper_bound_of_blocks(loss, block, alpha))
    kind: Literal["classification", "regression"] = "classification" if task == "classification" else "regression"
    risk = Risk(
        task=kind,
        cap=cap,
        mean=float(loss.mean()),
        bound=bound,
        n=len(loss),
        blocks=number if clustered else 0,
        calibration=_calibration(f, y),
    )
    return risk, "" if bound < 1 else "risk is not judged: the reference is too small to bound it below 1"


def _calibration(f: Array, y: Array) -> tuple[Calibration, ...]:
    lows = np.unique(np.quantile(f, np.arange(CALIBRATION_BINS) / CALIBRATION_BINS, method="lower"))
    bin_ = np.searchsorted(lows, f, side="right") - 1
    n, p, t = np.bincount(bin_), np.bincount(bin_, f), np.bincount(bin_, y)
    return tuple(Calibration(float(lows[k]), int(n[k]), float(p[k] / n[k]), float(t[k] / n[k])) for k in range(len(n)))
