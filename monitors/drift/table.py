"""The table behind every effect size: rows per cell now and in the reference, and what such rows are worth."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CONFIDENCE = 0.95  # of an interval, at one look at one feature


class Estimate(NamedTuple):
    """Effect sizes with the ends of their intervals, each of shape (…): 0 <= low <= value <= high."""

    value: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, eq=False)
class Table:
    """Rows per cell, the last axis; axes before it are independent tables.

    D rows of a cluster are worth one: `counts` hold n/D independent rows, `reference` m/D'. Cells that are empty on
    both sides do not count, so tables of different sizes may be padded with zeros.

    >>> table = Table(np.array([70, 30, 0]), np.array([50, 50, 0]), design_effect=4.0)
    >>> table.p.tolist(), int(table.size), round(float(table.h_p), 3)
    ([0.7, 0.3, 0.0], 2, 0.04)
    """

    counts: NDArray[np.int64]  # shape (…, K)
    reference: NDArray[np.int64]  # shape (…, K)
    design_effect: Floats | float = 1.0  # D, shape (…), at least 1
    reference_design_effect: Floats | float = 1.0  # D'
    points: Floats | None = None  # where the rows of each cell lie, shape (…, K), increasing; NaN: nowhere

    @cached_property
    def used(self) -> NDArray[np.bool_]:
        """Cells that have rows on either side, shape (…, K)."""
        return (self.counts > 0) | (self.reference > 0)

    @cached_property
    def size(self) -> Floats:
        """Number of such cells, K, shape (…)."""
        return np.asarray(self.used.sum(-1), np.float64)

    @cached_property
    def empty(self) -> NDArray[np.bool_]:
        """Whether one side has no rows, shape (…): then nothing is known."""
        return np.asarray(~(self.counts.any(-1) & self.reference.any(-1)))

    @cached_property
    def n(self) -> Floats:
        """Rows now, shape (…); 1 where there are none."""
        return np.asarray(np.maximum(self.counts.sum(-1), 1), np.float64)

    @cached_property
    def m(self) -> Floats:
        """Rows of the reference; 1 where there are none."""
        return np.asarray(np.maximum(self.reference.sum(-1), 1), np.float64)

    @cached_property
    def p(self) -> Floats:
        """Shares of the rows now, shape (…, K)."""
        return np.asarray(self.counts / self.n[..., None])

    @cached_property
    def q(self) -> Floats:
        """Shares of the reference."""
        return np.asarray(self.reference / self.m[..., None])

    @cached_property
    def h_p(self) -> Floats:
        """D/n: the variance of a mean over the rows now is this times that of one row. Shape (…)."""
        return np.asarray(self.design_effect / self.n)

    @cached_property
    def h_q(self) -> Floats:
        """D'/m."""
        return np.asarray(self.reference_design_effect / self.m)

    @cached_property
    def h(self) -> Floats:
        """D/n + D'/m."""
        return np.asarray(self.h_p + self.h_q)

    @cached_property
    def more(self) -> Floats:
        """K - 1, shape (…); 0 of an empty table."""
        return np.asarray(np.maximum(self.size - 1, 0.0))

    @cached_property
    def ratio(self) -> Floats:
        """`near_p` over `near_q`; 1 in cells that are not used."""
        used = self.used
        return np.asarray(np.where(used, self.near_p, 1.0) / np.where(used, self.near_q, 1.0))

    @cached_property
    def near_p(self) -> Floats:
        """`p` with half an independent row in each used cell, for variances: one row is no proof of certainty."""
        return self._near(self.p, self.h_p)

    @cached_property
    def near_q(self) -> Floats:
        return self._near(self.q, self.h_q)

    def _near(self, share: Floats, h: Floats) -> Floats:
        half = 0.5 * h[..., None] * self.used
        return np.asarray((share + half) / (1 + half.sum(-1, keepdims=True)))

    def variance(self, slope_p: Floats, slope_q: Floats) -> Floats:
        """Of a statistic with these derivatives by p and q, shape (…): h_p Var_p(slope_p) + h_q Var_q(slope_q)."""
        return np.asarray(self.h_p * _spread(self.near_p, slope_p) + self.h_q * _spread(self.near_q, slope_q))

    def estimate(self, value: Floats, low: Floats, high: Floats, top: float = np.inf) -> Estimate:
        """Cut to 0..`top`; 0 with nothing excluded where one side has no rows."""
        value = _within(value, 0.0, top)
        low, high = _within(low, 0.0, value), _within(high, value, top)
        if not self.empty.any():
            return Estimate(value, low, high)
        value, low = np.where(self.empty, 0.0, value), np.where(self.empty, 0.0, low)
        return Estimate(value, low, np.where(self.empty, top, high))


def _within(value: Floats, low: Floats | float, high: Floats | float) -> Floats:
    """As `np.clip`, in a third of its time for small arrays."""
    return np.asarray(np.minimum(np.maximum(value, low), high))


def _spread(share: Floats, slope: Floats) -> Floats:
    """Variance of `slope` over cells."""
    mean = share * slope
    return np.asarray(np.maximum((mean * slope).sum(-1) - mean.sum(-1) ** 2, 0.0))


@lru_cache(16)
def quantile(confidence: float) -> float:
    """z, where a standard normal variable lies in -z..z with this probability.

    >>> round(quantile(0.95), 2)
    1.96
    """
    return NormalDist().inv_cdf((1 + confidence) / 2)
