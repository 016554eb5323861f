"""Hellinger distance."""

import numpy as np

from monitors.drift.divergence import divergence, rooted
from monitors.drift.table import CONFIDENCE, Estimate, Table


def hellinger(table: Table, confidence: float = CONFIDENCE) -> Estimate:
    """sqrt(sum (sqrt p - sqrt q)^2 / 2), 0..1; 1 where no cell has rows on both sides.

    Of its square the mean without drift, (K-1) (D/n + D'/m) / 8, is taken off; never below 0. H^2 <= TV <= sqrt(2) H
    (Le Cam 1986, *Asymptotic Methods in Statistical Decision Theory*).

    >>> [round(float(x), 3) for x in hellinger(Table(np.array([700, 300]), np.array([5000, 5000])))]
    [0.145, 0.12, 0.166]
    """
    terms = 0.5 * (np.sqrt(table.p) - np.sqrt(table.q)) ** 2
    ratio = np.sqrt(table.ratio)
    slopes = -0.5 / ratio, -0.5 * ratio
    return rooted(divergence(table, terms, slopes, null=1 / 8, top=1.0, confidence=confidence))
