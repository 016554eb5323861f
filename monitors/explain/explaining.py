"""Why an alarm is on: pure functions of the reference and of the counts of the last blocks."""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitors.drift.change import Onset, locate, starts
from monitors.drift.watch import WINDOW_BLOCKS, Past, total
from monitors.explain import cells
from monitors.explain.diagnoses import Diagnosis, Observed, diagnose, swapped_columns
from monitors.explain.explanation import Cell, Direction, Explanation, Point
from monitors.explain.wording import sentences
from monitors.marginal import Marginal

FEW = 10  # independent rows of a category expected and none there: it vanished
EVEN = 3.0  # times more rows moved one way than the other: a direction
MOST = 10  # features of a version that are explained at once
MOST_PAIRED = 30  # features in alarm among which swapped columns are looked for

Counts = NDArray[np.int64]


def explain(name: str, law: Marginal, past: Past, also: Sequence[Diagnosis] = ()) -> Explanation:
    """What changed in feature `name`, whose reference is `law`, by its kept blocks; `also` are diagnoses of several.

    Without an alarm nothing is said to have changed. Raises ValueError without a row.

    >>> from monitors.drift.watch import Watch
    >>> from monitors.reference import marginal
    >>> rng = np.random.default_rng(1)
    >>> watch = Watch(marginal(rng.normal(55, 10, size=5000), "numeric"), tolerance=0.02)
    >>> for day in range(12):
    ...     rows = rng.normal(55 if day < 6 else 48, 10, size=300)
    ...     _ = watch.judge(watch.law.count(rows), 86400.0 * (day + 1), threshold=7.0, quiet_blocks=10)
    >>> found = explain("temp", watch.law, watch.past(threshold=7.0))
    >>> found.onset.at / 86400, found.direction, [round(median.value) for median in found.median]
    (6.0, 'lower', [55, 48])
    """
    if past.empty:
        raise ValueError(f"feature {name!r} has no row in its last {len(past.counts)} blocks")
    first, again = _changes(law, past)
    seen = _observed(law, past, again or first)
    explanation = Explanation(
        feature=name,
        kind=law.kind,
        alarm=past.since is not None,
        since=past.since,
        onset=first,
        again=again,
        rows=int(seen.counts.sum()),
        blocks=len(past.counts[_since(again or first, past.ends)]),
        direction=_direction(seen.law, seen.counts),
        moved=float(np.abs(_shares(seen.counts) - _shares(seen.law.counts)).sum() / 2),
        median=_medians(seen.law, seen.counts),
        cells=_cells(seen.law, seen.counts),
        vanished=_vanished(seen),
        diagnoses=(*also, *diagnose(seen)),
        evidence=tuple(Point(end, nats) for end, nats in zip(past.ends, past.log_e, strict=False)),
        threshold=past.threshold,
    )
    return msgspec.structs.replace(explanation, text=sentences(explanation))


def explain_version(laws: Mapping[str, Marginal], pasts: Mapping[str, Past]) -> list[Explanation]:
    """Its features in alarm, at most `MOST`, the strongest evidence first; what only several of them show is added.

    One whose past is empty is left out.
    """
    names = [name for name in ranked(pasts) if name in laws and pasts[name].since is not None and not pasts[name].empty]
    seen = {name: _observed(laws[name], pasts[name], pasts[name].onset) for name in names[:MOST_PAIRED]}
    swaps = swapped_columns(seen)
    return [explain(name, laws[name], pasts[name], [swaps[name]] if name in swaps else []) for name in names[:MOST]]


def ranked(pasts: Mapping[str, Past]) -> list[str]:
    """The features by the largest evidence of their kept blocks, the strongest first."""
    return sorted(pasts, key=lambda name: (-max(pasts[name].log_e, default=0.0), name))


def _changes(law: Marginal, past: Past) -> tuple[Onset | None, Onset | None]:
    """When it changed, and when it changed again and more while the alarm was on."""
    if past.since is None:
        return None, None
    counts = np.array(past.counts, np.int64)
    largest = locate(law, counts, past.ends, past.design_effect(law), past.hours)
    return past.onset or largest, largest if past.since <= largest.earliest else None


def _observed(law: Marginal, past: Past, change: Onset | None) -> Observed:
    """The newest rows; where hours are compared apart, against the reference of these hours."""
    newest = _since(change, past.ends)
    counts = np.array(past.counts, np.int64)[newest]
    return Observed(law.mixed(total(past.hours[newest])), counts.sum(0), past.design_effect(law))


def _since(onset: Onset | None, ends: Sequence[float]) -> slice:
    """The last blocks, of those that began after the change."""
    after = sum(start >= onset.at for start in starts(ends)) if onset else len(ends)
    return slice(-min(WINDOW_BLOCKS, max(1, after)), None)


def _cells(law: Marginal, now: Counts) -> tuple[Cell, ...]:
    before, after = _shares(law.counts), _shares(now)
    moved = np.abs(after - before)
    parts = moved / max(float(moved.sum()), 1e-300)
    rows = zip(cells.names(law), before.tolist(), after.tolist(), parts.tolist(), strict=True)
    return tuple(Cell(*row) for row in rows)


def _direction(law: Marginal, now: Counts) -> Direction:
    """Of the values that are there: rows that moved up against rows that moved down."""
    if law.kind == "categorical":
        return "categories"
    before, after = _shares(law.counts[:-1]), _shares(now[:-1])
    gap = np.cumsum(before - after)
    up, down = float(gap.clip(min=0).sum()), float((-gap).clip(min=0).sum())
    if up > EVEN * down:
        return "higher"
    if down > EVEN * up:
        return "lower"
    third = max(1, len(before) // 3)
    outer = np.r_[0:third, len(before) - third : len(before)]
    more = float((after - before)[outer].sum())
    if abs(more) < float(np.abs(after - before).sum()) / 4:
        return "otherwise"
    return "wider" if more > 0 else "narrower"


def _medians(law: Marginal, now: Counts) -> tuple[cells.Median, cells.Median] | None:
    before, after = cells.median(law, law.counts), cells.median(law, now)
    return (before, after) if before and after else None


def _vanished(seen: Observed) -> tuple[str, ...]:
    expected = _shares(seen.law.counts) * seen.counts.sum() / seen.design_effect
    gone = (seen.counts == 0) & (expected >= FEW)
    return tuple(cells.names(seen.law)[k] for k in np.flatnonzero(gone[: len(seen.law.categories)]))


def _shares(counts: Sequence[int] | Counts) -> NDArray[np.float64]:
    rows = np.asarray(counts, np.float64)
    share: NDArray[np.float64] = rows / max(1.0, float(rows.sum()))
    return share
