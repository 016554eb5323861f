"""What a table of binned scores leaves open."""

import numpy as np

from monitors.metrics import Plan, Sums
from monitors.metrics.estimate import ratio
from monitors.metrics.sequence import Floats
from monitors.metrics.sums import edges


def auc_error(plan: Plan, sums: Sums) -> Floats:
    """By how much bins may change the area under the curve: half of the pairs that share one, shape (segments,)."""
    bins, rows = len(edges(plan.threshold)) + 1, sums.astype(np.float64)
    negatives, positives = rows[:, :bins], rows[:, bins : 2 * bins]
    return ratio((negatives * positives).sum(1) / 2, negatives.sum(1) * positives.sum(1))
