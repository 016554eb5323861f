"""Percentiles that the sample can carry, with confidence intervals by order statistics."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

QUANTILES = (0.5, 0.9, 0.99, 0.999, 0.9999)
BEYOND = 10  # values that must lie above a percentile for it to be told from the maximum


@dataclass(frozen=True)
class Percentile:
    """`lower` to `upper` hold the true percentile with 95 % confidence, whatever the distribution."""

    quantile: float
    value: float
    lower: float
    upper: float
    samples: int


def percentiles(values: Sequence[float] | npt.NDArray[np.float64]) -> tuple[Percentile, ...]:
    """Those of `QUANTILES` above which at least `BEYOND` of the values lie: p99 from 1,000 values, p99.9 from 10,000.

    The number of values below the true q-quantile is binomial (n, q); its 2.5 % and 97.5 % points are ranks.
    H. A. David, H. N. Nagaraja, Order Statistics, 3rd ed., 7.1.

    >>> [p.quantile for p in percentiles(range(1000))]
    [0.5, 0.9, 0.99]
    """
    ordered = np.sort(np.asarray(values, np.float64))
    n = len(ordered)
    return tuple(_one(ordered, q) for q in QUANTILES if n * (1 - q) >= BEYOND - 1e-9)


def _one(ordered: npt.NDArray[np.float64], q: float) -> Percentile:
    n = len(ordered)
    low, high = int(binom.ppf(0.025, n, q)) - 1, int(binom.ppf(0.975, n, q))
    value = ordered[min(n - 1, int(np.ceil(q * n)) - 1)]
    return Percentile(q, float(value), float(ordered[max(low, 0)]), float(ordered[min(high, n - 1)]), n)
