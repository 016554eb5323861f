"""Adds the sealed slots of all nodes and folds them in order: the one place that judges.

A slot is folded once every live node has sealed it, so which node counted which rows, and when it sent them, does
not change a bit of any verdict. What a node sends again after a restart is recognised by its watermark. A node that
is gone holds nobody back: what of its rows comes too late, or never, is counted as gone.
"""

import math
from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np

from monitors.book import Version
from monitors.drift.watch import DriftVerdict
from monitors.journal import State
from monitors.ledger import Name
from monitors.monitor import ALL, Monitor
from monitors.open_slots import Key, OpenSlots
from monitors.parcel import Marks, Parcel
from monitors.reference import Marginal
from monitors.risk import RiskVerdict
from monitors.slot import Counts, LabelCounts, decode, decode_labels
from serving.config import Monitors

PAGERS = 2  # alarms of a version that share its budget of false alarms: risk, and drift of the whole
RECENT_BLOCKS = 2  # behind the ratios of missing, unseen and out-of-range values


class Quality(msgspec.Struct, frozen=True):
    """Shares of a feature's rows in the newest blocks, 0..1; None where the kind of feature has no such cell."""

    missing: float
    unseen: float | None
    out_of_range: float | None


class Verdicts(msgspec.Struct, frozen=True, kw_only=True):
    """All that is said of one version."""

    digest: str
    state: str
    drift: dict[str, DriftVerdict]
    risk: RiskVerdict
    quality: dict[str, Quality]
    design_effect: dict[str, float]
    judged_at: float | None  # wall clock of the newest judgement
    promise: str
    notes: tuple[str, ...]


class _Judge:
    """One version: its monitor, and the newest blocks' counts for what is shown but not judged."""

    def __init__(self, version: Version, settings: Monitors) -> None:
        self.version = version
        self.monitor = Monitor(version.profile, settings, PAGERS)
        self.recent: dict[int, Counts] = {}
        self.block = 0
        self.judged = 0
        self.judged_at: float | None = None

    def encode(self) -> bytes:
        recent = {block: counts.encode() for block, counts in self.recent.items()}
        digest = self.version.manifest.digest
        return msgspec.msgpack.encode((digest, self.monitor.encode(), recent, self.block, self.judged, self.judged_at))

    def restore(self, data: bytes) -> None:
        digest, state, recent, block, judged, at = msgspec.msgpack.decode(
            data, type=tuple[str, bytes, dict[int, bytes], int, int, float | None]
        )
        if digest == self.version.manifest.digest:
            self.monitor.restore(state)
            self.recent = {number: decode(counts) for number, counts in recent.items()}
            self.block, self.judged, self.judged_at = block, judged, at


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
            judge = self._judges[name] = _Judge(version, self._settings)
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
        laws = version.profile.features if version.profile else {}
        return Verdicts(
            digest=version.manifest.digest,
            state=monitor.state if version.profile else "no_data",
            drift=monitor.drift() if version.profile else {},
            risk=monitor.risk(),
            quality=_qualities(laws, judge.recent),
            design_effect={feature: law.design_effect for feature, law in laws.items()},
            judged_at=judge.judged_at,
            promise=monitor.promise(),
            notes=(*version.notes, *(version.profile.notes if version.profile else ())),
        )

    def save(self, journal: State) -> set[Name]:
        """Write what changed since the last `save`; the versions that did."""
        journal.put("node", {(node,): msgspec.msgpack.encode(known) for node, known in self._nodes.items()})
        journal.put("folded", {(): msgspec.msgpack.encode(self._folded)})
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
        for model, version, slot, counts in self._slots.close(mark):
            if (model, version) not in self._judges:  # it was taken out of the registry
                self._folded.gone_rows += counts.rows
                continue
            judge = self._touch((model, version))
            judge.monitor.fold(slot, counts)
            self._remember(judge, slot, counts)
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
        judged = judge.monitor.drift()[ALL].blocks + judge.monitor.risk().blocks
        if judged > judge.judged:
            judge.judged, judge.judged_at = judged, now

    def _remember(self, judge: _Judge, slot: int, counts: Counts) -> None:
        block = self._block(slot)
        judge.recent.setdefault(block, Counts()).add(counts)
        for old in sorted(judge.recent)[:-RECENT_BLOCKS]:
            del judge.recent[old]

    def _block(self, slot: int) -> int:
        return math.floor(slot * self._settings.slot_s / self._settings.block_s)


def _qualities(laws: dict[str, Marginal], recent: dict[int, Counts]) -> dict[str, Quality]:
    total = Counts()
    for counts in recent.values():
        total.add(counts)
    return {name: _quality(law, total.cells[name]) for name, law in laws.items() if name in total.cells}


def _quality(law: Marginal, cells: Any) -> Quality:
    """From the cells below, bins, above, missing of a number; common, other, unseen, missing of a category."""
    shares = (np.asarray(cells) / max(int(np.sum(cells)), 1)).tolist()
    if law.kind == "numeric":
        return Quality(shares[-1], None, shares[0] + shares[-2])
    return Quality(shares[-1], shares[-2], None)
