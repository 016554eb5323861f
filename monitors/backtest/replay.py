"""The monitor over blocks of the past: each is judged by the code that judges live ones, in the same order."""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from monitors import budget
from monitors.backtest.past import Ruler, Sums
from monitors.checkup import Checks
from monitors.drift.effects import Seen, Side, Sizes, effects
from monitors.drift.tempering import live_design_effect
from monitors.drift.watch import WINDOW_BLOCKS, DriftVerdict, Taken, taken_of
from monitors.monitor import Monitor
from monitors.reference import Profile
from monitors.risk import RiskVerdict
from monitors.slot import Counts
from serving.config import Monitors


class Verdicts(NamedTuple):
    """What the monitor said after a block."""

    drift: dict[str, DriftVerdict]
    risk: RiskVerdict
    checks: Checks


@dataclass(frozen=True)
class Folded:
    """Blocks of the ruler from `first` to `last`: one, or more where the earlier ones have too few rows."""

    first: int
    last: int
    sums: Sums
    verdicts: Verdicts
    counted: Counts | None = None  # what was judged: its rows, or one of each cluster; None: at the end, too few
    sizes: dict[str, Sizes] = field(default_factory=dict)  # effect sizes of these, by feature


class Replay:
    """Gives blocks of the past to the monitor of `profile`; `monitor` is as it was after the one that `blocks` yields.

    `recent` is what was judged of the last blocks, those behind a live effect size.
    """

    def __init__(self, profile: Profile, ruler: Ruler, settings: Monitors, *, labels: bool) -> None:
        """`labels`: whether rows may get any, whose flow is then watched."""
        profile = profile.judged(settings)
        pagers = max(1, budget.pagers(profile, settings, labels))  # as of a version that is alone
        self.profile, self.ruler, self.monitor = profile, ruler, Monitor(profile, settings, pagers)
        self.recent: deque[Counts] = deque(maxlen=WINDOW_BLOCKS)
        self._settings = settings
        self._sides = {name: Side.of(law) for name, law in profile.features.items()}
        self._split = max(1.0, profile.block_s / settings.block_s)

    def blocks(self, blocks: Mapping[int, Sums]) -> Iterator[Folded]:
        """Each of `blocks`, which come in increasing order, in exactly one of them."""
        first, sums = None, Sums()
        for block, added in blocks.items():
            self._fold(block, added)
            first = block if first is None else first
            sums.add(replace(added, counts=self.monitor.placed(self.ruler.slot(block), added.counts)))
            if sums.counts.rows >= self._settings.block_rows:
                counted = self.monitor.counted(sums.counts)
                yield Folded(first, block, sums, self._verdicts(), counted, self._sizes(counted))
                self.recent.append(counted)
                first, sums = None, Sums()
        if first is not None:
            yield Folded(first, block, sums, self._verdicts())

    def _fold(self, block: int, sums: Sums) -> None:
        first, after = self.ruler.slot(block), self.ruler.slot(block + 1)
        self.monitor.fold(first, sums.counts)
        self.monitor.advance(after)
        self.monitor.fold_labels(first, sums.labels)
        self.monitor.advance_labels(after)

    def _verdicts(self) -> Verdicts:
        return Verdicts(self.monitor.drift(), self.monitor.risk(), self.monitor.checks())

    def _sizes(self, counted: Counts) -> dict[str, Sizes]:
        seen = {name: self._seen(name, counted) for name in self.profile.features if name in counted.cells}
        return dict(zip(seen, effects(list(seen.values())), strict=True))

    def _seen(self, name: str, counted: Counts) -> Seen:
        law = self.profile.features[name]
        now = taken_of(law, counted.of(name, law)) or Taken(np.zeros(law.size, np.int64))
        before = [taken for counts in self.recent if (taken := taken_of(law, counts.of(name, law)))]
        past = np.array([taken.counts for taken in before], np.int64).reshape(-1, law.size)
        hours = [taken.rows for taken in before] if law.strata else []
        design_effect = live_design_effect(law, int(now.counts.sum()), past, self._split, hours)
        return Seen(self._sides[name].among(law, now.rows), now.counts, design_effect)
