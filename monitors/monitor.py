"""The monitor of one (model, version): sealed slots in, verdicts out.

Slots are folded in their order into blocks, which end at fixed marks of time; a block with too few rows is joined
to the next. A block is judged once. The state is integers and float64 alone and is written exactly, so a monitor
that was restored goes on to the same bits.
"""

import math
from functools import cached_property

import msgspec
import numpy as np

from monitors import promise, slot
from monitors.alarm import State
from monitors.block import Blocks, SavedBlock
from monitors.budget import ALL, Pagers, run_blocks, severity, slow
from monitors.checkup import Checks, Checkup, SavedCheckup
from monitors.drift.effects import effects
from monitors.drift.joint import JOINT, JointWatch, SavedJoint
from monitors.drift.watch import AllWatch, DriftVerdict, Past, SavedAll, SavedWatch, Watch, judge, lent, look
from monitors.drift.which import Declared, Which, WhichWatch
from monitors.explain.rise import LossPast
from monitors.reference import Profile
from monitors.risk import RiskVerdict, RiskWatch, SavedRisk
from monitors.slot import Counts, LabelCounts
from monitors.strata import HOUR_S, hours_of_week
from serving.config import Monitors


class _Saved(msgspec.Struct, array_like=True):
    slot_s: float
    block_s: float
    block: SavedBlock
    label_block: SavedBlock
    labels: LabelCounts  # of all slots so far
    watches: dict[str, SavedWatch]
    all: SavedAll
    risk: SavedRisk | None
    which: dict[str, Declared] = {}
    pagers: int = 0  # N, when the newest block was judged
    risk_pagers: int = 0
    checkup: SavedCheckup | None = None
    joint: SavedJoint | None = None


class Monitor:
    """Judges one version against its profile. Without a profile it judges nothing and says so.

    `pagers` is N, the number of alarms that share the budget, or says it for a block that ends at a time.

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

    def __init__(self, profile: Profile | None, settings: Monitors, pagers: int | Pagers) -> None:
        profile = profile.judged(settings) if profile else None
        self.profile, self.settings = profile, settings
        self._seasonal = profile.seasonal if profile else ()
        self._pagers_at = _always(pagers) if isinstance(pagers, int) else pagers
        self.pagers = self._risk_pagers = self._pagers_at(-math.inf)  # of the newest judged blocks
        laws = profile.features if profile else {}
        split = max(1.0, profile.block_s / settings.block_s) if profile else 1.0
        self._watches = {name: Watch(law, settings.tolerance, split, settings.unit) for name, law in laws.items()}
        self._slow = slow(profile, settings) if profile else {}
        self._all, self._which = AllWatch(), WhichWatch()
        self._joint = JointWatch(profile, settings) if profile and len(laws) > 1 else None
        self._risk = RiskWatch(profile.risk, settings) if profile and profile.risk else None
        self._checkup = Checkup(profile, settings)
        self._blocks = Blocks(Counts(), settings.slot_s, settings.block_s, settings.block_rows)
        self._label_blocks = Blocks(LabelCounts(), settings.slot_s, settings.block_s, settings.block_rows)
        self._labels = LabelCounts()
        self._told: dict[str, DriftVerdict] | None = None  # of the blocks judged so far; None: to be made

    @property
    def run_blocks(self) -> float:
        """A_i: the mean number of blocks to a false alarm of drift is at least this, as of the newest judged block."""
        return run_blocks(self.pagers, self.settings)

    @property
    def threshold(self) -> float:
        """log A_i, in nats."""
        return math.log(self.run_blocks)

    @property
    def risk_threshold(self) -> float:
        """As `threshold`, of the newest judged block of labels."""
        return math.log(run_blocks(self._risk_pagers, self.settings))

    def fold(self, slot: int, counts: Counts) -> None:
        """Take the counts of a sealed slot. Slots come in increasing order, each at most once, else ValueError."""
        self.advance(slot)
        self._blocks.fold(slot, self.placed(slot, counts))

    def fold_labels(self, slot: int, counts: LabelCounts) -> None:
        """Take a sealed slot of labels, by the time of their predictions; order as in `fold`."""
        self.advance_labels(slot)
        self._label_blocks.fold(slot, counts)
        self._labels.add(counts)

    def placed(self, slot: int, counts: Counts) -> Counts:
        """Those of a slot in the hour of the week in which it begins, where features are compared by hour."""
        strata = self._watches[self._seasonal[0]].law.strata if self._seasonal else None
        if not strata:
            return counts
        hour = math.floor(slot * self.settings.slot_s / HOUR_S)
        return counts.at(int(hours_of_week(np.array([hour]), strata.zone)[0]), self._seasonal)

    def counted(self, counts: Counts) -> Counts:
        """What is judged of a block's rows: all of them, or one of each cluster."""
        if self.profile and self.settings.unit.startswith("cluster:"):
            return counts.one_a_cluster(self.profile.features)
        return counts

    def reset(self, *, harm: bool = True) -> None:
        """Begin anew: no evidence, no alarm. What is counted and not yet judged stays, and so do the blocks before.

        Without `harm` its evidence and alarm stay as well, and those of calibration and coverage.
        """
        self._told = None
        for watch in self._watches.values():
            watch.reset()
        self._all.reset()
        self._joint = JointWatch(self.profile, self.settings) if self.profile and self._joint else None
        self._which = WhichWatch()
        self._checkup.reset(harm=harm)
        if self._risk and harm:
            self._risk.reset()

    def succeed(self, data: bytes) -> None:
        """Take the labels of a monitor with another reference from what it encoded: harm, its evidence, what is sealed.

        Of drift and data quality nothing goes over: their blocks are counted with the reference.
        """
        saved = msgspec.msgpack.decode(data, type=_Saved)
        self._load_labels(saved)
        if saved.checkup:
            self._checkup.load_labels(saved.checkup)

    def past(self) -> dict[str, Past]:
        """By feature, what its alarm is explained from."""
        return {name: watch.past(self.threshold) for name, watch in self._watches.items()}

    def harm(self) -> LossPast | None:
        """What a rise of the loss is explained from; None without an alarm of it."""
        return self._risk.harm() if self._risk else None

    def advance(self, slot: int) -> None:
        """All slots before `slot` are sealed: judge the block they end, if there is one. Changes no verdict to come."""
        if closed := self._blocks.advance(slot):
            self._judge(closed.counts, closed.end_s)

    def advance_labels(self, slot: int) -> None:
        """As `advance`, for slots of labels."""
        if closed := self._label_blocks.advance(slot):
            before, self._risk_pagers = self.risk_threshold, self._pagers_at(closed.end_s)
            judged = closed.counts, closed.end_s, self.risk_threshold, self.settings.quiet_blocks
            self._checkup.fade_labels(max(0.0, before - self.risk_threshold))
            self._checkup.judge_labels(*judged)
            if self._risk:
                self._risk.fade(max(0.0, before - self.risk_threshold))
                self._risk.judge(*judged)

    def drift(self) -> dict[str, DriftVerdict]:
        """By feature, `_prediction` among them, `_all`, whose alarm speaks for all of them, and `_joint`."""
        if self._told is None:
            self._told = self._tell()
        return self._told

    def _tell(self) -> dict[str, DriftVerdict]:
        look(self._watches.values())
        sizes, threshold = effects([watch.seen() for watch in self._watches.values()]), self.threshold
        verdicts = {
            name: watch.verdict(threshold, size)
            for (name, watch), size in zip(self._watches.items(), sizes, strict=True)
        }
        verdicts[ALL] = self._all.verdict(threshold, list(verdicts.values()))
        if self._joint:
            verdicts[JOINT] = self._joint.verdict(threshold)
        return {name: self._promised(name, verdict) for name, verdict in verdicts.items()}

    def which(self) -> tuple[Which, ...]:
        """The features that drifted, the strongest evidence first."""
        return self._which.verdict()

    def risk(self) -> RiskVerdict:
        if self._risk is None:
            return RiskVerdict(threshold=self.risk_threshold, note=self._why_no_risk())
        verdict = self._risk.verdict(self.risk_threshold, self._labels)
        if not self._risk.fit:
            return verdict
        run = run_blocks(self._risk_pagers, self.settings)
        said = promise.of_alarm(run, self.settings.block_s, (self._harmless(self._risk),))
        return msgspec.structs.replace(verdict, promise=said)

    def checks(self) -> Checks:
        """What is watched beside drift and harm."""
        return self._checkup.verdict(self.threshold, self.risk_threshold)

    @property
    def blocks(self) -> int:
        """Judged so far, of drift and of risk."""
        return self._all.blocks + self.risk().blocks

    @property
    def state(self) -> State:
        """Of harm and `_all`: `alarm` when one is on that may call somebody, `unfit` when none can be judged, `no_data`
        when none was yet.
        """
        risk = self.risk()
        if (self._all.alarm and not self._slow) or risk.alarm:
            return "alarm"
        if not any(watch.fit for watch in self._watches.values()) and risk.state == "unfit":
            return "unfit"
        return "ok" if self.blocks else "no_data"

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What the promise rests on, in plain words."""
        drift = self._assumed[ALL]
        return (*drift, self._harmless(self._risk)) if self._risk and self._risk.fit else drift

    def promise(self) -> str:
        """The promise of the whole budget with its assumptions."""
        if not self.assumptions:
            return "No promise: there is nothing that can be judged."
        return promise.of_all(self.pagers, self.run_blocks, self.settings.block_s, self.assumptions)

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
                which=self._which.save(),
                pagers=self.pagers,
                risk_pagers=self._risk_pagers,
                checkup=self._checkup.save(),
                joint=self._joint.save() if self._joint else None,
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
        self._load_labels(saved)
        self._told = None
        for name, watch in self._watches.items():
            watch.load(saved.watches[name])
        self._all.load(saved.all)
        self._which.load(saved.which)
        self.pagers = saved.pagers or self.pagers
        if self._joint and saved.joint:
            self._joint.load(saved.joint)
        if saved.checkup:
            self._checkup.load(saved.checkup)

    def _load_labels(self, saved: _Saved) -> None:
        self._label_blocks.load(saved.label_block, slot.decode_labels(saved.label_block.counts))
        self._labels = saved.labels
        self._risk_pagers = saved.risk_pagers or self._risk_pagers
        if self._risk and saved.risk:
            self._risk.load(saved.risk)

    def _judge(self, counts: Counts, at: float) -> None:
        counts = self.counted(counts)
        quiet, before = self.settings.quiet_blocks, self.threshold
        self.pagers, self._told = self._pagers_at(at), None
        threshold, faded = self.threshold, max(0.0, before - self.threshold)
        for watch in self._watches.values():
            watch.fade(faded)
        look(self._watches.values())
        self._checkup.fade(faded)
        self._checkup.judge(counts, at, threshold, quiet)
        if self._joint:
            self._joint.fade(faded)
            worth = max(watch.design_effect(counts.rows) for watch in self._watches.values())
            self._joint.judge(counts.sample, counts.rows, worth, at, threshold, quiet)
        cells = [counts.of(name, watch.law) for name, watch in self._watches.items()]
        if judge(list(self._watches.values()), cells, at, threshold, quiet):
            self._which.judge(lent(self._watches), at, threshold, quiet)
            self._all.judge(list(self._watches.values()), at, threshold, quiet)

    def _promised(self, name: str, verdict: DriftVerdict) -> DriftVerdict:
        assumptions = self._assumed[name]
        said = promise.of_alarm(self.run_blocks, self.settings.block_s, assumptions) if assumptions else ""
        return msgspec.structs.replace(verdict, severity=severity(name, self._slow), promise=said)

    @cached_property
    def _assumed(self) -> dict[str, tuple[str, ...]]:
        """What the promise of drift rests on: of a feature, of `_all`, of `_joint`."""
        return {name: self._assume(name) for name in (*self._watches, ALL, JOINT)}

    def _assume(self, name: str) -> tuple[str, ...]:
        laws = {key: watch.law for key, watch in self._watches.items() if watch.fit and name in (key, ALL, JOINT)}
        if not laws or not self.profile:
            return ()
        same, apart = promise.of_drift(laws, self.profile, self.settings)
        if name != JOINT or self._joint is None:
            return same, apart
        return () if self._joint.note else (self._joint.assumption, apart)

    def _harmless(self, risk: RiskWatch) -> str:
        """What the promise of harm rests on."""
        return risk.assumption + (promise.ALL_HOURS if self._seasonal else "")

    def _why_no_risk(self) -> str:
        notes = self.profile.notes if self.profile else ("there is no reference profile",)
        return next((note for note in notes if note.startswith("risk is not judged")), notes[0] if notes else "")


def _always(pagers: int) -> Pagers:
    return lambda at: pagers
