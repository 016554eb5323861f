"""Wasserstein distance of order 1."""

import numpy as np

from monitors.drift.distance import distance
from monitors.drift.table import CONFIDENCE, Estimate, Floats, Table
from monitors.marginal import Marginal


def wasserstein(table: Table, confidence: float = CONFIDENCE) -> Estimate:
    """How far a value moved on average, in standard deviations of the reference; 0 without points.

    integral |F - G|, with the rows of each cell at its point (Vallender 1974), see `points`; without missing values.
    0.2, 0.5, 0.8 are a small, a medium, a large move by Cohen's scale, which it equals where all values move alike.
    Of its square that of its mean without drift is taken off; never below 0. Its standard error is taken to be that
    of the difference of means, which it is where all values move alike, and less than which it is elsewhere. Rows
    outside the reference's range are taken to lie at its ends, so a move far beyond them is a larger one.

    >>> table = Table(np.array([0, 700, 300]), np.array([0, 500, 500]), points=np.array([-1.0, -1.0, 1.0]))
    >>> round(float(wasserstein(table).value), 2)
    0.4
    """
    if table.points is None:
        zero = np.zeros(table.counts.shape[:-1])
        return Estimate(zero, zero, zero)
    known = ~np.isnan(table.points)
    at = Table(table.counts * known, table.reference * known, table.design_effect, table.reference_design_effect)
    width = np.nan_to_num(np.diff(table.points))
    gap = np.cumsum(at.p - at.q, -1)[..., :-1]
    p, q = np.cumsum(at.near_p, -1)[..., :-1], np.cumsum(at.near_q, -1)[..., :-1]
    variance = at.h_p[..., None] * p * (1 - p) + at.h_q[..., None] * q * (1 - q)
    noise = width * np.sqrt(variance.clip(0.0))
    return distance(at, width * np.abs(gap), noise, np.nan_to_num(table.points), confidence=confidence)


def points(law: Marginal) -> Floats:
    """Where the rows of each cell lie, in standard deviations of the reference, shape (K,): the median of its rows.

    Below and above are the ends of the reference's range. NaN for missing, for categories, for a constant, and for
    a profile made before medians were kept.
    """
    nowhere = np.full(law.size, np.nan)
    span = law.high - law.low
    if not law.medians or not 0 < span < np.inf:
        return nowhere
    at = (np.array([law.low, *law.medians, law.high]) - law.low) / span
    share = np.array(law.counts[:-1]) / max(1, sum(law.counts[:-1]))
    sd = np.sqrt(max(0.0, float((share * at**2).sum() - (share * at).sum() ** 2)))
    if sd > 0:
        nowhere[:-1] = at / sd
    return nowhere
