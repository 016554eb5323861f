"""Cramer's V: the effect size of the chi-squared test."""

import numpy as np

from monitors.drift.divergence import divergence, rooted
from monitors.drift.table import CONFIDENCE, Estimate, Table


def chi2(table: Table, confidence: float = CONFIDENCE) -> Estimate:
    """Cramer's V of now against the reference, 0..1, as if both had as many rows: sqrt(sum (p - q)^2 / (p + q) / 2).

    The statistic itself grows with the rows; V does not (Cramer 1946), and with the same weight for both sides it
    does not depend on how much longer the reference is either. Of its square the mean without drift,
    (K-1) (D/n + D'/m) / 4, is taken off, as by Bergsma (2013, *J. Korean Statistical Society*); never below 0.

    >>> [round(float(x), 3) for x in chi2(Table(np.array([700, 300]), np.array([5000, 5000])))]
    [0.203, 0.169, 0.233]
    """
    p, q = table.p, table.q
    terms = 0.5 * (p - q) ** 2 / np.where(table.used, p + q, 1.0)
    p, q = table.near_p, table.near_q
    tilt = 0.5 * (p - q) / np.where(table.used, p + q, 1.0) ** 2
    slopes = tilt * (p + 3 * q), -tilt * (q + 3 * p)
    return rooted(divergence(table, terms, slopes, null=1 / 4, top=1.0, confidence=confidence))
