"""Effect sizes of many features at once: all of them cost little more than one does."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitors.drift import CONFIDENCE, EFFECTS, Table
from monitors.drift.wasserstein import points
from monitors.marginal import Marginal


class Side(NamedTuple):
    """One feature's reference, as effect sizes need it."""

    counts: NDArray[np.int64]  # shape (K,)
    design_effect: float
    points: NDArray[np.float64]  # shape (K,), NaN where a cell has none
    placed: bool  # whether any has one

    @classmethod
    def of(cls, law: Marginal) -> "Side":
        at = points(law)
        return cls(np.array(law.counts, np.int64), law.design_effect, at, not np.isnan(at).all())

    def among(self, law: Marginal, hours: Mapping[int, int]) -> "Side":
        """For so many rows by hour of the week, where `law`, whose side it is, is compared by hour."""
        if not law.strata:
            return self
        mixed = law.mixed(hours)
        return self._replace(counts=np.array(mixed.counts, np.int64), design_effect=mixed.design_effect)


class Seen(NamedTuple):
    """What was seen of one feature, and what it is compared with."""

    reference: Side
    counts: NDArray[np.int64]  # shape (K,)
    design_effect: float


Values = dict[str, Any]  # float, None for the `wasserstein` of what has no distance


class Sizes(NamedTuple):
    """By statistic; without rows there are no intervals."""

    values: Values
    intervals: dict[str, tuple[float, float]]
    n: int  # rows behind them


def effects(features: Sequence[Seen], confidence: float = CONFIDENCE) -> list[Sizes]:
    """The effect sizes of each feature, with intervals at `confidence`.

    >>> from monitors.reference import marginal
    >>> law = marginal(np.arange(2000.0), "numeric")
    >>> (sizes,) = effects([Seen(Side.of(law), law.count(np.arange(1000.0, 2000.0)), 1.0)])
    >>> round(sizes.values["tv"], 2), [round(end, 2) for end in sizes.intervals["tv"]]
    (0.5, [0.44, 0.52])
    """
    if not features:
        return []
    table = _table(features)
    found = {name: np.stack(effect(table, confidence), -1).tolist() for name, effect in EFFECTS.items()}
    rows = table.counts.sum(-1).tolist()
    return [
        _sizes({name: sizes[i] for name, sizes in found.items()}, seen.reference.placed, rows[i])
        for i, seen in enumerate(features)
    ]


def _table(features: Sequence[Seen]) -> Table:
    """Features with fewer cells than others get empty ones."""
    shape = len(features), max(len(seen.counts) for seen in features)
    counts, reference, points = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.full(shape, np.nan)
    for i, (side, now, _) in enumerate(features):
        counts[i, : len(now)], reference[i, : len(now)], points[i, : len(now)] = now, side.counts, side.points
    worth = np.array([(seen.design_effect, seen.reference.design_effect) for seen in features])
    return Table(counts, reference, worth[:, 0], worth[:, 1], points)


def _sizes(found: dict[str, tuple[float, float, float]], placed: bool, n: int) -> Sizes:
    values: Values = {name: value for name, (value, _, _) in found.items()}
    if not placed:
        del found["wasserstein"]
        values["wasserstein"] = None
    return Sizes(values, {name: (low, high) for name, (_, low, high) in found.items()} if n else {}, n)


def largest(found: Sequence[Values]) -> Values:
    """Of each statistic the largest value that any of `found` has.

    >>> largest([{"tv": 0.1, "wasserstein": None}, {"tv": 0.2, "wasserstein": None}])
    {'tv': 0.2, 'wasserstein': None}
    """
    names = found[0] if found else ()
    return {name: max((v for values in found if (v := values[name]) is not None), default=None) for name in names}
