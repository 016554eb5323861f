"""One feature under watch, and the average over all of them: evidence, alarm, effect sizes."""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitors.alarm import Alarm, Severity
from monitors.drift import EFFECTS
from monitors.drift.change import Onset, locate
from monitors.drift.e_detector import CLIPS, Bettor, BlockBettor, Floats, accumulated, log_mean_exp
from monitors.drift.effects import Seen, Side, Sizes, effects, largest
from monitors.drift.tempering import live_design_effect, scaled, shown
from monitors.reference import Marginal

WINDOW_BLOCKS = 10  # judged blocks behind an effect size
KEPT_BLOCKS = 40  # judged blocks among which a change is looked for


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


class Past(msgspec.Struct, frozen=True, kw_only=True):
    """What an alarm of one feature is explained from: its kept blocks, oldest first."""

    counts: list[list[int]]  # shape (blocks, K)
    ends: list[float]  # seconds since 1970 UTC
    log_e: list[float]  # evidence in nats when the block was judged
    threshold: float
    since: float | None  # end of the block that raised the alarm
    onset: Onset | None  # when it changed, as the alarm was raised
    split: float  # as of the watch

    @property
    def empty(self) -> bool:
        """Whether it has no row: no block is kept, as in the state of an earlier release, or none with a row."""
        return not any(map(any, self.counts))

    def design_effect(self, law: Marginal) -> float:
        """Of a block as large as these are on average."""
        counts = np.array(self.counts, np.int64).reshape(-1, law.size)
        return live_design_effect(law, int(counts.sum() / max(1, len(counts))), counts[-WINDOW_BLOCKS:], self.split)


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


class Watch:
    """One feature. `s` is its own evidence; `share` what it lends to `_all`, which restarts on its own alarms."""

    def __init__(self, law: Marginal, tolerance: float, split: float = 1.0, unit: str = "row") -> None:
        """`split` is into how many of the blocks judged here time cuts a block of the reference, at least 1."""
        self.law, self.fit = law, not law.unfit
        self._split = split
        self.share = np.zeros(len(CLIPS))
        self._reference = Side.of(law)
        self.bettor = (BlockBettor if unit == "block" else Bettor)(law.theta, min(1.0, tolerance + law.error))
        self._state = SavedWatch([], [0.0] * len(CLIPS), [], [], Alarm())
        self._shown: float | None = None  # the design effect that the newest judged blocks show; None: not looked at

    def judge(self, counts: NDArray[np.int64] | None, at: float, threshold: float, quiet_blocks: int) -> bool:
        """As `judge` of several features."""
        return judge([self], [counts], at, threshold, quiet_blocks)

    def close(self, counts: NDArray[np.int64], at: float, threshold: float, quiet_blocks: int) -> None:
        """A block ended, and was bet on where the feature is fit."""
        self._state.blocks += 1
        self._keep(counts, at)
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
        return Seen(self._reference, counts, self.design_effect(int(counts.sum() / max(1, len(past)))))

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
        )

    def save(self) -> SavedWatch:
        return msgspec.structs.replace(self._state, q=self.bettor.q.tolist(), share=self.share.tolist())

    def load(self, saved: SavedWatch) -> None:
        self._state, self.bettor.q, self.share = saved, np.array(saved.q), np.array(saved.share)
        self._shown = None

    def fits(self, saved: SavedWatch) -> bool:
        return len(saved.q) == self.law.size and len(saved.s) == len(saved.share) == len(CLIPS)

    @property
    def lent(self) -> float:
        """Its part in the evidence of `_all`, in nats."""
        return float(log_mean_exp(self.share))

    def _past(self) -> NDArray[np.int64]:
        """Counts of the last judged blocks, shape (blocks, K)."""
        return np.array(self._state.window[-WINDOW_BLOCKS:], np.int64).reshape(-1, self.law.size)

    def design_effect(self, rows: int) -> float:
        """Of a block of so many rows, by the blocks judged before it."""
        if self._shown is None:
            self._shown = shown(self.law, self._past())
        return scaled(self.law, rows, self._shown, self._split)

    def gain(self, s: Floats, share: Floats, q: Floats, log_e: float) -> None:
        """What the bet on a block came to."""
        self._state.s, self._state.log_e, self.share, self.bettor.q = s.tolist(), log_e, share, q

    @property
    def s(self) -> list[float]:
        return self._state.s

    def _keep(self, counts: NDArray[np.int64], at: float) -> None:
        state, self._shown = self._state, None
        state.window = [*state.window, counts.tolist()][-KEPT_BLOCKS:]
        state.ends = [*state.ends, at][-KEPT_BLOCKS:]
        state.evidence = [*state.evidence, state.log_e][-KEPT_BLOCKS:]

    def _raise(self, crossed: bool, at: float, quiet_blocks: int) -> None:
        """Raise the alarm or clear it. What was before a quiet time is no part of a change to come."""
        state, was_on = self._state, self._state.alarm.on
        if crossed:
            state.s = [0.0] * len(CLIPS)
        state.alarm.update(crossed, at, quiet_blocks)
        if state.alarm.on and not was_on:
            past = self.past(0.0)
            state.onset = locate(self.law, np.array(past.counts), past.ends, past.design_effect(self.law))
        elif was_on and not state.alarm.on:
            state.onset, quiet = None, slice(-max(quiet_blocks, WINDOW_BLOCKS), None)
            state.window, state.ends, state.evidence = state.window[quiet], state.ends[quiet], state.evidence[quiet]


def judge(
    watches: Sequence[Watch], counts: Sequence[NDArray[np.int64] | None], at: float, threshold: float, quiet_blocks: int
) -> bool:
    """Judge a block that ended at `at`: of each feature its counts, shape (K,), None where no row had it.

    Returns whether there was anything to bet on. A block without rows is not a quiet one: it clears no alarm.
    """
    there = [(watch, cells) for watch, cells in zip(watches, counts, strict=True) if cells is not None and cells.any()]
    fit = [(watch, cells) for watch, cells in there if watch.fit]
    for size in sorted({watch.law.size for watch, _ in fit}):
        _bet([(watch, cells) for watch, cells in fit if watch.law.size == size])
    for watch, cells in there:
        watch.close(cells, at, threshold, quiet_blocks)
    return bool(fit)


def _bet(features: Sequence[tuple[Watch, NDArray[np.int64]]]) -> None:
    """Bet on features of as many cells side by side, which costs little more than one."""
    bettors = [watch.bettor for watch, _ in features]
    bettor = type(bettors[0])(np.stack([b.theta for b in bettors]), np.array([b.tolerance for b in bettors]))
    bettor.q = np.stack([b.q for b in bettors])
    design_effects = [watch.design_effect(int(counts.sum())) for watch, counts in features]
    won = bettor.update(np.stack([counts for _, counts in features]), np.array(design_effects))
    s = accumulated(np.array([watch.s for watch, _ in features]), won)
    share = accumulated(np.stack([watch.share for watch, _ in features]), won)
    evidence = log_mean_exp(s).tolist()
    for k, (watch, _) in enumerate(features):
        watch.gain(s[k], share[k], bettor.q[k], evidence[k])


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
        state.alarm.update(crossed, at, quiet_blocks)

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
