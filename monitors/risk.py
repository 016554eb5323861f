"""Risk: evidence that a version's loss rose above that of its reference.

The detector bets on the mean loss of sealed blocks, never on rows: rows of a block share their weather. A block is
by prediction time and is judged once, after the labels' horizon, since labels that come first are no fair sample.

An alarm begins its evidence again at 0, and harm that goes on slowly may need a hundred blocks to raise it again. So
evidence alone does not say that harm is over: the alarm stays until `quiet_blocks` blocks in a row have not raised it,
and at the end of each the mean of as many newest blocks was not above the bound. One such mean would not do: while a
block's mean differs by more from day to day than the harm is large, it falls below the bound every few weeks.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitors.alarm import Alarm, Severity, State
from monitors.drift.change import Onset, likeliest
from monitors.drift.e_detector import accumulated, log_mean_exp
from monitors.explain.rise import LossPast
from monitors.loss import Risk
from monitors.slot import LOSS_UNIT, LabelCounts
from serving.config import Monitors

BETS = 8  # sizes of bets, averaged
KEPT_BLOCKS = 40  # judged blocks among which the rise is looked for, and of which losses are kept by cell


class RiskDetector:
    """E-detector of a rise of the mean loss above `m` (Podkopaev & Ramdas 2022).

    x is a block's mean loss. For each bet lambda, S <- max(S, 0) + log(1 + lambda (x - m)); the evidence is
    log mean exp(S), an e-detector for E[x | past] <= m: the mean number of blocks until it reaches log A is at
    least A. `m` in (0, 1).

    >>> detector = RiskDetector(m=0.12)
    >>> for _ in range(40):
    ...     evidence = detector.update(0.2)
    >>> bool(evidence > np.log(1000))
    True
    """

    def __init__(self, m: float) -> None:
        self.m = m
        self.bets = np.geomspace(0.05, 0.9 / m, BETS)
        self.s = np.zeros(BETS)

    def update(self, x: float) -> float:
        """Take a block's mean loss in [0, 1]; return the evidence in nats."""
        self.s = accumulated(self.s, np.log1p(self.bets * (x - self.m)))
        return float(log_mean_exp(self.s))

    def restart(self) -> None:
        self.s = np.zeros(BETS)

    def won(self, means: NDArray[np.float64]) -> NDArray[np.float64]:
        """What the best bet would have won if it had begun at each of the blocks, in nats; shape (blocks,)."""
        nats = np.log1p(self.bets[:, None] * (means - self.m))
        best: NDArray[np.float64] = nats[:, ::-1].cumsum(1)[:, ::-1].max(0)
        return best


class RiskVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """Evidence in nats that the mean loss rose above `bound`; mean and n are of all sealed slots."""

    mean: float = 0.0  # 0..1
    n: int = 0  # labelled rows
    log_e: float = 0.0  # when the newest block was judged; if it reached the threshold, it begins again at 0
    threshold: float
    alarm: bool = False
    bound: float = 1.0  # upper bound of the reference risk, plus the tolerance
    coverage: float = 0.0  # labelled share of the newest block, 0..1
    state: State = "unfit"
    since: float | None = None  # end of the block that raised the alarm, seconds since 1970 UTC
    blocks: int = 0  # judged so far
    note: str = ""  # why it is not judged
    severity: Severity = "page"
    promise: str = ""  # how rare false alarms of it are, and what that rests on
    onset: Onset | None = None  # when the loss rose, as the alarm was raised
    lately: float | None = None  # mean loss of the kept blocks since then, 0..1


class SavedRisk(msgspec.Struct, array_like=True):
    s: list[float]
    alarm: Alarm
    log_e: float = 0.0
    coverage: float = 0.0
    blocks: int = 0
    closed: int = 0  # blocks whose labels were looked at, judged or not
    past: list[tuple[float, int, int]] = []  # of the kept blocks: end, labelled rows, their loss
    onset: Onset | None = None
    cells: list[bytes] = []  # of the newest kept blocks, losses by cell as in `LabelCounts`


class RiskWatch:
    """Risk of one version: takes sealed blocks of labels, holds the alarm."""

    def __init__(self, risk: Risk, settings: Monitors) -> None:
        self.risk, self._settings = risk, settings
        self.bound = risk.bound + settings.risk_tolerance
        self._detector = RiskDetector(self.bound) if self.fit else None
        self._state = SavedRisk([], Alarm())

    @property
    def fit(self) -> bool:
        return self.bound < 1

    def judge(self, counts: LabelCounts, at: float, threshold: float, quiet_blocks: int) -> None:
        """Judge a block that ended at `at`. With too few labels it is `no_data`, and leaves the evidence as it was."""
        state = self._state
        state.coverage, state.closed = counts.coverage, state.closed + 1
        if self._detector is None or not counts.labelled or counts.coverage < self._settings.min_coverage:
            return
        state.log_e = self._detector.update(counts.mean)
        state.blocks += 1
        state.past = [*state.past, (at, counts.labelled, counts.loss)][-KEPT_BLOCKS:]
        state.cells = [*state.cells, counts.cells][-KEPT_BLOCKS:]
        crossed, was_on = state.log_e >= threshold, state.alarm.on
        if crossed:
            self._detector.restart()
        state.alarm.update(crossed or (was_on and self._goes_on(quiet_blocks)), at, quiet_blocks)
        if not state.alarm.on:
            state.onset = None
        elif not was_on:
            state.onset = self._rose(self._detector)

    def reset(self) -> None:
        """No evidence, no alarm, and of what comes no block from before has a part in it."""
        self._state = msgspec.structs.replace(self._state, alarm=Alarm(), log_e=0.0, past=[], onset=None, cells=[])
        if self._detector is not None:
            self._detector.restart()

    def fade(self, nats: float) -> None:
        """The threshold fell by so much, and the evidence with it: else what was gathered under it would count more."""
        if self._detector is not None:
            self._detector.s = self._detector.s - nats

    def verdict(self, threshold: float, total: LabelCounts) -> RiskVerdict:
        state = self._state
        return RiskVerdict(
            mean=total.mean,
            n=total.labelled,
            log_e=state.log_e,
            threshold=threshold,
            alarm=state.alarm.on,
            bound=min(1.0, self.bound),
            coverage=state.coverage,
            state=self._named(),
            since=state.alarm.since,
            blocks=state.blocks,
            note="" if self.fit else f"risk is not judged: its bound {self.bound:.3f} is not below 1",
            onset=state.onset,
            lately=self._lately(state.onset) if state.onset else None,
        )

    def harm(self) -> LossPast | None:
        """What the rise is explained from: the kept blocks since then; None without an alarm."""
        state, settings = self._state, self._settings
        if not state.onset:
            return None
        kept = zip(state.past[len(state.past) - len(state.cells) :], state.cells, strict=True)
        since = tuple(cells for (end, *_), cells in kept if end > state.onset.at)
        return LossPast(since, settings.block_s, settings.min_group_rows)

    @property
    def assumption(self) -> str:
        behind = f"{self.risk.blocks} blocks" if self.risk.blocks else f"{self.risk.n} rows taken as independent"
        return (
            f"a block's mean loss, given the past, is expected at no more than {self.bound:.3f} (the upper bound from"
            f" {behind} of the reference, plus the tolerance), and the labels that came are a fair sample of its rows"
        )

    def save(self) -> SavedRisk:
        return msgspec.structs.replace(self._state, s=[] if self._detector is None else self._detector.s.tolist())

    def load(self, saved: SavedRisk) -> None:
        self._state = saved
        if self._detector is not None and len(saved.s) == BETS:
            self._detector.s = np.array(saved.s)

    def _rose(self, detector: RiskDetector) -> Onset:
        ends, labelled, loss = zip(*self._state.past, strict=True)
        means = np.array(loss) * LOSS_UNIT / np.array(labelled)
        return likeliest(detector.won(means), ends)

    def _goes_on(self, blocks: int) -> bool:
        """Whether the mean of so many newest blocks is above the bound."""
        means = [loss * LOSS_UNIT / labelled for _, labelled, loss in self._state.past[-blocks:]]
        return sum(means) > self.bound * len(means)

    def _lately(self, onset: Onset) -> float | None:
        since = LabelCounts()
        for end, labelled, loss in self._state.past:
            if end > onset.at:
                since.add(LabelCounts(labelled, labelled, loss))
        return since.mean if since.labelled else None

    def _named(self) -> State:
        if not self.fit:
            return "unfit"
        if self._state.alarm.on:
            return "alarm"
        return "ok" if self._state.closed and self._state.coverage >= self._settings.min_coverage else "no_data"
