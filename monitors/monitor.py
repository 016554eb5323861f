"""The monitor of one (model, version): sealed slots in, verdicts out.

Slots are folded in their order into blocks, which end at fixed marks of time; a block with too few rows is joined
to the next. A block is judged once. The state is integers and float64 alone and is written exactly, so a monitor
that was restored goes on to the same bits.
"""

import math
from collections.abc import Mapping

import msgspec

from monitors import slot
from monitors.alarm import State
from monitors.block import Blocks, SavedBlock
from monitors.drift.watch import WINDOW_BLOCKS, AllWatch, DriftVerdict, SavedAll, SavedWatch, Watch
from monitors.reference import Marginal, Profile
from monitors.risk import RiskVerdict, RiskWatch, SavedRisk
from monitors.slot import Counts, LabelCounts
from serving.config import Monitors

ALL = "_all"  # the detector over all features of a version
MIN_RUN_BLOCKS = 20.0  # a promise of fewer blocks to a false alarm would alarm on next to nothing


class _Saved(msgspec.Struct, array_like=True):
    slot_s: float
    block_s: float
    block: SavedBlock
    label_block: SavedBlock
    labels: LabelCounts  # of all slots so far
    watches: dict[str, SavedWatch]
    all: SavedAll
    risk: SavedRisk | None


class Monitor:
    """Judges one version against its profile. Without a profile it judges nothing and says so.

    `pagers` is the number of alarms that share the budget of false alarms: two a version, risk and `_all`.

    >>> import numpy as np
    >>> from monitors.reference import build
    >>> rng = np.random.default_rng(1)
    >>> profile = build({"x": rng.normal(size=10_000)}, {"x": "numeric"})
    >>> monitor = Monitor(profile, Monitors(slot_s=3600, block_s=3600), pagers=2)
    >>> for hour in range(12):
    ...     monitor.fold(hour, slot.count(profile, {"x": rng.normal(1.0 if hour > 5 else 0.0, size=300)}))
    >>> verdict = monitor.drift()["x"]
    >>> monitor.state, verdict.alarm, verdict.blocks, verdict.since
    ('alarm', True, 11, 28800.0)
    """

    def __init__(self, profile: Profile | None, settings: Monitors, pagers: int) -> None:
        self.profile, self.settings, self.pagers = profile, settings, pagers
        laws = profile.features if profile else {}
        split = max(1.0, profile.block_s / settings.block_s) if profile else 1.0
        self._watches = {name: Watch(law, settings.tolerance, split) for name, law in laws.items()}
        self._all = AllWatch()
        self._risk = RiskWatch(profile.risk, settings) if profile and profile.risk else None
        self._blocks = Blocks(Counts(), settings.slot_s, settings.block_s, settings.block_rows)
        self._label_blocks = Blocks(LabelCounts(), settings.slot_s, settings.block_s, settings.block_rows)
        self._labels = LabelCounts()

    @property
    def run_blocks(self) -> float:
        """A: the mean number of blocks to a false alarm of one pager is at least this."""
        days = self.settings.false_alarms_days
        return max(MIN_RUN_BLOCKS, self.pagers * days * 86400 / self.settings.block_s)

    @property
    def threshold(self) -> float:
        """log A, in nats."""
        return math.log(self.run_blocks)

    def fold(self, slot: int, counts: Counts) -> None:
        """Take the counts of a sealed slot. Slots come in increasing order, each at most once, else ValueError."""
        self.advance(slot)
        self._blocks.fold(slot, counts)

    def fold_labels(self, slot: int, counts: LabelCounts) -> None:
        """Take a sealed slot of labels, by the time of their predictions; order as in `fold`."""
        self.advance_labels(slot)
        self._label_blocks.fold(slot, counts)
        self._labels.add(counts)

    def advance(self, slot: int) -> None:
        """All slots before `slot` are sealed: judge the block they end, if there is one. Changes no verdict to come."""
        if closed := self._blocks.advance(slot):
            self._judge(closed.counts, closed.end_s)

    def advance_labels(self, slot: int) -> None:
        """As `advance`, for slots of labels."""
        if (closed := self._label_blocks.advance(slot)) and self._risk:
            self._risk.judge(closed.counts, closed.end_s, self.threshold, self.settings.quiet_blocks)

    def drift(self) -> dict[str, DriftVerdict]:
        """By feature, `_prediction` among them, and `_all`, whose alarm is the one that pages."""
        verdicts = {name: watch.verdict(self.threshold) for name, watch in self._watches.items()}
        return verdicts | {ALL: self._all.verdict(self.threshold, list(verdicts.values()))}

    def risk(self) -> RiskVerdict:
        if self._risk is None:
            return RiskVerdict(threshold=self.threshold, note=self._why_no_risk())
        return self._risk.verdict(self.threshold, self._labels)

    @property
    def state(self) -> State:
        """Of the pagers: `alarm` when one is on, `unfit` when none can be judged, `no_data` when none was yet."""
        risk, drift = self.risk(), self.drift()[ALL]
        if drift.alarm or risk.alarm:
            return "alarm"
        if drift.note and risk.state == "unfit":
            return "unfit"
        return "ok" if drift.blocks or risk.blocks else "no_data"

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What the promise rests on, in plain words."""
        laws = {name: watch.law for name, watch in self._watches.items() if watch.fit}
        drift = _drift_assumptions(laws, self.profile, self.settings) if laws and self.profile else ()
        return (*drift, self._risk.assumption) if self._risk and self._risk.fit else drift

    def promise(self) -> str:
        """The promise with its assumptions, to stand beside every alarm."""
        if not self.assumptions:
            return "No promise: there is nothing that can be judged."
        blocks = f"{self.run_blocks:.0f} blocks of {_span(self.settings.block_s)}"
        days = self.run_blocks * self.settings.block_s / 86400 / self.pagers
        provisos = "; ".join(f"({number}) {text}" for number, text in enumerate(self.assumptions, 1))
        return (
            f"At most one false alarm in {days:g} days on average (each of {self.pagers} alarms at most one in"
            f" {blocks}), as long as {provisos}."
        )

    def encode(self) -> bytes:
        """The whole state, exactly; `restore` of an equal monitor goes on to the same bits."""
        return msgspec.msgpack.encode(
            _Saved(
                slot_s=self.settings.slot_s,
                block_s=self.settings.block_s,
                block=self._blocks.save(),
                label_block=self._label_blocks.save(),
                labels=self._labels,
                watches={name: watch.save() for name, watch in self._watches.items()},
                all=self._all.save(),
                risk=self._risk.save() if self._risk else None,
            )
        )

    def restore(self, data: bytes) -> None:
        """Go on where `encode` left off. State of other slots, blocks or cells does not fit: it is left aside."""
        saved = msgspec.msgpack.decode(data, type=_Saved)
        if (saved.slot_s, saved.block_s) != (self.settings.slot_s, self.settings.block_s):
            return
        if saved.watches.keys() != self._watches.keys():
            return
        if not all(watch.fits(saved.watches[name]) for name, watch in self._watches.items()):
            return
        self._blocks.load(saved.block, slot.decode(saved.block.counts))
        self._label_blocks.load(saved.label_block, slot.decode_labels(saved.label_block.counts))
        self._labels = saved.labels
        for name, watch in self._watches.items():
            watch.load(saved.watches[name])
        self._all.load(saved.all)
        if self._risk and saved.risk:
            self._risk.load(saved.risk)

    def _judge(self, counts: Counts, at: float) -> None:
        quiet = self.settings.quiet_blocks
        bets = [w.judge(counts.cells.get(n), at, self.threshold, quiet) for n, w in self._watches.items()]
        if any(bets):
            self._all.judge(list(self._watches.values()), at, self.threshold, quiet)

    def _why_no_risk(self) -> str:
        notes = self.profile.notes if self.profile else ("there is no reference profile",)
        return next((note for note in notes if note.startswith("risk is not judged")), notes[0] if notes else "")


def _span(seconds: float) -> str:
    return f"{seconds / 3600:g} h" if seconds % 3600 == 0 else f"{seconds:g} s"


def _drift_assumptions(laws: Mapping[str, Marginal], profile: Profile, settings: Monitors) -> tuple[str, ...]:
    blunt = max(laws, key=lambda name: laws[name].error)
    clustered = max(laws, key=lambda name: laws[name].design_effect)
    design = laws[clustered].design_effect
    same = (
        f"without drift at most {settings.tolerance:g} of the rows, whatever came before them, leave the cells that"
        f" a feature has in the reference, beyond what the reference itself may be wrong by (at most"
        f" {laws[blunt].error:.3f}, for {blunt}; more with probability {laws[blunt].alpha:g} a feature)"
    )
    apart = "rows do not depend on one another (no design effect was measured)"
    if any(law.block_rows for law in laws.values()):
        apart = (
            f"rows depend on one another only inside a block: as much as in the reference, where up to {design:.1f}"
            f" rows are worth one (the design effect of {clustered}), or in sparser blocks as much as the last"
            f" {WINDOW_BLOCKS} show"
        )
    if design > 1 and settings.block_s < profile.block_s:
        apart += (
            f", although blocks of {_span(settings.block_s)} are shorter than those it was measured on"
            f" ({_span(profile.block_s)}) and neighbours may depend: then alarms come more often"
        )
    return same, apart
