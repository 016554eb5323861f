"""Adds the sealed slots of all nodes and folds them in order: the one place that judges.

A slot is folded once every live node has sealed it, so which node counted which rows, and when it sent them, does
not change a bit of any verdict. What a node sends again after a restart is recognised by its watermark. A node that
is gone holds nobody back: what of its rows comes too late, or never, is counted as gone.
"""

import math
from collections.abc import Iterable

import msgspec

from monitors.book import Version
from monitors.budget import Change, Division, pagers, run_blocks
from monitors.checkup import Checks
from monitors.drift.watch import DriftVerdict, Past
from monitors.drift.which import Which
from monitors.features import unclustered
from monitors.journal import State
from monitors.ledger import Name
from monitors.monitor import Monitor
from monitors.open_slots import Key, OpenSlots
from monitors.orders import Order
from monitors.parcel import Marks, Parcel
from monitors.rebase import Rebased, rebase
from monitors.reference import Marginal
from monitors.risk import RiskVerdict
from monitors.slot import Counts, LabelCounts, decode, decode_labels
from serving.config import Monitors

SHOWN_CHANGES = 50


class Verdicts(msgspec.Struct, frozen=True, kw_only=True):
    """All that is said of one version."""

    digest: str
    state: str
    drift: dict[str, DriftVerdict]
    risk: RiskVerdict
    checks: Checks
    design_effect: dict[str, float]
    judged_at: float | None  # wall clock of the newest judgement
    promise: str
    notes: tuple[str, ...]
    which: tuple[Which, ...] = ()  # the features that drifted
    past: dict[str, Past] = {}  # by feature, what its alarm is explained from
    laws: dict[str, Marginal] = {}
    order: int = 0  # the number of the newest order that was carried out


class Budget(msgspec.Struct, frozen=True):
    """The alarm budget, and who shares it."""

    false_pages_per_90_days: float
    pagers: int  # N: alarms that page or open a ticket
    run_blocks: float  # A_i: mean number of blocks to a false alarm of each, at least
    changes: tuple[Change, ...]  # of N, the newest last


class _Saved(msgspec.Struct, array_like=True):
    """A judge as it is stored."""

    digest: str
    monitor: bytes
    recent: dict[int, bytes]  # of an earlier release
    block: int
    judged: int
    judged_at: float | None
    order: int = 0
    rebased: tuple[Rebased, ...] = ()


class _Judge:
    """One version, and what was judged of it."""

    def __init__(self, version: Version, settings: Monitors, division: Division) -> None:
        self.version, self._settings, self._division = version, settings, division
        self.rebased: tuple[Rebased, ...] = ()  # the newest last, which holds
        self._begin()
        self.block = 0
        self.judged = 0
        self.judged_at: float | None = None
        self.order = 0

    def obey(self, order: Order) -> None:
        """Once each, in their order; before the next block is judged."""
        if order.kind == "rebase" and self.profile is not None:
            newest = self.rebased[-1] if self.rebased else None
            laws, past, block_s = self.profile.features, self.monitor.past(), self._settings.block_s
            self.rebased = (*self.rebased, rebase(order.number, laws, past, newest, block_s))
            state = self.monitor.encode()
            self._begin()
            self.monitor.restore(state)
        self.monitor.reset(harm=order.kind == "reset")
        self.order = order.number

    def _begin(self) -> None:
        """A new monitor, with the reference that holds."""
        published = self.version.profile
        self.profile = self.rebased[-1].applied(published) if published and self.rebased else published
        self.pagers = pagers(self.profile, self._settings, self.version.takes_labels)
        self.monitor = Monitor(self.profile, self._settings, self._division.at)

    def encode(self) -> bytes:
        digest, state = self.version.manifest.digest, self.monitor.encode()
        return msgspec.msgpack.encode(
            _Saved(digest, state, {}, self.block, self.judged, self.judged_at, self.order, self.rebased)
        )

    def restore(self, data: bytes) -> None:
        saved = msgspec.msgpack.decode(data, type=_Saved)
        if saved.digest == self.version.manifest.digest:
            self.rebased = saved.rebased
            self._begin()
            self.monitor.restore(saved.monitor)
            self.block, self.judged, self.judged_at = saved.block, saved.judged, saved.judged_at
            self.order = saved.order


class _Folded(msgspec.Struct):
    """Up to where all was judged, and the rows that came too late for it."""

    marks: Marks = Marks()
    gone_rows: int = 0


class _Node(msgspec.Struct):
    """What is known of a node: up to where it was taken, and what was given up when the others went on without it."""

    marks: Marks = Marks()
    open_rows: int = 0
    given_up: int | None = None  # rows; None while nothing is


class Aggregator:
    """Monitors of all versions."""

    def __init__(self, settings: Monitors) -> None:
        self._settings = settings
        self._nodes: dict[str, _Node] = {}
        self._folded = _Folded()
        self._division = Division(settings)
        self._judges: dict[Name, _Judge] = {}
        self._slots = OpenSlots("pending_slot", Counts, decode)
        self._label_slots = OpenSlots("pending_label_slot", LabelCounts, decode_labels)
        self._saved: dict[Name, bytes] = {}
        self._changed: set[Name] = set()

    @property
    def names(self) -> list[Name]:
        return sorted(self._judges)

    @property
    def gone_rows(self) -> int:
        """Rows that are in no verdict because their node was gone when the others' slots were judged."""
        return self._folded.gone_rows

    @property
    def budget(self) -> Budget:
        """As of what is folded."""
        settings, until_s = self._settings, self._folded.marks.slot * self._settings.slot_s
        n = self._division.at(until_s)
        changes = tuple(self._division.changes(until_s)[-SHOWN_CHANGES:])
        return Budget(settings.false_pages_per_90_days, n, run_blocks(n, settings), changes)

    def version(self, name: Name) -> Version:
        return self._judges[name].version

    def marks(self, node: str) -> Marks:
        """Up to where the node's slots were taken."""
        known = self._nodes.get(node)
        return known.marks if known else Marks()

    def know(self, version: Version) -> None:
        """Watch a version; one whose content changed is watched from the beginning."""
        name = (version.manifest.model, version.manifest.version)
        known = self._judges.get(name)
        if known is None or known.version.manifest.digest != version.manifest.digest:
            judge = self._judges[name] = _Judge(version, self._settings, self._division)
            if data := self._saved.pop(name, None):
                judge.restore(data)
            self._changed.add(name)

    def take(self, node: str, parcels: Iterable[Parcel], open_rows: int = 0) -> None:
        """Add what a node has sealed; what it sent before is left out. Versions must be known."""
        known = self._nodes.setdefault(node, _Node())
        for parcel in parcels:
            for model, version, slot, data in parcel.slots:
                if slot >= known.marks.slot:
                    self._add(known, (model, version, slot), decode(data))
            for model, version, slot, data in parcel.labels:
                if slot >= max(known.marks.label_slot, self._folded.marks.label_slot):
                    self._label_slots.at((model, version, slot)).add(decode_labels(data))
            known.marks = max(known.marks, parcel.marks)
        known.open_rows = open_rows
        if known.marks.slot >= self._folded.marks.slot:
            known.given_up = None  # it has caught up

    def obey(self, orders: Iterable[Order]) -> None:
        """Carry out what was ordered of versions that are known, and was not yet."""
        for order in orders:
            judge = self._judges.get((order.model, order.version))
            if judge is not None and order.number > judge.order:
                self._touch((order.model, order.version)).obey(order)

    def judge(self, live: Iterable[str], now: float) -> None:
        """Fold and judge what all `live` nodes have sealed; one that has sent nothing yet holds all back.

        `now` is the wall clock. The others are gone: what of theirs is missing is given up, and counted.
        """
        here = {node: self.marks(node) for node in live}
        if not here:
            return
        before, marks = self._folded.marks, here.values()
        self._folded.marks = folded = Marks(
            max(before.slot, min(mark.slot for mark in marks)),
            max(before.label_slot, min(mark.label_slot for mark in marks)),
        )
        for node, known in self._nodes.items():
            if node not in here and known.marks.slot < folded.slot and known.given_up is None:
                known.given_up = known.open_rows
                self._folded.gone_rows += known.open_rows
        self._fold(folded.slot, folded.label_slot, now)

    def verdicts(self, name: Name) -> Verdicts:
        judge = self._judges[name]
        monitor, version = judge.monitor, judge.version
        laws = judge.profile.features if judge.profile else {}
        return Verdicts(
            digest=version.manifest.digest,
            state=_state(monitor.state, version),
            drift=monitor.drift() if version.profile else {},
            risk=monitor.risk(),
            checks=monitor.checks(),
            design_effect={feature: law.design_effect for feature, law in laws.items()},
            judged_at=judge.judged_at,
            promise=monitor.promise(),
            notes=(
                *version.notes,
                *(version.profile.notes if version.profile else ()),
                *unclustered(self._settings.unit, version.manifest.features),
                *(judge.rebased[-1].notes if judge.rebased else ()),
            ),
            which=monitor.which(),
            past=monitor.past(),
            laws=laws,
            order=judge.order,
        )

    def save(self, journal: State) -> set[Name]:
        """Write what changed since the last `save`; the versions that did."""
        journal.put("node", {(node,): msgspec.msgpack.encode(known) for node, known in self._nodes.items()})
        journal.put("folded", {(): msgspec.msgpack.encode(self._folded)})
        self._division.save(journal)
        journal.put("monitor", {name: self._judges[name].encode() for name in self._changed})
        changed, self._changed = self._changed, set()
        self._slots.save(journal)
        self._label_slots.save(journal)
        return changed

    def load(self, journal: State) -> None:
        """Go on from what was last committed; each monitor once its version is known."""
        for (node,), known in journal.all("node").items():
            self._nodes[str(node)] = msgspec.msgpack.decode(known, type=_Node)
        if folded := journal.all("folded").get(()):
            self._folded = msgspec.msgpack.decode(folded, type=_Folded)
        self._division.load(journal)
        self._saved = {(str(name[0]), str(name[1])): data for name, data in journal.all("monitor").items()}
        self._slots.load(journal)
        self._label_slots.load(journal)

    def _add(self, known: _Node, key: Key, counts: Counts) -> None:
        if key[2] >= self._folded.marks.slot:
            self._slots.at(key).add(counts)
            return
        expected = min(counts.rows, known.given_up or 0)  # was counted when the others went on
        known.given_up = (known.given_up or 0) - expected
        self._folded.gone_rows += counts.rows - expected

    def _fold(self, mark: int, label_mark: int, now: float) -> None:
        closed = self._slots.close(mark)
        for model, version, slot, _ in closed:  # before any block that ends behind them is judged
            if (judge := self._judges.get((model, version))) and judge.pagers:
                self._division.note((model, version), slot, judge.pagers)
        for model, version, slot, counts in closed:
            if (model, version) not in self._judges:  # it was taken out of the registry
                self._folded.gone_rows += counts.rows
                continue
            self._touch((model, version)).monitor.fold(slot, counts)
        for model, version, slot, labels in self._label_slots.close(label_mark):
            if (model, version) in self._judges:
                self._touch((model, version)).monitor.fold_labels(slot, labels)
        for name, judge in self._judges.items():
            block = self._block(mark) + self._block(label_mark)  # both only grow
            if block > judge.block:
                self._touch(name).block = block
                judge.monitor.advance(mark)
                judge.monitor.advance_labels(label_mark)
                self._look(judge, now)

    def _touch(self, name: Name) -> _Judge:
        self._changed.add(name)
        return self._judges[name]

    def _look(self, judge: _Judge, now: float) -> None:
        """Note when something was judged anew."""
        judged = judge.monitor.blocks
        if judged > judge.judged:
            judge.judged, judge.judged_at = judged, now

    def _block(self, slot: int) -> int:
        return math.floor(slot * self._settings.slot_s / self._settings.block_s)


def _state(judged: str, version: Version) -> str:
    """Where the reference is of another schema, silence means nothing; an alarm still does."""
    if version.profile is None:
        return "no_data"
    return "unfit" if version.mismatches and judged != "alarm" else judged
