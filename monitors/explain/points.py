"""A law as weighted points: what another unit, another column or another clock would make of it is their image."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from monitors.marginal import Marginal
from serving.protocol import Array

QUANTILES = 512  # points that stand for a number
_STEP = 1e-9  # of the level, from one value to the next

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Points:
    """`values` with `weights` that add up to 1; both shape (points,)."""

    values: Array
    weights: Floats

    def shares(self, law: Marginal) -> Floats:
        """What of them falls into each cell of `law`, shape (K,)."""
        return np.bincount(law.cells(self.values), self.weights, minlength=law.size).astype(np.float64, copy=False)


def points(law: Marginal) -> Points:
    """The reference without its missing values.

    Of a number `QUANTILES` of them, by a monotone cubic through the edges and the medians of its bins (Fritsch &
    Carlson 1980); a bin whose median is its lower edge is one value, and between whole numbers there is none.
    Categories beyond the most common ones are taken to be equally common.

    >>> from monitors.reference import marginal
    >>> law = marginal(np.arange(2000.0), "numeric")
    >>> points(law).shares(law)[1:-2].round(2).tolist()
    [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]
    """
    values, weights = _number_points(law) if law.kind == "numeric" else _category_points(law)
    return Points(values, weights / max(1.0, weights.sum()))


def _number_points(law: Marginal) -> tuple[Array, Floats]:
    """The reference's own rows are never below or above its range."""
    from scipy.interpolate import PchipInterpolator

    level, value = _knots(law)
    whole = bool((value % 1 == 0).all())
    value[-1] += whole  # the last whole number is as wide as the others
    at = (np.arange(QUANTILES) + 0.5) / QUANTILES
    values = PchipInterpolator(level, value)(at) if len(level) > 1 else np.full(QUANTILES, law.low)
    return np.floor(values) if whole else values, np.ones(QUANTILES)


def _knots(law: Marginal) -> tuple[Floats, Floats]:
    """The quantile function where it is known: levels, strictly increasing from 0 to 1, and values."""
    ends = np.array([law.low, *law.edges, law.high])
    rows = np.array(law.counts[1:-2], np.float64)
    upto = np.concatenate([[0.0], rows.cumsum() / max(1.0, rows.sum())])
    middle = np.array(law.medians) if law.medians else (ends[:-1] + ends[1:]) / 2
    single = middle == ends[:-1]
    halfway = np.where(single, upto[1:] - _STEP, (upto[:-1] + upto[1:]) / 2)
    level = np.stack([upto[:-1], halfway], 1)[rows > 0].ravel()
    value = np.stack([ends[:-1], middle], 1)[rows > 0].ravel()
    return np.append(level, 1.0), np.append(value, law.high)


def _category_points(law: Marginal) -> tuple[Array, Floats]:
    """Categories whose names are not kept are ones that another feature has not seen."""
    unseen = "\0" if law.dtype == "text" else float(np.finfo(law.dtype).max)
    known = [*law.categories, *law.others, unseen]
    values = np.empty(len(known), object) if law.dtype == "text" else np.array(known, law.dtype)
    values[:] = known
    *common, other, none, _ = law.counts
    rare = [other / max(1, len(law.others))] * len(law.others)
    return values, np.array([*common, *rare, none + (0 if law.others else other)], np.float64)
