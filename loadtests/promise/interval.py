"""How well the share of windows with an alarm is known, from those that were looked at."""

import math

import numpy as np
from scipy import stats

from loadtests.promise.streams import Outcome

MISS = 0.05  # probability that the share lies outside


def of_calls(found: Outcome) -> tuple[float, float]:
    """Calls in 90 days: of the share of windows the wider one of Clopper and Pearson's interval, which takes all
    windows for independent, and Student's over the runs, whose references differ.
    """
    n, called = found.looked_at, sum(found.called)
    low = stats.beta.ppf(MISS / 2, called, n - called + 1) if called else 0.0
    high = stats.beta.isf(MISS / 2, called + 1, n - called) if called < n else 1.0
    if (runs := len(found.called)) > 1:
        shares = np.array(found.called) / found.windows
        half = stats.t.isf(MISS / 2, runs - 1) * shares.std(ddof=1) / math.sqrt(runs)
        low, high = max(0.0, min(low, shares.mean() - half)), min(1.0, max(high, shares.mean() + half))
    return float(low) * found.quarter, float(high) * found.quarter
