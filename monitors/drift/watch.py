"""One feature under watch, and the average over all of them: evidence, alarm, effect sizes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitors.alarm import Alarm, Severity
from monitors.drift import EFFECTS, season
from monitors.drift.change import Onset, locate
from monitors.drift.e_detector import CLIPS, Bettor, BlockBettor, Floats, accumulated, log_mean_exp
from monitors.drift.effects import Seen, Side, Sizes, effects, largest
from monitors.drift.tempering import live_design_effect, scaled, shown
from monitors.reference import Marginal
from monitors.sampling import MIN_BLOCKS, dispersion_of_each

WINDOW_BLOCKS = 10  # judged blocks behind an effect size
KEPT_BLOCKS = 40  # judged blocks among which a change is looked for

Cells = NDArray[np.int64]  # rows of a block by cell, shape (K,)
Hours = Mapping[int, Cells]  # by hour of the week


class DriftVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """Of one feature, or of `_all`. Evidence and threshold in nats."""

    log_e: float  # when the newest block was judged; if it reached the threshold, it begins again at 0
    threshold: float
    alarm: bool  # stays until enough quiet blocks
    psi: float = 0.0  # effect sizes over the last `WINDOW_BLOCKS` judged blocks, n rows
    ks: float = 0.0
    js: float = 0.0
    wasserstein: float | None = None  # None where values have no distance: categories, a constant, an older profile
    hellinger: float = 0.0
    tv: float = 0.0
    chi2: float = 0.0
    intervals: dict[str, tuple[float, float]] = {}  # by effect size, at `CONFIDENCE`
    n: int = 0
    since: float | None = None  # end of the block that raised the alarm, seconds since 1970 UTC
    blocks: int = 0  # judged so far
    note: str = ""  # why it is not judged
    severity: Severity = "info"
    promise: str = ""  # how rare false alarms of it are, and what that rests on
    season: str = ""  # by which hours it is compared with the reference; empty: all of them together


class Past(msgspec.Struct, frozen=True, kw_only=True):
    """What an alarm of one feature is explained from: its kept blocks, oldest first."""

    counts: list[list[int]]  # shape (blocks, K)
    ends: list[float]  # seconds since 1970 UTC
    log_e: list[float]  # evidence in nats when the block was judged
    threshold: float
    since: float | None  # end of the block that raised the alarm
    onset: Onset | None  # when it changed, as the alarm was raised
    split: float  # as of the watch
    hours: list[dict[int, int]] = []  # rows by hour of the week, as of the watch

    @property
    def empty(self) -> bool:
        """Whether it has no row: no block is kept, as in the state of an earlier release, or none with a row."""
        return not any(map(any, self.counts))

    def design_effect(self, law: Marginal) -> float:
        """Of a block as large as these are on average."""
        counts = np.array(self.counts, np.int64).reshape(-1, law.size)
        rows, newest = int(counts.sum() / max(1, len(counts))), slice(-WINDOW_BLOCKS, None)
        return live_design_effect(law, rows, counts[newest], self.split, self.hours[newest])


class SavedWatch(msgspec.Struct, array_like=True):
    """A watch as it is stored: float64 and integers, exactly. `window`, `ends` and `evidence` are of kept blocks."""

    q: list[float]
    s: list[float]
    share: list[float]
    window: list[list[int]]
    alarm: Alarm
    log_e: float = 0.0
    blocks: int = 0
    ends: list[float] = []
    evidence: list[float] = []
    onset: Onset | None = None
    hours: list[dict[int, int]] = []  # of kept blocks, rows by hour of the week; {}: not known. Empty: not apart


class Taken(NamedTuple):
    """The rows of one feature that are judged; where hours are apart those of hours that have a reference."""

    counts: Cells  # shape (K,)
    hours: tuple[int, ...] = ()  # of the week, in increasing order
    parts: Cells | None = None  # by hour and cell, shape (H, K)

    @property
    def rows(self) -> dict[int, int]:
        """By hour of the week."""
        return {} if self.parts is None else dict(zip(self.hours, self.parts.sum(1).tolist(), strict=True))


def taken_of(law: Marginal, counts: Cells | Hours | None) -> Taken | None:
    """What of a feature's rows in a block is judged, None where there is nothing; `counts` as from `Counts.of`."""
    if counts is None or isinstance(counts, np.ndarray):
        return None if counts is None or not counts.any() else Taken(counts)
    judged = law.strata.judged if law.strata else ()
    hours = tuple(hour for hour in judged if hour in counts and counts[hour].any())
    if not hours:
        return None
    parts = np.stack([counts[hour] for hour in hours])
    return Taken(parts.sum(0), hours, parts)


class Watch:
    """One feature. `s` is its own evidence; `share` what it lends to `_all`, which restarts on its own alarms."""

    def __init__(self, law: Marginal, tolerance: float, split: float = 1.0, unit: str = "row") -> None:
        """`split` is into how many of the blocks judged here time cuts a block of the reference, at least 1."""
        self.law, self.fit = law, not law.unfit
        self._split = split
        self.share = np.zeros(len(CLIPS))
        self._reference = Side.of(law)
        self.bettor = (BlockBettor if unit == "block" else Bettor)(law.theta, min(1.0, tolerance + law.error))
        self._tolerances = np.minimum(1.0, tolerance + law.hour_errors) if law.strata else np.empty(0)
        self._state = SavedWatch([], [0.0] * len(CLIPS), [], [], Alarm())
        self._shown: float | None = None  # the design effect that the newest judged blocks show; None: not looked at
        self._recent: NDArray[np.int64] | None = None  # see `_past`

    def judge(self, counts: Cells | Hours | None, at: float, threshold: float, quiet_blocks: int) -> bool:
        """As `judge` of several features."""
        return judge([self], [counts], at, threshold, quiet_blocks)

    def close(self, taken: Taken, at: float, threshold: float, quiet_blocks: int) -> None:
        """A block ended, and was bet on where the feature is fit."""
        self._state.blocks += 1
        self._keep(taken, at)
        if self.fit:
            self._raise(self._state.log_e >= threshold, at, quiet_blocks)

    def reset(self) -> None:
        """No evidence, no alarm, no belief but the reference."""
        self.share, self.bettor.q = np.zeros(len(CLIPS)), self.law.theta
        zero = [0.0] * len(CLIPS)
        self._state = msgspec.structs.replace(self._state, s=zero, alarm=Alarm(), log_e=0.0, onset=None)

    def fade(self, nats: float) -> None:
        """The threshold fell by so much, and the evidence with it: else what was gathered under it would count more."""
        self._state.s = [s - nats for s in self._state.s]
        self.share = self.share - nats

    def seen(self) -> Seen:
        """The newest judged blocks, for the effect sizes."""
        past = self._past()
        counts = past.sum(0)
        side = self._reference.among(self.law, total(self._hours(WINDOW_BLOCKS)))
        return Seen(side, counts, self.design_effect(int(counts.sum() / max(1, len(past)))))

    def verdict(self, threshold: float, sizes: Sizes | None = None) -> DriftVerdict:
        """`sizes` are those of what was `seen`, where they are at hand: those of many features come together."""
        state, sizes = self._state, sizes or effects([self.seen()])[0]
        return DriftVerdict(
            log_e=state.log_e,
            threshold=threshold,
            alarm=state.alarm.on,
            n=sizes.n,
            since=state.alarm.since,
            blocks=state.blocks,
            note=self.law.unfit,
            intervals=sizes.intervals,
            season=self.law.strata.by if self.law.strata else "",
            **sizes.values,
        )

    def past(self, threshold: float) -> Past:
        """What its alarm is explained from."""
        state = self._state
        return Past(
            counts=state.window[len(state.window) - len(state.ends) :],  # an earlier release kept blocks without ends
            ends=state.ends,
            log_e=state.evidence,
            threshold=threshold,
            since=state.alarm.since,
            onset=state.onset,
            split=self._split,
            hours=self._hours(len(state.ends)),
        )

    def save(self) -> SavedWatch:
        return msgspec.structs.replace(self._state, q=self.bettor.q.tolist(), share=self.share.tolist())

    def load(self, saved: SavedWatch) -> None:
        self._state, self.bettor.q, self.share = saved, np.array(saved.q), np.array(saved.share)
        self._shown = self._recent = None

    def fits(self, saved: SavedWatch) -> bool:
        return len(saved.q) == self.law.size and len(saved.s) == len(saved.share) == len(CLIPS)

    def _past(self) -> NDArray[np.int64]:
        """Counts of the last judged blocks, shape (blocks, K)."""
        if self._recent is None:
            self._recent = np.array(self._state.window[-WINDOW_BLOCKS:], np.int64).reshape(-1, self.law.size)
        return self._recent

    def to_look_at(self) -> NDArray[np.int64] | None:
        """The blocks that `design_effect` will look at, where no hours are apart; None: there is nothing to look at."""
        past, law = self._past(), self.law
        in_blocks = law.block_rows > 1
        return past if self._shown is None and in_blocks and not law.strata and len(past) >= MIN_BLOCKS else None

    def looked(self, shown: float) -> None:
        """What they show."""
        self._shown = shown

    def design_effect(self, rows: int) -> float:
        """Of a block of so many rows, by the blocks judged before it."""
        if self._shown is None:
            past = self._past()
            self._shown = shown(self.law, past, self._hours(len(past)))
        return scaled(self.law, rows, self._shown, self._split)

    def gain(self, s: Floats, share: Floats, q: Floats, log_e: float) -> None:
        """What the bet on a block came to."""
        self._state.s, self._state.log_e, self.share, self.bettor.q = s.tolist(), log_e, share, q

    @property
    def s(self) -> list[float]:
        return self._state.s

    def hourly(self, hours: Sequence[int]) -> tuple[Floats, Floats]:
        """Laws and tolerances of hours of the week, shapes (H, K) and (H,)."""
        assert self.law.strata
        return self.law.strata.theta[list(hours)], self._tolerances[list(hours)]

    def _hours(self, blocks: int) -> list[dict[int, int]]:
        """Rows by hour of the week of the newest so many kept blocks; none where hours are not apart."""
        if not self.law.strata:
            return []
        known = self._state.hours[-blocks:] if blocks else []
        return [*({} for _ in range(min(blocks, len(self._state.window)) - len(known))), *known]

    def _keep(self, taken: Taken, at: float) -> None:
        self._recent = np.concatenate([self._past(), taken.counts[None]])[-WINDOW_BLOCKS:]
        state, self._shown = self._state, None
        state.window = [*state.window, taken.counts.tolist()][-KEPT_BLOCKS:]
        if self.law.strata:
            state.hours = [*state.hours, taken.rows][-KEPT_BLOCKS:]
        state.ends = [*state.ends, at][-KEPT_BLOCKS:]
        state.evidence = [*state.evidence, state.log_e][-KEPT_BLOCKS:]

    def _raise(self, crossed: bool, at: float, quiet_blocks: int) -> None:
        """Raise the alarm or clear it. What was before a quiet time is no part of a change to come."""
        state, was_on = self._state, self._state.alarm.on
        if crossed:
            state.s = [0.0] * len(CLIPS)
        state.alarm.update(crossed, at, quiet_blocks, state.log_e)
        if state.alarm.on and not was_on:
            past = self.past(0.0)
            design_effect = past.design_effect(self.law)
            state.onset = locate(self.law, np.array(past.counts), past.ends, design_effect, past.hours)
        elif was_on and not state.alarm.on:
            state.onset, quiet = None, slice(-max(quiet_blocks, WINDOW_BLOCKS), None)
            state.window, state.ends, state.evidence = state.window[quiet], state.ends[quiet], state.evidence[quiet]
            state.hours = state.hours[quiet]


def judge(
    watches: Sequence[Watch], counts: Sequence[Cells | Hours | None], at: float, threshold: float, quiet_blocks: int
) -> bool:
    """Judge a block that ended at `at`: of each feature its counts, None where no row had it; by hour of the week of
    features whose hours are compared apart.

    Returns whether there was anything to bet on. A block without rows is not a quiet one: it clears no alarm.
    """
    pairs = zip(watches, counts, strict=True)
    there = [(watch, taken) for watch, cells in pairs if (taken := taken_of(watch.law, cells))]
    fit = [(watch, taken) for watch, taken in there if watch.fit]
    for kind in sorted({(watch.law.size, taken.hours) for watch, taken in fit}):
        _bet([(watch, taken) for watch, taken in fit if (watch.law.size, taken.hours) == kind])
    for watch, taken in there:
        watch.close(taken, at, threshold, quiet_blocks)
    return bool(fit)


def look(watches: Iterable[Watch]) -> None:
    """See how clustered the rows of the newest blocks are; many features at once cost little more than one."""
    alike: dict[tuple[int, ...], list[tuple[Watch, NDArray[np.int64]]]] = {}
    for watch in watches:
        if (past := watch.to_look_at()) is not None:
            alike.setdefault(past.shape, []).append((watch, past))
    for found in alike.values():
        shown = dispersion_of_each(np.stack([past for _, past in found])).tolist()
        for (watch, _), one in zip(found, shown, strict=True):
            watch.looked(one)


def lent(watches: Mapping[str, Watch]) -> dict[str, float]:
    """What each feature that can be judged gives to the evidence of `_all`, in nats; at least one can."""
    shares = {name: watch.share for name, watch in watches.items() if watch.fit}
    return dict(zip(shares, log_mean_exp(np.stack(list(shares.values()))).tolist(), strict=True))


def _bet(features: Sequence[tuple[Watch, Taken]]) -> None:
    """Bet on features of as many cells and of the same hours side by side, which costs little more than one."""
    bettors = [watch.bettor for watch, _ in features]
    bettor = type(bettors[0])(np.stack([b.theta for b in bettors]), np.array([b.tolerance for b in bettors]))
    bettor.q = np.stack([b.q for b in bettors])
    design_effects = np.array([watch.design_effect(int(taken.counts.sum())) for watch, taken in features])
    if hours := features[0][1].hours:
        theta, tolerance = map(np.stack, zip(*(watch.hourly(hours) for watch, _ in features), strict=True))
        parts = np.stack([taken.parts for _, taken in features if taken.parts is not None])
        won = season.bet(bettor, theta, tolerance, parts, design_effects)
    else:
        won = bettor.update(np.stack([taken.counts for _, taken in features]), design_effects)
    s = accumulated(np.array([watch.s for watch, _ in features]), won)
    share = accumulated(np.stack([watch.share for watch, _ in features]), won)
    evidence = log_mean_exp(s).tolist()
    for k, (watch, _) in enumerate(features):
        watch.gain(s[k], share[k], bettor.q[k], evidence[k])


def total(hours: Sequence[Mapping[int, int]]) -> dict[int, int]:
    """Rows by hour of the week of several blocks."""
    found: dict[int, int] = {}
    for block in hours:
        for hour, rows in block.items():
            found[hour] = found.get(hour, 0) + rows
    return found


class SavedAll(msgspec.Struct, array_like=True):
    alarm: Alarm
    log_e: float = 0.0
    blocks: int = 0


class AllWatch:
    """The mean of the features' detectors, itself a detector whatever their dependence: one alarm pays for all."""

    def __init__(self) -> None:
        self._state = SavedAll(Alarm())

    def judge(self, watches: Sequence[Watch], at: float, threshold: float, quiet_blocks: int) -> None:
        """After the watches bet on the block that ended at `at`, one of them at least."""
        fit, state = [watch for watch in watches if watch.fit], self._state
        state.log_e = float(log_mean_exp(np.concatenate([watch.share for watch in fit])))
        state.blocks += 1
        crossed = state.log_e >= threshold
        if crossed:
            for watch in fit:
                watch.share = np.zeros(len(CLIPS))
        state.alarm.update(crossed, at, quiet_blocks, state.log_e)

    @property
    def alarm(self) -> bool:
        return self._state.alarm.on

    @property
    def blocks(self) -> int:
        """Judged so far."""
        return self._state.blocks

    def reset(self) -> None:
        """No evidence, no alarm."""
        self._state = msgspec.structs.replace(self._state, alarm=Alarm(), log_e=0.0)

    def verdict(self, threshold: float, parts: Sequence[DriftVerdict]) -> DriftVerdict:
        """Effect sizes are the largest of the features', without intervals, which would have to know that they were
        chosen for their size; n is the largest of their numbers of rows.
        """
        state, found = self._state, [{name: getattr(part, name) for name in EFFECTS} for part in parts]
        return DriftVerdict(
            log_e=state.log_e,
            threshold=threshold,
            alarm=state.alarm.on,
            n=max((part.n for part in parts), default=0),
            since=state.alarm.since,
            blocks=state.blocks,
            note="" if any(not part.note for part in parts) else "no feature can be judged",
            **largest(found),
        )

    def save(self) -> SavedAll:
        return self._state

    def load(self, saved: SavedAll) -> None:
        self._state = saved
