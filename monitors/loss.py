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

LOSS_UNIT = 2.0**-32  # losses are summed as integers of this size


class Calibration(msgspec.Struct, frozen=True):
    """Reference rows with predictions in [low, next low): how many, their mean prediction and mean label."""

    low: float
    n: int
    prediction: float
    label: float
    error: float | None = None  # of the mean label less mean prediction, either side; None in an older profile


class Risk(msgspec.Struct, frozen=True, kw_only=True):
    """The loss that is watched, and what it was on the reference rows that have a label."""

    task: Literal["classification", "regression"]
    cap: float = 1.0  # absolute error that counts as a loss of 1
    mean: float
    bound: float  # upper confidence bound of the risk, at least `mean`
    n: int
    blocks: int  # blocks of time behind `bound`; 0: rows were taken as independent
    calibration: tuple[Calibration, ...] = ()  # of the prediction, in increasing order
    design_effect: float = 1.0  # variance of the loss's block means over that of independent rows, at least 1
    label_error: float | None = None  # as `Calibration.error`, of all bins together


@np.errstate(over="ignore")  # however far off, a loss is at most 1
def losses(task: str, cap: float, predictions: Array, labels: Array) -> NDArray[np.float64]:
    """Loss of each row in [0, 1], shapes (n,); NaN where prediction or label is NaN.

    >>> losses("classification", 1.0, np.array([0.9, 0.5]), np.array([1, 0])).round(3).tolist()
    [0.01, 0.25]
    """
    gap = np.abs(np.asarray(predictions, np.float64) - np.asarray(labels, np.float64))
    return np.minimum(gap, 1.0) ** 2 if task == "classification" else np.minimum(gap / cap, 1.0)


def upper_bound_of(n: int, mean: float, variance: float, alpha: float) -> float:
    """Of the mean of n independent losses in [0, 1], with probability 1 - alpha (Maurer & Pontil 2009, thm. 4).

    `variance` has the divisor n - 1. 1.0 for fewer than two losses.

    >>> round(upper_bound_of(10_000, 0.1, 0.01, 0.01), 4)
    0.1045
    """
    if n < 2:
        return 1.0
    log = math.log(2 / alpha)
    return min(1.0, mean + math.sqrt(2 * variance * log / n) + 7 * log / (3 * (n - 1)))


def upper_bound_of_means(means: NDArray[np.float64], alpha: float) -> float:
    """Of the mean of block means, shape (blocks,), by Student's t: rows of a block may depend in any way."""
    if len(means) < 2:
        return 1.0
    margin = special.stdtrit(len(means) - 1, 1 - alpha) * means.std(ddof=1) / math.sqrt(len(means))
    return min(1.0, float(means.mean() + margin))


def upper_bound_of_share(k: float, n: float, alpha: float) -> float:
    """Of a share of which k of n independent rows were seen (Clopper & Pearson 1934).

    >>> round(upper_bound_of_share(0, 459, 0.01), 4), upper_bound_of_share(3, 3, 0.01)
    (0.01, 1.0)
    """
    return float(special.betaincinv(k + 1, n - k, 1 - alpha)) if n > k else 1.0


def mean_error(n: float, alpha: float) -> float:
    """Of the mean of n independent labels in [0, 1], either side, with probability 1 - alpha (Hoeffding 1963)."""
    return math.sqrt(math.log(2 / alpha) / (2 * n)) if n else 1.0


def mean_error_of_blocks(means: NDArray[np.float64], alpha: float) -> float:
    """How far from 0 the mean of block means is, at most, by Student's t over blocks; 1.0 for fewer than two.

    >>> round(mean_error_of_blocks(np.tile([-0.1, 0.1], 20), 0.01), 3)
    0.043
    """
    if len(means) < 2:
        return 1.0
    margin = special.stdtrit(len(means) - 1, 1 - alpha / 2) * means.std(ddof=1) / math.sqrt(len(means))
    return min(1.0, abs(float(means.mean())) + float(margin))
