"""Ninety days of blocks of a minute, twenty features, no drift: Gaugeway's detectors, KS at 5 % and PSI above 0.2.

Everything is judged on the same rows. Gaugeway's are run as the only version, whose alarms share the budget of one
false call in 90 days.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from loadtests.promise import streams
from loadtests.promise.streams import Floats, Outcome
from monitors.budget import run_blocks
from monitors.drift.e_detector import CLIPS, Bettor, accumulated, log_mean_exp
from monitors.reference import Marginal, marginal
from serving.config import Monitors

SETTINGS = Monitors(slot_s=60, block_s=60)
PAGERS = 5  # of a version with labels
RUNS = 25  # of delays
MAX_PSI, KS_ALPHA = 0.2, 0.05
MINUTE, HOUR = 1, 60  # blocks of a window

Counts = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass
class Tally:
    """Of one rule: alarms by window, added up over the features."""

    name: str
    rule: str
    blocks: int  # of a window
    alarms: NDArray[np.int64]
    firsts: tuple[float, ...]

    @property
    def outcome(self) -> Outcome:
        window, called = "minute" if self.blocks == MINUTE else "hour", int((self.alarms > 0).sum())
        return Outcome(self.name, self.rule, window, len(self.alarms), (called,), self.firsts)


class Watch:
    """All features of a version side by side, as `monitors.drift.watch` has them one by one."""

    def __init__(self, laws: list[Marginal]) -> None:
        errors = np.array([law.error for law in laws])
        self._bets = Bettor(np.stack([law.theta for law in laws]), SETTINGS.tolerance + errors)
        self._own, self._lent = np.zeros((len(laws), len(CLIPS))), np.zeros((len(laws), len(CLIPS)))
        self._threshold = np.log(run_blocks(PAGERS, SETTINGS))

    def update(self, counts: Counts) -> tuple[bool, Flags]:
        """Take a block's counts, shape (features, K): whether all together alarm, and which features."""
        won = self._bets.update(counts)
        self._own, self._lent = accumulated(self._own, won), accumulated(self._lent, won)
        alone = log_mean_exp(self._own) >= self._threshold
        self._own[alone] = 0.0
        together = bool(log_mean_exp(self._lent, axis=None) >= self._threshold)
        if together:
            self._lent[:] = 0.0
        return together, alone


def outcomes(days: int = streams.DAYS) -> list[Outcome]:
    """Of the first `days`."""
    laws = [marginal(streams.reference(feature), "numeric") for feature in range(streams.FEATURES)]
    counts, tallies = _counted(laws, days)
    return [*_ours(laws, counts), *(tally.outcome for tally in tallies)]


def _counted(laws: list[Marginal], days: int) -> tuple[Counts, list[Tally]]:
    """Counts, shape (blocks, features, K), and what window by window rules say of the same rows."""
    counts = np.empty((days * streams.BLOCKS, len(laws), laws[0].size), np.int64)
    rules = [(blocks, *rule) for blocks in (MINUTE, HOUR) for rule in RULES]
    tallies = [
        Tally(name, rule, blocks, np.zeros(days * streams.BLOCKS // blocks, np.int64), _firsts(test, laws[0], blocks))
        for blocks, name, rule, test in rules
    ]
    for feature, law in enumerate(laws):
        ordered = np.sort(streams.reference(feature))
        for number in range(days):
            rows = streams.day(feature, number)
            at = slice(number * streams.BLOCKS, (number + 1) * streams.BLOCKS)
            counts[at, feature], ranks = _count(law, rows), _ranks(ordered, rows)
            for tally, (blocks, *_, test) in zip(tallies, rules, strict=True):
                windows = counts[at, feature].reshape(-1, blocks, law.size).sum(1)
                found = test(law, windows, ranks.reshape(len(windows), -1))
                tally.alarms[at.start // blocks : at.stop // blocks] += found
    return counts, tallies


def _ours(laws: list[Marginal], counts: Counts) -> list[Outcome]:
    """Of all features together, which call somebody, and of any feature."""
    watch = Watch(laws)
    found = np.array([(together, alone.any()) for together, alone in map(watch.update, counts)])
    return [
        _outcome("drift of the whole", found[:, 0], partial(_fresh, laws, _whole), 1 / PAGERS),
        _outcome("any feature, which calls nobody", found[:, 1], partial(_fresh, laws, _first), len(laws) / PAGERS),
    ]


def _outcome(rule: str, found: Flags, fresh: Callable[[], Callable[[Floats], bool]], promised: float) -> Outcome:
    rule, firsts = f"{rule}, A = {run_blocks(PAGERS, SETTINGS):,.0f} blocks", streams.firsts(fresh, range(RUNS))
    return Outcome("Gaugeway", rule, "minute", len(found), (int(found.sum()),), firsts, promised)


def _whole(together: bool, alone: Flags) -> bool:
    return together


def _first(together: bool, alone: Flags) -> bool:
    return bool(alone[0])


def _fresh(laws: list[Marginal], which: Callable[[bool, Flags], bool]) -> Callable[[Floats], bool]:
    """Feature 0 is given, the others go on without drift."""
    watch, rng = Watch(laws), np.random.default_rng(4)
    theta = np.stack([law.theta for law in laws])

    def alarmed(rows: Floats) -> bool:
        counts = rng.multinomial(streams.ROWS, theta)
        counts[0] = laws[0].count(rows)
        return which(*watch.update(counts))

    return alarmed


def _count(law: Marginal, rows: Floats) -> Counts:
    """Shape (blocks, K) of rows of shape (blocks, n)."""
    place = np.arange(len(rows))[:, None] * law.size + law.cells(rows)
    return np.bincount(place.ravel(), minlength=len(rows) * law.size).reshape(len(rows), -1)


def _ranks(ordered: Floats, rows: Floats) -> Floats:
    """Of each row the share of the reference below it, in the rows' shape but each row of `rows` in order."""
    return np.asarray(np.searchsorted(ordered, np.sort(rows, axis=-1)) / len(ordered))


def ks_test(law: Marginal, counts: Counts, ranks: Floats) -> Flags:
    """Whether each window differs by Kolmogorov and Smirnov's two-sample test at 5 %; ranks of shape (windows, n)."""
    (n, m), steps = (ranks.shape[1], law.rows), np.arange(ranks.shape[1] + 1) / ranks.shape[1]
    ordered = np.sort(ranks, axis=1)
    gap = np.maximum(steps[1:] - ordered, ordered - steps[:-1]).max(1)
    return np.asarray(gap > stats.kstwobign.isf(KS_ALPHA) / np.sqrt(n * m / (n + m)))


def psi_test(law: Marginal, counts: Counts, ranks: Floats) -> Flags:
    """Whether each window's PSI over ten quantile bins of the reference is above 0.2; counts of shape (windows, K)."""
    p = np.maximum(_binned(counts), 0.5) / counts.sum(1, keepdims=True)
    q = _binned(np.array([law.counts])) / law.rows
    return np.asarray(((p - q) * np.log(p / q)).sum(1) > MAX_PSI)


RULES = (
    ("Kolmogorov-Smirnov", "p < 0.05 in any feature", ks_test),
    ("PSI", "above 0.2 in any feature", psi_test),
)


def _binned(counts: Counts) -> Counts:
    """Without the cells below, above and missing, whose rows go to the outer bins."""
    bins = counts[:, 1:-2].copy()
    bins[:, 0] += counts[:, 0]
    bins[:, -1] += counts[:, -2]
    return bins


def _firsts(test: Callable[[Marginal, Counts, Floats], Flags], law: Marginal, blocks: int) -> tuple[float, ...]:
    ordered = np.sort(streams.reference(0))

    def alarmed() -> Callable[[Floats], bool]:
        windows = _windows(blocks)
        return lambda rows: any(
            bool(test(law, _count(law, window), _ranks(ordered, window))[0]) for window in windows(rows)
        )

    return streams.firsts(alarmed, range(RUNS))


def _windows(blocks: int) -> Callable[[Floats], Iterator[Floats]]:
    """Of blocks given one by one, shape (1, n)."""

    kept: list[Floats] = []

    def windows(rows: Floats) -> Iterator[Floats]:
        kept.append(rows)
        if len(kept) == blocks:
            yield np.concatenate(kept)[None]
            kept.clear()

    return windows
