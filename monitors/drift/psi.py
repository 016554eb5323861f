"""Population stability index."""

import numpy as np

from monitors.drift.divergence import divergence
from monitors.drift.table import CONFIDENCE, Estimate, Table


def psi(table: Table, confidence: float = CONFIDENCE) -> Estimate:
    """sum (p - q) log(p / q) in nats, less what it is on average where nothing changed; never below 0.

    Cells empty on both sides do not count, others get 1/2 a row. What is taken off is (K-1) (D/n + D'/m), as design
    effects leave n/D and m/D' independent rows (Yurdakul & Naranjo 2020, *J. Risk Model Validation*). Of the rest
    the positive part is given, since the index is no less than 0: without drift it is 0 about half the time, more
    often where rows are clustered. It has no upper end: a cell that one side lacks counts by what half a row is.

    >>> [round(float(x), 3) for x in psi(Table(np.array([700, 300]), np.array([5000, 5000])))]
    [0.168, 0.114, 0.222]
    >>> float(psi(Table(np.array([505, 495]), np.array([5000, 5000]))).value)
    0.0
    """
    half = 0.5 * table.used
    n, m = table.counts + half, table.reference + half
    p, q = n / np.maximum(n.sum(-1, keepdims=True), 1), m / np.maximum(m.sum(-1, keepdims=True), 1)
    terms = (p - q) * np.log(np.where(table.used, p, 1.0) / np.where(table.used, q, 1.0))
    ratio = table.ratio
    log = np.log(ratio)
    slopes = log - 1 / ratio, -log - ratio
    return divergence(table, terms, slopes, null=1.0, confidence=confidence)
