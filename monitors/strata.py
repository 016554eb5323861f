"""References by hour of the week: the season as a part of what no drift is.

Rows of an hour of the week are compared with reference rows of that hour. Where these are too few, hours share a
reference, in `STRATA`: the same hour of workdays and of weekends, then of all days. A feature has the coarsest strata
inside which no season is left beyond chance, so that its references are as sharp as can be, and none where all hours
together are alike.

An hour is one of 3,600 s since 1970 UTC; which hour of the week it is says the clock of a time zone as it begins.
"""

import math
from datetime import datetime
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from monitors.sampling import ALPHA, MAX_REFERENCE_ERROR, Expected, dispersion, reference_error

HOUR_S, DAY_S = 3600.0, 86400.0
HOURS = 168
FEWEST = 4  # hours of the reference in a stratum, and times a week must have been there
MOST_ROWS = 0.9  # of the reference's that must lie in strata large enough to be judged by
SURE = 4.4  # standard deviations: 1 in 1,000 for all 168 hours together
SLIGHT = 0.01  # of the rows; a season that moves less is none

By = Literal["hour of the week", "hour of workdays and weekends", "hour of the day"]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_WEEK = np.arange(HOURS)
STRATA: dict[By, NDArray[np.intp]] = {  # of each hour of the week, from Monday 0:00, its stratum; the finest first
    "hour of the week": _WEEK,
    "hour of workdays and weekends": _WEEK % 24 + 24 * (_WEEK >= 5 * 24),
    "hour of the day": _WEEK % 24,
}


class Whole(msgspec.Struct, frozen=True, kw_only=True):
    """What the law of a feature has where all hours are compared together, so that the season is in it."""

    design_effect: float
    dispersions: tuple[float, ...]
    correlation_s: float | UnsetType = UNSET
    unfit: str = ""


class Strata(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """The references of one feature by hour of the week."""

    by: By
    zone: str = "UTC"
    counts: tuple[tuple[int, ...], ...]  # of the reference rows by hour of the week and cell, shape (168, K)
    judged: tuple[int, ...]  # hours of the week, in increasing order; in the others the reference has too few rows
    whole: Whole

    @property
    def size(self) -> int:
        """Number of strata."""
        return int(STRATA[self.by].max()) + 1

    @cached_property
    def table(self) -> Ints:
        """Reference rows by stratum and cell, shape (strata, K)."""
        return summed(np.array(self.counts, np.int64), STRATA[self.by], self.size)

    @cached_property
    def theta(self) -> Floats:
        """By hour of the week, shape (168, K): as `Marginal.theta`, never 0."""
        theta = (self.table + 0.5) / (self.table.sum(1, keepdims=True) + 0.5 * self.table.shape[1])
        return np.asarray(theta[STRATA[self.by]])


class Fit(NamedTuple):
    """A reference's blocks against strata; arrays by hour of the week have shape (168, …)."""

    by: By
    counts: Ints  # of the hour itself, by cell
    shares: Floats  # of its stratum
    rows: Ints  # of its stratum
    judged: NDArray[np.bool_]
    expected: Expected  # of each block
    design_effect: float
    why: str  # it is not fine enough to judge by; empty where it is

    def strata(self, zone: str, whole: Whole) -> Strata:
        return Strata(
            by=self.by,
            zone=zone,
            counts=tuple(map(tuple, self.counts.tolist())),
            judged=tuple(np.flatnonzero(self.judged).tolist()),
            whole=whole,
        )


def hours_of_week(hours: Ints, zone: str = "UTC") -> NDArray[np.intp]:
    """The hour of the week, 0..167 from Monday 0:00, in which hours begin, counted from 1970 UTC; shapes (n,).

    Raises OverflowError, ValueError or OSError for an hour that no calendar has.

    >>> hours_of_week(np.array([0, 96])).tolist()  # a Thursday and a Monday
    [72, 0]
    >>> hours_of_week(np.array([490_992, 495_360]), "Europe/Berlin").tolist()  # Mondays, winter and summer of 2026
    [1, 2]
    """
    if zone == "UTC":
        return np.asarray((hours + 72) % HOURS, np.intp)
    distinct, place = np.unique(hours, return_inverse=True)
    return _local(np.asarray(distinct, np.int64).tobytes(), zone)[place]


@lru_cache(maxsize=4)  # all features of a reference have the same hours
def _local(hours: bytes, zone: str) -> NDArray[np.intp]:
    """As `hours_of_week`, of int64 in their bytes."""
    clock = ZoneInfo(zone)
    local = [datetime.fromtimestamp(hour * HOUR_S, clock) for hour in np.frombuffer(hours, np.int64).tolist()]
    return np.array([at.weekday() * 24 + at.hour for at in local], np.intp)


def is_zone(zone: str) -> bool:
    """
    >>> is_zone("Europe/Berlin"), is_zone("Europe/Atlantis")
    (True, False)
    """
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def within_hours(length_s: float) -> bool:
    """Whether spans of time of this length, laid end to end from 1970 on, never reach over an hour's end.

    >>> [within_hours(s) for s in (60.0, 900.0, 3600.0, 7200.0, 1000.0)]
    [True, True, True, False, False]
    """
    return HOUR_S % length_s == 0


def summed(counts: Ints, at: NDArray[np.intp], size: int) -> Ints:
    """The sums of the rows of `counts`, shape (n, K), that are at the same of `size` places; shape (size, K)."""
    return np.stack([np.bincount(at, column, size) for column in counts.T], 1).astype(np.int64)  # exact up to 2**53


def chosen(counts: Ints, hours: Ints, zone: str = "UTC", alpha: float = ALPHA) -> tuple[Fit | None, str]:
    """The strata of a reference, whose blocks have `counts`, shape (blocks, K), and lie in `hours`, shape (blocks,).

    The second says why there are none by hour of the week, where a season by it was not looked for; empty else.

    >>> rng = np.random.default_rng(1)
    >>> hours = np.arange(5 * 168)
    >>> day = np.where(hours % 24 < 12, 0.3, 0.6)
    >>> fit, why = chosen(np.stack([counts := rng.binomial(400, day), 400 - counts], 1), hours)
    >>> fit.by, why
    ('hour of the day', '')
    >>> chosen(rng.multinomial(400, [0.4, 0.6], len(hours)), hours)
    (None, '')
    """
    week, distinct = hours_of_week(hours, zone), hours_of_week(np.unique(hours), zone)
    fits = [_fit(by, counts, week, np.bincount(distinct, minlength=HOURS), alpha) for by in STRATA]
    usable = [fit for fit in fits if not fit.why]
    if not usable:
        return None, fits[0].why
    whole = np.broadcast_to(counts.sum(0) / counts.sum(), usable[0].shares.shape)
    if _explains(whole, usable[0]):
        return None, fits[0].why and f"no season is seen by {usable[0].by}; no finer, since {fits[0].why}"
    return next(fit for fit in reversed(usable) if _explains(fit.shares, usable[0])), fits[0].why


def _fit(by: By, counts: Ints, week: NDArray[np.intp], times: Ints, alpha: float) -> Fit:
    """`week`: each block's hour of the week; `times`: how often each was there, shape (168,)."""
    strata, size = STRATA[by], int(STRATA[by].max()) + 1
    table = summed(counts, strata[week], size)
    rows = table.sum(1)
    shares = table / np.maximum(rows, 1)[:, None]
    expected = Expected(shares[strata[week]], ((shares > 0) & (shares < 1)).sum(0))
    design_effect = dispersion(counts, expected)
    errors = np.array([reference_error(counts.shape[1], n / design_effect, alpha / size) for n in rows.tolist()])
    often = np.bincount(strata, times, size) >= FEWEST
    judged = often & (errors <= MAX_REFERENCE_ERROR)
    return Fit(
        by, summed(counts, week, HOURS), shares[strata], rows[strata], judged[strata], expected, design_effect,
        _why(rows, often, judged),
    )  # fmt: skip


def _why(rows: Ints, often: NDArray[np.bool_], judged: NDArray[np.bool_]) -> str:
    if rows[judged].sum() >= MOST_ROWS * rows.sum():
        return ""
    few = rows[often].sum() < MOST_ROWS * rows.sum()
    return f"the reference holds fewer than {FEWEST} of most hours" if few else "most hours have too few reference rows"


def _explains(coarse: Floats, fine: Fit) -> bool:
    """Whether all strata of `fine` lie within chance of the shares `coarse`, shape (168, K).

    Their total variation is compared with its mean under chance plus `SURE` standard deviations, by half-normal gaps.
    """
    some = fine.judged
    gap = np.abs(fine.shares[some] - coarse[some]).sum(1) / 2
    variance = coarse[some] * (1 - coarse[some]) * fine.design_effect / fine.rows[some, None]
    usual = math.sqrt(2 / math.pi) * np.sqrt(variance).sum(1)
    chance = (usual + SURE * np.sqrt((1 - 2 / math.pi) * variance.sum(1))) / 2
    return bool((gap <= chance + SLIGHT).all())
