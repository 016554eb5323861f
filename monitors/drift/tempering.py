"""What clustered rows are worth in blocks and samples that are not like the reference's blocks."""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

from monitors.marginal import Marginal
from monitors.sampling import MIN_BLOCKS, Expected, dispersion

Hours = Sequence[Mapping[int, int]]  # of blocks, rows by hour of the week


def live_design_effect(
    law: Marginal, rows: int, past: NDArray[np.int64], split: float = 1.0, hours: Hours = ()
) -> float:
    """The design effect D of a block of `rows` live rows; `past` are the counts of blocks before it, (blocks, K).

    D - 1 is the correlation of two rows of a block times the other rows of the block (Kish 1965), so D grows with
    a block that is denser than the reference's were, as when the reference is a sample of the traffic. The error of
    the reference's D grows with it, so between what that leaves possible D is what the past blocks show, and the most
    until there are four.
    D falls with a sparser block, as when a version gets a fifth of the traffic, if rows are thinned one by one: then
    the correlation is the reference's. If whole clusters are kept (all rows of a user go to one version), it is not.
    So D falls no lower than the past blocks show, and not before there are four. A block of less time than the
    reference's is thinned by nothing: its rows count `split` times.
    `hours` are those of the past blocks, where they are compared apart: the season is no cluster.
    """
    return scaled(law, rows, shown(law, past, hours), split)


def shown(law: Marginal, past: NDArray[np.int64], hours: Hours = ()) -> float:
    """The least that D may be, by the blocks before; infinite while these are too few."""
    if law.block_rows <= 1:
        return 1.0
    if len(past) < MIN_BLOCKS:
        return math.inf
    return dispersion(past, _expected(law, past, hours) if hours else None)


def _expected(law: Marginal, past: NDArray[np.int64], hours: Hours) -> Expected:
    """What the blocks would hold if all had moved from the laws of their hours by the same ratios."""
    usual = law.expected(hours)
    moved = usual * (past.sum(0) / (past.sum(1, keepdims=True) * usual).sum(0))
    return Expected(moved / moved.sum(1, keepdims=True), np.ones(law.size, np.int64))


def scaled(law: Marginal, rows: int, least: float, split: float) -> float:
    """`live_design_effect`, where D is no less than `least`."""
    if law.block_rows <= 1:
        return law.design_effect
    more, others = law.design_effect - 1, law.block_rows - 1
    low, high = 1 + more * (rows * split - 1) / others, 1 + more
    if rows > law.block_rows:
        denser = (rows - 1) / others - 1
        low, high = (law.design_effect + bound * denser for bound in clustering(law, law.design_effect))
    return float(min(high, max(low, least)))


def clustering(law: Marginal, design_effect: float) -> tuple[float, float]:
    """Bounds of D - 1, where `design_effect` was measured on the blocks of this law: each holds with 1 - alpha.

    The squares of a cell's residuals add up to D times chi-squared. (The 90th percentile over cells lies above that.)
    """
    free = max(1.0, law.rows / law.block_rows - (law.strata.size if law.strata else 1))
    return _bounds(free, design_effect, law.alpha)


@lru_cache(4096)
def _bounds(free: float, design_effect: float, alpha: float) -> tuple[float, float]:
    least, most = free * design_effect / special.chdtri(free, [alpha, 1 - alpha])
    return max(0.0, float(least) - 1), max(0.0, float(most) - 1)


def thinned(design_effect: float, rows: int, of: float) -> float:
    """The design effect of `rows` rows that were drawn one by one from `of` that have this one (Kish 1965).

    >>> thinned(50.0, 128, 128), thinned(50.0, 101, 5001)
    (50.0, 1.98)
    """
    return 1 + (design_effect - 1) * min(1.0, (rows - 1) / max(1, of - 1))
