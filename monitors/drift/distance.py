"""Distances that are sums of absolute gaps, with a kink where nothing changed: their bias, and an interval.

Such a distance is convex in the shares, so counted rows raise it on average, by no more than where nothing changed:
b = sqrt(2/pi) times the sum of the gaps' standard deviations, as E|d + s Z| - |d| <= s E|Z|. It moves by its slope
times what the rows do, so around its mean it varies as the delta method says (Efron & Tibshirani 1993, ch. 21):

    value = sqrt(max(T^2 - b^2, 0));   T - b - z se  to  T + z se

Taking b off the squares is right where nothing changed and takes off b^2 / (2 T), next to nothing, far from it.
"""

import numpy as np

from monitors.drift.table import Estimate, Floats, Table, quantile


def distance(
    table: Table, gaps: Floats, noise: Floats, slope: Floats, *, top: float = np.inf, confidence: float
) -> Estimate:
    """The estimate of T = sum of `gaps`, shape (…, G), each with a standard deviation of `noise` where nothing changed.

    `slope`, shape (…, K), is the derivative of T by p, and minus that by q, or what varies no less.
    """
    total, bias = gaps.sum(-1), np.sqrt(2 / np.pi) * noise.sum(-1)
    half = quantile(confidence) * np.sqrt(table.variance(slope, slope))
    value = np.sqrt(np.maximum(total**2 - bias**2, 0.0))
    return table.estimate(value, total - bias - half, total + half, top)
