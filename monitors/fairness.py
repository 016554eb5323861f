"""Rates and errors of the segments of one feature beside each other, and how far they are apart.

All intervals of one rate hold at once, over its segments and over time, with probability 0.95: so does what is made
of them, the largest difference and ratio. A segment with few rows is left out, and said to be `too few`.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np

from monitors.metrics import ALPHA, BIAS, RATES, Estimates, Interval, Metric, Plan, Sums, share

TooFew = Literal["too few"]
TOO_FEW: TooFew = "too few"


class Gap(msgspec.Struct, frozen=True):
    """Between the segments with the largest and the smallest value, with the ends of its confidence sequence."""

    value: float
    lower: float
    upper: float


class Disparity(msgspec.Struct, frozen=True):
    """One rate by segment. `difference` is the largest less the smallest, `ratio` the smallest over the largest."""

    segments: dict[str, Metric | TooFew]
    difference: Gap | None = None
    ratio: Gap | None = None
    largest: str = ""
    smallest: str = ""


def fairness(
    plan: Plan, names: Sequence[str], sums: Sums, offered: Sequence[tuple[int, int]], least: int, alpha: float = ALPHA
) -> dict[str, Disparity]:
    """By rate, of segments `names`: their sums, shape (segments, plan.width), predictions, and of these the chosen.

    Only what has at least `least` rows is shown. Each interval misses with probability `alpha`.

    >>> plan, rows = Plan("classification"), np.zeros((2, Plan("classification").width), np.int64)
    >>> found = fairness(plan, ["a", "b"], rows, [(1000, 500), (1000, 250)], least=100)["selection_rate"]
    >>> found.difference.value, round(found.difference.lower, 3), found.ratio.value
    (0.25, 0.14, 0.5)
    """
    rates = {"bias": BIAS[plan.task](plan, sums, alpha)}
    metrics = RATES[plan.task](plan, sums, alpha)
    if plan.task == "regression":
        return {name: _disparity(names, rate, least) for name, rate in (rates | {"mae": metrics["mae"]}).items()}
    n, chosen = (np.array(column, np.float64) for column in zip(*offered, strict=True))
    value = np.divide(chosen, n, out=np.zeros(len(n)), where=n > 0)
    effective = share(n / plan.design_effect, chosen / plan.design_effect, alpha)
    right = metrics["accuracy"]
    wrong = Estimates(1 - right.value, Interval(1 - right.interval.upper, 1 - right.interval.lower), right.n)
    shares = {
        "selection_rate": Estimates(value, effective, n),
        "true_positive_rate": metrics["recall"],
        "error_rate": wrong,
    }
    found = {name: _disparity(names, rate, least, ratio=True) for name, rate in shares.items()}
    return found | {name: _disparity(names, rate, least) for name, rate in rates.items()}


def _disparity(names: Sequence[str], rate: Estimates, least: int, *, ratio: bool = False) -> Disparity:
    known = {name: rate.at(k) for k, name in enumerate(names)}
    shown = {name: one for name, one in known.items() if one is not None and one.n >= least}
    segments: dict[str, Metric | TooFew] = {name: shown.get(name, TOO_FEW) for name in names}
    if len(shown) < 2:
        return Disparity(segments)
    ordered = sorted(shown, key=lambda name: shown[name].value)
    return Disparity(segments, _difference(shown), _ratio(shown) if ratio else None, ordered[-1], ordered[0])


def _difference(shown: Mapping[str, Metric]) -> Gap:
    """The largest of means lies between the largest of their lower and of their upper ends; so does the smallest."""
    values, lower, upper = _columns(shown)
    return Gap(max(values) - min(values), max(max(lower) - min(upper), 0.0), max(upper) - min(lower))


def _ratio(shown: Mapping[str, Metric]) -> Gap:
    values, lower, upper = _columns(shown)
    least = min(lower) / max(upper) if max(upper) else 0.0
    most = min(1.0, min(upper) / max(lower)) if max(lower) else 1.0
    return Gap(min(values) / max(values) if max(values) else 1.0, least, most)


def _columns(shown: Mapping[str, Metric]) -> tuple[list[float], list[float], list[float]]:
    ordered = [(one.value, one.lower, one.upper) for one in shown.values()]
    values, lower, upper = map(list, zip(*ordered, strict=True))
    return values, lower, upper
