"""The monitor over blocks of the past: each is judged by the code that judges live ones, in the same order."""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitors import budget
from monitors.backtest.past import Ruler, Sums
from monitors.checkup import Checks
from monitors.drift.effects import Seen, Side, Sizes, effects
from monitors.drift.tempering import live_design_effect
from monitors.drift.watch import WINDOW_BLOCKS, DriftVerdict
from monitors.monitor import Monitor
from monitors.reference import Profile
from monitors.risk import RiskVerdict
from serving.config import Monitors


class Verdicts(NamedTuple):
    """What the monitor said after a block."""

    drift: dict[str, DriftVerdict]
    risk: RiskVerdict
    checks: Checks


@dataclass
class Folded:
    """Blocks of the ruler from `first` to `last`: one, or more where the earlier ones have too few rows."""

    first: int
    last: int
    sums: Sums = field(default_factory=Sums)
    sizes: dict[str, Sizes] = field(default_factory=dict)  # effect sizes by feature
    verdicts: Verdicts | None = None  # None: at the end, with too few rows to be judged


class Replay:
    """Gives blocks of the past to the monitor of `profile`; `monitor` is as it was after the one that `blocks` yields.

    `recent` are the last judged blocks, those behind a live effect size.
    """

    def __init__(self, profile: Profile, ruler: Ruler, settings: Monitors) -> None:
        pagers = budget.pagers(profile, settings, profile.risk is not None)
        self.profile, self.monitor = profile, Monitor(profile, settings, pagers)
        self.recent: deque[Folded] = deque(maxlen=WINDOW_BLOCKS)
        self._ruler, self._settings = ruler, settings
        self._sides = {name: Side.of(law) for name, law in profile.features.items()}
        self._split = max(1.0, profile.block_s / settings.block_s)

    def blocks(self, blocks: Mapping[int, Sums]) -> Iterator[Folded]:
        """Each of `blocks`, which come in increasing order, in exactly one of them."""
        folded: Folded | None = None
        for block, sums in blocks.items():
            self._fold(block, sums)
            folded = folded or Folded(block, block)
            folded.last = block
            folded.sums.add(sums)
            if folded.sums.counts.rows >= self._settings.block_rows:
                folded.sizes = self._sizes(folded)
                folded.verdicts = Verdicts(self.monitor.drift(), self.monitor.risk(), self.monitor.checks())
                self.recent.append(folded)
                yield folded
                folded = None
        if folded is not None:
            yield folded

    def _fold(self, block: int, sums: Sums) -> None:
        first, after = self._ruler.slot(block), self._ruler.slot(block + 1)
        self.monitor.fold(first, sums.counts)
        self.monitor.advance(after)
        self.monitor.fold_labels(first, sums.labels)
        self.monitor.advance_labels(after)

    def _sizes(self, folded: Folded) -> dict[str, Sizes]:
        seen = {name: self._seen(name, cells) for name, cells in folded.sums.counts.cells.items()}
        return dict(zip(seen, effects(list(seen.values())), strict=True))

    def _seen(self, name: str, cells: NDArray[np.int64]) -> Seen:
        law = self.profile.features[name]
        before = np.array([folded.sums.counts.cells[name] for folded in self.recent], np.int64).reshape(-1, law.size)
        return Seen(self._sides[name], cells, live_design_effect(law, int(cells.sum()), before, self._split))
