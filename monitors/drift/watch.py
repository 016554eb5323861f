"""One feature under watch, and the average over all of them: evidence, alarm, effect sizes."""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitors.alarm import Alarm
from monitors.drift import EFFECTS
from monitors.drift.e_detector import CLIPS, Bettor, accumulated, log_mean_exp
from monitors.reference import Marginal
from monitors.sampling import MIN_BLOCKS, dispersion

WINDOW_BLOCKS = 10  # judged blocks behind an effect size


class DriftVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """Of one feature, or of `_all`. Evidence and threshold in nats."""

    log_e: float  # when the newest block was judged; if it reached the threshold, it begins again at 0
    threshold: float
    alarm: bool  # stays until enough quiet blocks
    psi: float = 0.0  # effect sizes over the last `WINDOW_BLOCKS` judged blocks, n rows
    ks: float = 0.0
    n: int = 0
    since: float | None = None  # end of the block that raised the alarm, seconds since 1970 UTC
    blocks: int = 0  # judged so far
    note: str = ""  # why it is not judged


class SavedWatch(msgspec.Struct, array_like=True):
    """A watch as it is stored: float64 and integers, exactly."""

    q: list[float]
    s: list[float]
    share: list[float]
    window: list[list[int]]
    alarm: Alarm
    log_e: float = 0.0
    blocks: int = 0


class Watch:
    """One feature. `s` is its own evidence; `share` what it lends to `_all`, which restarts on its own alarms."""

    def __init__(self, law: Marginal, tolerance: float, split: float = 1.0) -> None:
        """`split` is into how many of the blocks judged here time cuts a block of the reference, at least 1."""
        self.law, self.fit = law, not law.unfit
        self._split = split
        self.share = np.zeros(len(CLIPS))
        self._reference = np.array(law.counts, np.int64)
        self._bettor = Bettor(law.theta, min(1.0, tolerance + law.error))
        self._state = SavedWatch([], [0.0] * len(CLIPS), [], [], Alarm())

    def judge(self, counts: NDArray[np.int64] | None, at: float, threshold: float, quiet_blocks: int) -> bool:
        """Take the counts, shape (K,), of a block that ended at `at`; None where no row had the feature.

        Returns whether there was anything to bet on. A block without rows is not a quiet one: it clears no alarm.
        """
        if counts is None or not counts.any():
            return False
        design_effect = self._design_effect(int(counts.sum()))  # of the blocks before this one, which no bet may see
        self._state.window = [*self._state.window, counts.tolist()][-WINDOW_BLOCKS:]
        self._state.blocks += 1
        if not self.fit:
            return False
        crossed = self._bet(counts, design_effect) >= threshold
        if crossed:
            self._state.s = [0.0] * len(CLIPS)
        self._state.alarm.update(crossed, at, quiet_blocks)
        return True

    def verdict(self, threshold: float) -> DriftVerdict:
        state, past = self._state, self._past()
        counts = past.sum(0)
        worth = self._design_effect(int(counts.sum() / max(1, len(past)))), self.law.design_effect
        effects = {name: effect(counts, self._reference, *worth) for name, effect in EFFECTS.items()}
        return DriftVerdict(
            log_e=state.log_e,
            threshold=threshold,
            alarm=state.alarm.on,
            n=int(counts.sum()),
            since=state.alarm.since,
            blocks=state.blocks,
            note=self.law.unfit,
            **effects,
        )

    def save(self) -> SavedWatch:
        return msgspec.structs.replace(self._state, q=self._bettor.q.tolist(), share=self.share.tolist())

    def load(self, saved: SavedWatch) -> None:
        self._state, self._bettor.q, self.share = saved, np.array(saved.q), np.array(saved.share)

    def fits(self, saved: SavedWatch) -> bool:
        return len(saved.q) == self.law.size and len(saved.s) == len(saved.share) == len(CLIPS)

    def _past(self) -> NDArray[np.int64]:
        """Counts of the last judged blocks, shape (blocks, K)."""
        return np.array(self._state.window, np.int64).reshape(-1, self.law.size)

    def _design_effect(self, rows: int) -> float:
        return live_design_effect(self.law, rows, self._past(), self._split)

    def _bet(self, counts: NDArray[np.int64], design_effect: float) -> float:
        won = self._bettor.update(counts, design_effect)
        s = accumulated(np.array(self._state.s), won)
        self.share = accumulated(self.share, won)
        self._state.s, self._state.log_e = s.tolist(), float(log_mean_exp(s))
        return self._state.log_e


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

    def verdict(self, threshold: float, parts: Sequence[DriftVerdict]) -> DriftVerdict:
        """Effect sizes are the largest of the features'; n is the largest of their numbers of rows."""
        state = self._state
        return DriftVerdict(
            log_e=state.log_e,
            threshold=threshold,
            alarm=state.alarm.on,
            psi=max((part.psi for part in parts), default=0.0),
            ks=max((part.ks for part in parts), default=0.0),
            n=max((part.n for part in parts), default=0),
            since=state.alarm.since,
            blocks=state.blocks,
            note="" if any(not part.note for part in parts) else "no feature can be judged",
        )

    def save(self) -> SavedAll:
        return self._state

    def load(self, saved: SavedAll) -> None:
        self._state = saved


def live_design_effect(law: Marginal, rows: int, past: NDArray[np.int64], split: float = 1.0) -> float:
    """The design effect D of a block of `rows` live rows; `past` are the counts of blocks before it, (blocks, K).

    D - 1 is the correlation of two rows of a block times the other rows of the block (Kish 1965), so D grows with
    a block that is denser than the reference's were, as when the reference is a sample of the traffic. It falls
    with a sparser block, as when a version gets a fifth of the traffic, if rows are thinned one by one: then the
    correlation is the reference's. If whole clusters are kept (all rows of a user go to one version), it is not.
    So D falls no lower than the past blocks show, and not before there are four. A block of less time than the
    reference's is thinned by nothing: its rows count `split` times.
    """
    if law.block_rows <= 1 or law.design_effect <= 1:
        return law.design_effect
    more, others = law.design_effect - 1, law.block_rows - 1
    most = 1 + more * max(1.0, (rows - 1) / others)
    if len(past) < MIN_BLOCKS:
        return most
    return min(most, max(1 + more * (rows * split - 1) / others, dispersion(past)))
