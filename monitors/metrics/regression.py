"""Metrics of a number that is predicted. Absolute errors are counted up to `Plan.most_error`."""

import numpy as np

from monitors.metrics.estimate import Estimates, ratio
from monitors.metrics.sequence import ALPHA, Floats, Interval, mean, radius
from monitors.metrics.sums import Plan, Sums
from monitors.slot import LOSS_UNIT


def regression(plan: Plan, sums: Sums, alpha: float = ALPHA) -> dict[str, Estimates]:
    """By name, in the label's unit; `sums` has shape (segments, plan.width)."""
    n, over, under = _sides(plan, sums)
    most, tau = plan.most_error, plan.quantile
    squared = _mean(plan, n, over[1] + under[1], over[2] + under[2], alpha)
    weighted = tau * under[0] + (1 - tau) * over[0], tau**2 * under[1] + (1 - tau) ** 2 * over[1]
    return absolute(plan, sums, alpha) | {
        "rmse": _scaled(
            Estimates(np.sqrt(squared.value), Interval(*map(np.sqrt, squared.interval)), squared.n), most
        ),
        "pinball": _scaled(_mean(plan, n, *weighted, alpha), most),
    }  # fmt: skip


def absolute(plan: Plan, sums: Sums, alpha: float = ALPHA) -> dict[str, Estimates]:
    """The mean absolute error alone."""
    n, over, under = _sides(plan, sums)
    return {"mae": _scaled(_mean(plan, n, over[0] + under[0], over[1] + under[1], alpha), plan.most_error)}


def bias(plan: Plan, sums: Sums, alpha: float = ALPHA) -> Estimates:
    """Mean label less mean prediction, in the label's unit: how far predictions are too low, above 0, or too high."""
    n, over, under = _sides(plan, sums)
    value = ratio(under[0] - over[0], n)
    variance = np.nan_to_num(ratio(under[1] + over[1], n) - value**2)
    far = 2 * radius(n, variance / 4, alpha)
    ends = Interval(np.maximum(value - far, -1), np.minimum(value + far, 1))
    return _scaled(Estimates(value, ends, n * plan.design_effect), plan.most_error)


def _sides(plan: Plan, sums: Sums) -> tuple[Floats, list[Floats], list[Floats]]:
    """Effective rows; of errors above and below the label the sum, squares and fourth powers."""
    rows = sums / plan.design_effect
    sides = [rows[:, k] * LOSS_UNIT for k in range(1, 7)]
    return rows[:, 0], sides[:3], sides[3:]


def _mean(plan: Plan, n: Floats, total: Floats, squares: Floats, alpha: float) -> Estimates:
    return Estimates(ratio(total, n), mean(n, total, squares, alpha), n * plan.design_effect)


def _scaled(found: Estimates, by: float) -> Estimates:
    return Estimates(found.value * by, Interval(*(end * by for end in found.interval)), found.n)
