"""Metrics of a probability and a label 0 or 1, from counts by bin of score and label.

Each interval rests on sequences of means. Precision, recall and F1 are shares of a part of the rows: of rows that
are predicted 1, that are 1, and that are either, which are again independent rows of one law.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from monitors.metrics.estimate import Estimates, ratio
from monitors.metrics.sequence import ALPHA, Floats, Interval, mean, radius, share
from monitors.metrics.sums import MOST_NATS, Plan, Sums, edges
from monitors.slot import LOSS_UNIT

GROUPS = 10  # of scores, equally wide, for the calibration error


class Table(NamedTuple):
    """Sums of segments. By bin, shape (segments, bins); losses, shape (segments,). All in effective rows."""

    negatives: Floats
    positives: Floats
    scores: Floats
    squared: Floats
    fourth: Floats
    nats: Floats
    nats_squared: Floats
    inner: Floats  # edges of the bins
    cut: int  # of these bins and those above it the prediction is 1
    design_effect: float


def classification(plan: Plan, sums: Sums, alpha: float = ALPHA) -> dict[str, Estimates]:
    """By name; `sums` has shape (segments, plan.width), each interval misses with probability `alpha`."""
    table = _table(plan, sums)
    n, ones, hits, alarms = _confusion(table)
    found = shares(plan, sums, alpha) | _shares(plan, {"f1": (alarms + ones - hits, hits)}, alpha)
    found["f1"] = _f1(found["f1"])
    found["brier"] = _mean(plan, n, table.squared, table.fourth, 1.0, alpha)
    found["log_loss"] = _mean(plan, n, table.nats, table.nats_squared, MOST_NATS, alpha)
    return found | {"auc": _auc(table, alpha), "ece": _ece(table, alpha)}


def shares(plan: Plan, sums: Sums, alpha: float = ALPHA) -> dict[str, Estimates]:
    """Those metrics that are a share of rows."""
    n, ones, hits, alarms = _confusion(_table(plan, sums))
    parts = {
        "accuracy": (n, n - ones - alarms + 2 * hits), "precision": (alarms, hits), "recall": (ones, hits),
        "selection_rate": (n, alarms), "label_mean": (n, ones),
    }  # fmt: skip
    return _shares(plan, parts, alpha)


def bias(plan: Plan, sums: Sums, alpha: float = ALPHA) -> Estimates:
    """Mean label less mean score, -1 to 1: how far the scores are too low, above 0, or too high."""
    table = _table(plan, sums)
    n = (table.negatives + table.positives).sum(1)
    value = ratio((table.positives - table.scores).sum(1), n)
    far = 2 * radius(n, _variance(table, n) / 4, alpha)
    return Estimates(value, Interval(np.maximum(value - far, -1), np.minimum(value + far, 1)), n * plan.design_effect)


def _table(plan: Plan, sums: Sums) -> Table:
    inner = edges(plan.threshold)
    n = len(inner) + 1
    rows = sums / plan.design_effect
    squared, fourth, nats, nats_squared = (rows[:, 3 * n + k] * LOSS_UNIT for k in range(4))
    return Table(
        rows[:, :n], rows[:, n : 2 * n], rows[:, 2 * n : 3 * n] * LOSS_UNIT, squared, fourth, nats, nats_squared,
        inner, int(np.searchsorted(inner, plan.threshold, side="right")), plan.design_effect,
    )  # fmt: skip


def _confusion(table: Table) -> tuple[Floats, Floats, Floats, Floats]:
    """Rows, those with label 1, of these those predicted 1, and all predicted 1; each of shape (segments,)."""
    rows, cut = table.negatives + table.positives, table.cut
    return rows.sum(1), table.positives.sum(1), table.positives[:, cut:].sum(1), rows[:, cut:].sum(1)


def _shares(plan: Plan, parts: Mapping[str, tuple[Floats, Floats]], alpha: float) -> dict[str, Estimates]:
    """Of each name what they are a share of, and the share, reckoned at once."""
    of, part = (np.stack(column) for column in zip(*parts.values(), strict=True))
    lower, upper = share(of, part, alpha)
    value, n = ratio(part, of), of * plan.design_effect
    return {name: Estimates(value[k], Interval(lower[k], upper[k]), n[k]) for k, name in enumerate(parts)}


def _mean(plan: Plan, n: Floats, total: Floats, squares: Floats, largest: float, alpha: float) -> Estimates:
    lower, upper = mean(n, total, squares, alpha)
    return Estimates(ratio(total, n) * largest, Interval(lower * largest, upper * largest), n * plan.design_effect)


def _f1(jaccard: Estimates) -> Estimates:
    """2 TP / (2 TP + FP + FN) = 2 J / (1 + J), where J = TP / (TP + FP + FN)."""
    value, lower, upper = (2 * j / (1 + j) for j in (jaccard.value, *jaccard.interval))
    return Estimates(value, Interval(lower, upper), jaccard.n)


def _auc(table: Table, alpha: float) -> Estimates:
    """Probability that a row with label 1 scores above one with label 0, equal scores by half.

    Of both laws of scores the distribution function is bounded at all edges at once, each at alpha / edges / 2. The
    area is largest where those with label 1 lie as high, and the others as low, as the bounds allow, and where all
    that share a bin are in the right order.
    """
    negatives, positives = table.negatives, table.positives
    bounds = _distribution(np.stack([negatives, positives]), alpha / 2)
    low, high = (Interval(bounds.lower[k], bounds.upper[k]) for k in range(2))
    pairs = negatives.sum(1) * positives.sum(1)
    below = np.cumsum(negatives, 1) - negatives / 2
    lower = (np.diff(high.upper, axis=1) * low.lower[:, :-1]).sum(1)
    upper = (np.diff(high.lower, axis=1) * low.upper[:, 1:]).sum(1)
    n = np.where(pairs > 0, (negatives + positives).sum(1), 0.0) * table.design_effect
    return Estimates(ratio((positives * below).sum(1), pairs), Interval(lower, np.minimum(upper, 1.0)), n)


def _distribution(rows: Floats, alpha: float) -> Interval:
    """Bounds of distribution functions at 0, all inner edges and 1; `rows` by bin along the last axis."""
    n, edges = rows.sum(-1, keepdims=True), rows.shape[-1] - 1
    inner = share(n, np.cumsum(rows, -1)[..., :-1], alpha / edges)
    ends = np.zeros_like(n), np.ones_like(n)
    return Interval(*(np.concatenate([ends[0], bound, ends[1]], -1) for bound in inner))


def _ece(table: Table, alpha: float) -> Estimates:
    """Sum over ten groups of scores of |labels - scores| over all rows (Naeini, Cooper & Hauskrecht 2015).

    It is the largest of the means of s(p) (y - p) over the 2^10 ways to give each group a sign s: none of these
    means is off by more than the radius at alpha / 2^10, so neither is their largest.
    """
    n = (table.negatives + table.positives).sum(1)
    group = np.minimum((np.append(0.0, table.inner) * GROUPS + 1e-9).astype(int), GROUPS - 1)
    gaps = table.positives - table.scores
    value = sum(np.abs(gaps[:, group == k].sum(1)) for k in range(GROUPS))
    middle = ratio(np.asarray(value), n)
    far = 2 * radius(n, _variance(table, n) / 4, 2 * alpha / 2**GROUPS)
    ends = Interval(np.maximum(middle - far, 0.0), np.minimum(middle + far, 1.0))
    return Estimates(middle, ends, n * table.design_effect)


def _variance(table: Table, n: Floats) -> Floats:
    """Of labels less scores, at most."""
    return np.nan_to_num(ratio(table.squared, n))
