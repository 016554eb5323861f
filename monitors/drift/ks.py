"""Kolmogorov-Smirnov distance."""

import numpy as np

from monitors.drift.table import CONFIDENCE, Estimate, Table, quantile

_NULL = 0.8687  # mean of Kolmogorov's distribution, sqrt(pi/2) log 2


def ks(table: Table, confidence: float = CONFIDENCE) -> Estimate:
    """Largest gap between the two distribution functions at the edges of the cells, 0..1.

    Cells are in their order. The gap inside a cell is not seen, so this is a lower bound of the distance of the rows.
    Of categories, whose order says nothing, it is a lower bound of total variation. No bias is taken off the value,
    as that depends on where the edges lie: without drift it is up to b = 0.87 sqrt(D/n + D'/m) (Massey 1951). The
    interval is T - b - z se to T + z se, where se is the largest of the gaps' standard errors: a largest gap is
    convex in the shares, so rows raise it on average, by no more than b.

    >>> [round(float(x), 3) for x in ks(Table(np.array([70, 30]), np.array([50, 50])))]
    [0.2, 0.0, 0.333]
    """
    gap = np.abs(np.cumsum(table.p - table.q, -1)).max(-1)
    p, q = np.cumsum(table.near_p, -1), np.cumsum(table.near_q, -1)
    se = np.sqrt((table.h_p[..., None] * p * (1 - p) + table.h_q[..., None] * q * (1 - q)).max(-1).clip(0.0))
    bias, half = _NULL * np.sqrt(table.h), quantile(confidence) * se
    return table.estimate(gap, gap - bias - half, gap + half, 1.0)
