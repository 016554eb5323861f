"""Jensen-Shannon divergence."""

import math

import numpy as np

from monitors.drift.divergence import divergence
from monitors.drift.table import CONFIDENCE, Estimate, Floats, Table

_NULL = 1 / (8 * math.log(2))


def js(table: Table, confidence: float = CONFIDENCE) -> Estimate:
    """(KL(p || r) + KL(q || r)) / 2 with r = (p + q) / 2, in bits, 0..1; 1 where no cell has rows on both sides.

    It is what one row says, on average, about whether it is of now or of the reference (Lin 1991, *IEEE Trans. Inf.
    Theory*). Its mean without drift, (K-1) (D/n + D'/m) / (8 log 2), is taken off; never below 0. It is the
    divergence: the distance that some tools give is its root.

    >>> [round(float(x), 3) for x in js(Table(np.array([700, 300]), np.array([5000, 5000])))]
    [0.03, 0.021, 0.04]
    """
    p, q, r = table.p, table.q, 0.5 * (table.p + table.q)
    terms = 0.5 * (p * _log2(p, r) + q * _log2(q, r))
    near_p, near_q = table.near_p, table.near_q
    near_r = 0.5 * (near_p + near_q)
    slopes = 0.5 * _log2(near_p, near_r), 0.5 * _log2(near_q, near_r)
    return divergence(table, terms, slopes, null=_NULL, top=1.0, confidence=confidence)


def _log2(share: Floats, mean: Floats) -> Floats:
    """log2(share / mean), 0 where the share is."""
    some = share > 0
    return np.asarray(np.log2(np.where(some, share, 1.0) / np.where(some, mean, 1.0)))
