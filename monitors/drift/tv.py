"""Total variation."""

import numpy as np

from monitors.drift.distance import distance
from monitors.drift.table import CONFIDENCE, Estimate, Table


def tv(table: Table, confidence: float = CONFIDENCE) -> Estimate:
    """sum |p - q| / 2, 0..1: the share of the rows that would have to move to another cell to undo the drift.

    The tolerance of the detector is in this unit. Of its square that of its mean without drift is taken off, which
    is at most the sum of the cells' standard deviations times sqrt(1 / (2 pi)); never below 0.

    >>> [round(float(x), 3) for x in tv(Table(np.array([700, 300]), np.array([5000, 5000])))]
    [0.2, 0.158, 0.23]
    """
    p, q = table.near_p, table.near_q
    noise = np.sqrt(table.h_p[..., None] * p * (1 - p) + table.h_q[..., None] * q * (1 - q))
    gap = table.p - table.q
    slope = 0.5 * np.sign(gap)
    return distance(table, 0.5 * np.abs(gap), 0.5 * noise, slope, top=1.0, confidence=confidence)
