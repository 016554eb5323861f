"""Coverage: evidence that labels no longer come, as far as they did.

The first ten blocks with a label are the version's own reference: u is the upper confidence bound of the share of
their predictions that stays without one (Student's t over block means), plus the tolerance. From then on the mean of
a block is bet on as risk is, since what stops a label pipeline stops it for all rows. A fixed `min_coverage` would be
the wrong null: where 97 % of the rows get a label, 60 % means that something is broken; where nobody ever sends a
label nothing is; and below 50 % a bet at least doubles a block, so that a full stop needs a dozen blocks instead of 4.
"""

import msgspec
import numpy as np

from monitors.alarm import Alarm, Severity, State
from monitors.loss import upper_bound_of_means
from monitors.risk import BETS, RiskDetector
from monitors.sampling import ALPHA
from monitors.slot import LabelCounts

FIRST_BLOCKS = 10  # judged against, never judged


class CoverageVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """Evidence in nats that labels stay away. Shares are of predictions, 0..1."""

    state: State
    log_e: float = 0.0  # when the newest block was judged; if it reached the threshold, it begins again at 0
    threshold: float
    alarm: bool = False
    since: float | None = None  # end of the block that raised the alarm, seconds since 1970 UTC
    blocks: int = 0  # judged so far
    newest: float | None = None  # coverage of the newest sealed block
    usual: float | None = None  # of the first blocks
    bound: float | None = None  # coverage below which evidence grows
    severity: Severity = "ticket"
    note: str = ""  # why it is not judged


class SavedCoverage(msgspec.Struct, array_like=True):
    first: list[tuple[int, int]] = []  # predictions and labelled rows
    s: list[float] = []
    alarm: Alarm = msgspec.field(default_factory=Alarm)
    log_e: float = 0.0
    blocks: int = 0
    newest: float | None = None


class CoverageWatch:
    """Takes sealed blocks of labels, holds the alarm.

    >>> watch = CoverageWatch(tolerance=0.02)
    >>> for hour in range(16):
    ...     watch.judge(LabelCounts(100, 97 if hour < 12 else 0), at=3600.0 * hour, threshold=7.0, quiet_blocks=10)
    >>> verdict = watch.verdict(7.0)
    >>> verdict.state, verdict.usual, verdict.newest, verdict.blocks
    ('alarm', 0.97, 0.0, 6)
    """

    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance
        self._detector: RiskDetector | None = None
        self._state = SavedCoverage()

    def judge(self, counts: LabelCounts, at: float, threshold: float, quiet_blocks: int) -> None:
        """Judge a block that ended at `at`. Until the first label comes, nothing is."""
        state = self._state
        if not counts.predictions or not (counts.labelled or state.first):
            return
        state.newest = counts.coverage
        if len(state.first) < FIRST_BLOCKS:
            state.first = [*state.first, (counts.predictions, counts.labelled)]
            self._begin()
        elif self._detector is not None:
            state.log_e = self._detector.update(1 - counts.coverage)
            state.blocks += 1
            crossed = state.log_e >= threshold
            if crossed:
                self._detector.restart()
            state.alarm.update(crossed, at, quiet_blocks, state.log_e)

    def reset(self) -> None:
        """No evidence, no alarm; what is usual stays, else labels that have stopped would never be found again."""
        self._state = msgspec.structs.replace(self._state, alarm=Alarm(), log_e=0.0)
        if self._detector is not None:
            self._detector.restart()

    def fade(self, nats: float) -> None:
        """The threshold fell by so much, and the evidence with it."""
        if self._detector is not None:
            self._detector.s = self._detector.s - nats

    def verdict(self, threshold: float) -> CoverageVerdict:
        state, rows, labelled = self._state, *map(sum, zip(*(self._state.first or [(0, 0)]), strict=True))
        blind = len(state.first) == FIRST_BLOCKS and self._detector is None
        named: State = "unfit" if blind else "no_data" if not state.blocks else "alarm" if state.alarm.on else "ok"
        return CoverageVerdict(
            state=named, log_e=state.log_e, threshold=threshold, alarm=state.alarm.on, since=state.alarm.since,
            blocks=state.blocks, newest=state.newest, usual=labelled / rows if rows else None,
            bound=1 - self._detector.m if self._detector else None, note=self._note(blind),
        )  # fmt: skip

    def save(self) -> SavedCoverage:
        return msgspec.structs.replace(self._state, s=self._detector.s.tolist() if self._detector else [])

    def load(self, saved: SavedCoverage) -> None:
        self._state = saved
        self._begin()
        if self._detector is not None and len(saved.s) == BETS:
            self._detector.s = np.array(saved.s)

    def _begin(self) -> None:
        if len(self._state.first) == FIRST_BLOCKS:
            rows, labelled = np.array(self._state.first, np.float64).T
            m = upper_bound_of_means(1 - labelled / rows, ALPHA) + self._tolerance
            self._detector = RiskDetector(m) if m < 1 else None

    def _note(self, blind: bool) -> str:
        if blind:
            return f"labels of the first {FIRST_BLOCKS} blocks varied too much to see a change"
        left = FIRST_BLOCKS - len(self._state.first)
        return f"{left} more blocks with labels say what is usual" if left else ""
