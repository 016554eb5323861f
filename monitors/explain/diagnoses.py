"""Faults of data that have a name, told from the counts of a feature's cells alone.

Each diagnosis is a hypothesis that says what shares the cells would have: the reference in another unit, another
feature's reference, the reference by another clock. It is named when the rows fit that, and fit the reference badly:
total variation at most `FIT` from the one, at least `FAR` from the other, both widened by what so few rows leave to
chance. Missing rows are left out of both, but where they are what is asked about.
"""

import math
from collections.abc import Callable, Mapping
from itertools import combinations, permutations
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitors.explain.cells import names, number, percent
from monitors.explain.points import Floats, Points, points
from monitors.marginal import Marginal
from monitors.sampling import reference_error

FIT = 0.1  # total variation from the hypothesis, beyond chance: inside a bin the reference is not known
FAR = 0.15  # from the reference, and three times as far as from the hypothesis
VAGUE = 0.15  # total variation by which chance may move the rows; with more of it nothing is named
JUMP = 0.05  # of the rows: missing, unseen, or in one cell
FILLED = 0.7  # of the rows in one cell beyond its own; with more of them it is another fault
STUCK = 0.97  # of the rows that are not missing in one cell, of which the reference has half as many at most
BEYOND = 0.9  # of the rows outside the reference's range: how far outside is not known
TIE = 3.0  # nats less than the best factor: as good
CLOSER = 0.015  # total variation by which one turn of the clock fits better than the next best
_FLOOR = 0.01  # of the rows may be anything


class Unit(NamedTuple):
    """x -> factor x + offset, for a reference that lies in `low` to `high`."""

    factor: float
    offset: float = 0.0
    near: float = 2.0  # factors that fit as well lie at most this close around it
    low: float = -math.inf
    high: float = math.inf


UNITS: dict[str, Unit] = {
    "10 times as large": Unit(10),
    "100 times as large": Unit(100),
    "1,000 times as large": Unit(1000),
    "a tenth as large": Unit(1 / 10),
    "a hundredth as large": Unit(1 / 100),
    "a thousandth as large": Unit(1 / 1000),
    "in kilometres in place of miles": Unit(1.609344, near=1.08),
    "in miles in place of kilometres": Unit(1 / 1.609344, near=1.08),
    "in Fahrenheit in place of Celsius": Unit(1.8, 32, near=1.25, low=-90, high=60),
    "in Celsius in place of Fahrenheit": Unit(1 / 1.8, -32 / 1.8, near=1.25, low=-130, high=140),
}
DEFAULTS = (0.0, -1.0, -999.0, 999.0, -9999.0, 9999.0)  # what stands for "unknown" where nothing else does
_FACTORS = np.geomspace(1 / 2000, 2000, 601)  # 2.6 % apart


class Diagnosis(msgspec.Struct, frozen=True):
    """`name` is a key of `DIAGNOSES`, or `swapped_columns`."""

    name: str
    sentence: str


class Observed(NamedTuple):
    """Rows per cell of one feature, shape (K,), and how many of them are worth one independent row."""

    law: Marginal
    counts: NDArray[np.int64]
    design_effect: float = 1.0

    @property
    def shares(self) -> Floats:
        """Without the missing rows, whose cell is the last, shape (K-1,)."""
        return _normed(self.counts[:-1].astype(np.float64))

    @property
    def reference(self) -> Floats:
        return _normed(np.array(self.law.counts[:-1], np.float64))

    @property
    def missing(self) -> float:
        return float(self.counts[-1] / max(1, self.counts.sum()))

    @property
    def chance(self) -> float:
        """Total variation by which the rows may differ from their law, and the reference from its own."""
        rows = float(self.counts[:-1].sum()) / self.design_effect
        size = int(((self.counts + np.array(self.law.counts)) > 0).sum())
        return reference_error(size, rows, self.law.alpha) + reference_error(
            size, self.law.effective_rows, self.law.alpha
        )

    def fits(self, shares: Floats) -> bool:
        """Whether these shares, shape (K,), explain the rows, and the reference does not."""
        near, far = _apart(self.shares, _normed(shares[:-1])), _apart(self.shares, self.reference)
        return self.chance <= VAGUE and near <= FIT + self.chance / 2 and far >= max(FAR + self.chance / 2, 3 * near)

    def likelihood(self, shares: Floats) -> float:
        """Of the rows in nats, if these are the shares, shape (K,)."""
        p = (1 - _FLOOR) * _normed(shares[:-1]) + _FLOOR / (len(shares) - 1)
        return float((self.counts[:-1] * np.log(p)).sum() / self.design_effect)


def unit_change(seen: Observed) -> Diagnosis | None:
    """The values come in another unit: one of `UNITS` fits, and no other factor than its own fits as well."""
    if seen.law.kind != "numeric" or _beyond(seen) >= BEYOND:
        return None
    fitting = {unit: shares for unit, shares in _units(seen).items() if seen.fits(shares)}
    if not fitting:
        return None
    best = max(fitting, key=lambda unit: seen.likelihood(fitting[unit]))
    if not _sharp(seen, UNITS[best]):
        return None
    return Diagnosis("unit_change", f"The unit changed: the values look like the reference's, {best}.")


def out_of_range(seen: Observed) -> Diagnosis | None:
    """Nearly all values lie outside the reference's range; whichever unit would put them there is said."""
    if seen.law.kind != "numeric" or _beyond(seen) < BEYOND or seen.reference[[0, -1]].sum() > JUMP:
        return None
    high = seen.shares[-1] > 0.5
    end = f"above {number(seen.law.high)}" if high else f"below {number(seen.law.low)}"
    units = [unit for unit, shares in _units(seen).items() if seen.fits(shares)]
    guess = f" Another unit would do that ({'; '.join(units)}), and so would any large move." if units else ""
    return Diagnosis("out_of_range", f"{percent(_beyond(seen))} of the values lie {end}, where the reference ends."
                                     f"{guess}")  # fmt: skip


def hours_shifted(seen: Observed) -> Diagnosis | None:
    """An hour of the day by another clock: the reference turned by some hours fits, and no other turn as well."""
    law = seen.law
    if law.kind != "numeric" or not (0 <= law.low <= 6 and 18 <= law.high <= 24):
        return None
    source = points(law)
    turned = {h: Points((source.values + h) % 24, source.weights).shares(law) for h in range(-11, 13)}
    away = {h: _apart(seen.shares, _normed(shares[:-1])) for h, shares in turned.items()}
    best, second = sorted(away, key=lambda h: away[h])[:2]
    if best == 0 or not seen.fits(turned[best]) or away[second] - away[best] < CLOSER:
        return None
    return Diagnosis("hours_shifted", f"The hours are those of another clock: {best:+d} h fits"
                                      " (time zone, daylight saving).")  # fmt: skip


def stuck_value(seen: Observed) -> Diagnosis | None:
    """One cell has nearly all rows. Of a number the cell is not that below or above the range."""
    first, last = (1, -1) if seen.law.kind == "numeric" else (0, -2)
    inside = seen.shares[first:last]
    if seen.chance > VAGUE or not len(inside) or inside.max() < STUCK:
        return None
    cell = first + int(np.argmax(inside))
    if seen.reference[cell] > seen.shares[cell] / 2:
        return None
    return Diagnosis("stuck_value", f"The value is stuck: {percent(seen.shares[cell])} of the rows have"
                                    f" {_value(seen.law, cell)}.")  # fmt: skip


def default_imputed(seen: Observed) -> Diagnosis | None:
    """One cell grew and the others kept their proportions: it holds a usual default, or missing values went there."""
    shares, before = seen.shares, seen.reference
    cell = int(np.argmax(shares - before))
    if seen.chance > VAGUE or before[cell] > 1 - JUMP:
        return None
    filled = float((shares[cell] - before[cell]) / (1 - before[cell]))
    mixed = (1 - filled) * before
    mixed[cell] += filled
    if not JUMP + seen.chance <= filled <= FILLED or _apart(shares, mixed) > min(FIT, filled / 3) + seen.chance / 2:
        return None
    was = seen.law.counts[-1] / max(1, seen.law.rows)
    emptied = was >= JUMP and seen.missing <= was / 3
    defaults = [number(value) for value in DEFAULTS if _holds(seen.law, cell, value)]
    if not emptied and not defaults:
        return None
    where = _value(seen.law, cell) + (f" (perhaps {' or '.join(defaults)})" if defaults else "")
    fell = f" while missing values fell from {percent(was)} to {percent(seen.missing)}" if emptied else ""
    return Diagnosis("default_imputed", f"A default seems to be filled in: {percent(filled)} of the rows came to have"
                                        f" {where}{fell}; the others are as before.")  # fmt: skip


def missing_jumped(seen: Observed) -> Diagnosis | None:
    """More values are missing than in the reference, and at least twice as many."""
    rows, was = int(seen.counts.sum()), seen.law.counts[-1] / max(1, seen.law.rows)
    by_chance = 3 * math.sqrt(max(was, 1 / max(1, rows)) * seen.design_effect / max(1, rows))
    if seen.missing < max(was + JUMP + by_chance, 2 * was):
        return None
    return Diagnosis("missing_jumped", f"{percent(seen.missing)} of the values are missing; in the reference"
                                       f" {percent(was)} were.")  # fmt: skip


def new_category(seen: Observed) -> Diagnosis | None:
    """Values that the reference lacks have come. Which ones is not kept."""
    if seen.law.kind != "categorical":
        return None
    now, was, rows = float(seen.shares[-1]), float(seen.reference[-1]), max(1, int(seen.counts[:-1].sum()))
    if now < max(was + JUMP + 3 * math.sqrt(max(was, 1 / rows) * seen.design_effect / rows), 2 * was):
        return None
    return Diagnosis("new_category", f"{percent(now)} of the values are ones that the reference lacks; there"
                                     f" {percent(was)} were seen once only.")  # fmt: skip


DIAGNOSES: dict[str, Callable[[Observed], Diagnosis | None]] = {
    "unit_change": unit_change,
    "out_of_range": out_of_range,
    "hours_shifted": hours_shifted,
    "stuck_value": stuck_value,
    "default_imputed": default_imputed,
    "missing_jumped": missing_jumped,
    "new_category": new_category,
}


def diagnose(seen: Observed) -> tuple[Diagnosis, ...]:
    """All that fit.

    >>> from monitors.reference import marginal
    >>> rng = np.random.default_rng(1)
    >>> law = marginal(rng.lognormal(3, 1, size=5000), "numeric")
    >>> diagnose(Observed(law, law.count(rng.lognormal(3, 1, size=3000) * 10)))[0].sentence
    "The unit changed: the values look like the reference's, 10 times as large."
    >>> diagnose(Observed(law, law.count(rng.lognormal(3, 1, size=3000))))
    ()
    """
    if not seen.counts.any() or not seen.law.rows:
        return ()
    return tuple(found for of in DIAGNOSES.values() if (found := of(seen)) is not None)


def swapped_columns(features: Mapping[str, Observed]) -> dict[str, Diagnosis]:
    """Pairs of features of one kind, each of which has the other's reference law, by either name."""
    found = {}
    for a, b in combinations(features, 2):
        if all(_is_other(features[one], features[other].law) for one, other in permutations((a, b))):
            for one, other in permutations((a, b)):
                found[one] = Diagnosis("swapped_columns", f"The columns {one} and {other} seem to be swapped: each"
                                                          " has the values of the other.")  # fmt: skip
    return found


def _is_other(seen: Observed, other: Marginal) -> bool:
    law = seen.law
    same = (law.kind, law.dtype == "text") == (other.kind, other.dtype == "text")
    return same and bool(other.rows) and bool(seen.counts.any()) and seen.fits(points(other).shares(law))


def _units(seen: Observed) -> dict[str, Floats]:
    source = points(seen.law)
    return {
        name: Points(unit.factor * source.values + unit.offset, source.weights).shares(seen.law)
        for name, unit in UNITS.items()
        if unit.low <= seen.law.low and seen.law.high <= unit.high
    }


def _sharp(seen: Observed, unit: Unit) -> bool:
    """Whether the rows tell this unit's factor from others."""
    source = points(seen.law)
    values = unit.factor * source.values
    images = [Points(f * values + unit.offset, source.weights).shares(seen.law) for f in _FACTORS]
    liked = np.array([seen.likelihood(shares) for shares in images])
    as_good = _FACTORS[liked >= liked.max() - TIE]
    return bool(as_good.max() <= unit.near and as_good.min() >= 1 / unit.near)


def _beyond(seen: Observed) -> float:
    return float(seen.shares[0] + seen.shares[-1]) if seen.law.kind == "numeric" else 0.0


def _holds(law: Marginal, cell: int, value: float) -> bool:
    """Whether a number's cell is where a default would fall."""
    return law.kind == "numeric" and int(law.cells(np.array([value]))[0]) == cell


def _value(law: Marginal, cell: int) -> str:
    name = names(law)[cell]
    if law.kind == "categorical":
        return f"the value {name}"
    return f"a value {name}" if cell in (0, law.size - 2) else f"a value of {name}"


def _normed(rows: Floats) -> Floats:
    total = rows.sum()
    return rows / total if total else rows


def _apart(p: Floats, q: Floats) -> float:
    """Total variation."""
    return float(np.abs(p - q).sum() / 2)
