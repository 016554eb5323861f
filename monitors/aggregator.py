"""Adds the sealed slots of all nodes and folds them in order: the one place that judges.

A slot is folded once every live node has sealed it, so which node counted which rows, and when it sent them, does
not change a bit of any verdict. What a node sends again after a restart is recognised by its watermark. A node that
is gone holds nobody back: what of its rows comes too late, or never, is counted as gone.
"""

import math
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from monitors.adoption import AHEAD, Adoption
from monitors.book import Version
from monitors.budget import Change, Division, run_blocks
from monitors.case import Case
from monitors.checkup import Checks
from monitors.drift.watch import DriftVerdict, Past
from monitors.drift.which import Which
from monitors.explain.rise import LossPast
from monitors.features import of_unit
from monitors.journal import State
from monitors.learning import Learning
from monitors.ledger import NEVER, Name
from monitors.open_slots import Key, OpenSlots
from monitors.orders import Order
from monitors.parcel import Marks, Parcel
from monitors.profile import Profile
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
    harm: LossPast | None = None  # what a rise of the loss is explained from
    laws: dict[str, Marginal] = {}
    published: Profile | None = None  # to which the loss is held
    order: int = 0  # the number of the newest order that was carried out


class Budget(msgspec.Struct, frozen=True):
    """The alarm budget, and who shares it."""

    false_pages_per_90_days: float
    pagers: int  # N: alarms that page or open a ticket
    run_blocks: float  # A_i: mean number of blocks to a false alarm of each, at least
    changes: tuple[Change, ...]  # of N, the newest last


class _Folded(msgspec.Struct):
    """Up to where all was judged, and the rows that came too late for it."""

    marks: Marks = Marks()
    gone_rows: int = 0
    superseded_rows: int = 0  # counted with a reference that held no longer


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
        self._cases: dict[Name, Case] = {}
        self._slots = OpenSlots("pending_slot", Counts, decode)
        self._label_slots = OpenSlots("pending_label_slot", LabelCounts, decode_labels)
        self._saved: dict[Name, bytes] = {}
        self._references: dict[Name, bytes] = {}  # that were adopted when the state was written
        self._learned: dict[Name, bytes] = {}  # rows, as they were written
        self._changed: set[Name] = set()
        self._adopted: set[Name] = set()  # since the last `save`
        self._astray: set[Name] = set()  # of which a node counted with a reference that does not hold

    @property
    def names(self) -> list[Name]:
        return sorted(self._cases)

    @property
    def gone_rows(self) -> int:
        """Rows that are in no verdict because their node was gone when the others' slots were judged."""
        return self._folded.gone_rows

    @property
    def superseded_rows(self) -> int:
        """Rows that are in no verdict because their node had not heard in time of another reference."""
        return self._folded.superseded_rows

    @property
    def budget(self) -> Budget:
        """As of what is folded."""
        settings, until_s = self._settings, self._folded.marks.slot * self._settings.slot_s
        n = self._division.at(until_s)
        changes = tuple(self._division.changes(until_s)[-SHOWN_CHANGES:])
        return Budget(settings.false_pages_per_90_days, n, run_blocks(n, settings), changes)

    def version(self, name: Name) -> Version:
        return self._cases[name].version

    def marks(self, node: str) -> Marks:
        """Up to where the node's slots were taken."""
        known = self._nodes.get(node)
        return known.marks if known else Marks()

    def know(self, version: Version) -> None:
        """Watch a version; one whose content changed is watched from the beginning."""
        name = (version.manifest.model, version.manifest.version)
        known = self._cases.get(name)
        if known is None or known.version.manifest.digest != version.manifest.digest:
            case = self._cases[name] = Case(version, self._settings, self._division)
            if data := self._saved.pop(name, None):
                case.restore(data, self._references.get(name, b""), self._learned.pop(name, b""))
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

    def obey(self, orders: Iterable[Order], references: Mapping[str, Profile], clock: float | None) -> None:
        """Carry out what was ordered of versions that are known, and was not yet.

        `references` are profiles by digest. An order whose profile is not there waits, and so do those after it of its
        version, unless one of them brings another that is there. What was learned is no reference any more where
        another one came first. `clock` is the largest event time of all nodes; None before the first record.
        """
        left, waiting = list(self._left(orders)), set[Name]()
        newest = {(one.model, one.version): one.number for one in left if _brings(one, references)}
        since = NEVER if clock is None else math.floor(clock / self._settings.slot_s) + AHEAD
        for order in left:
            name, found = (order.model, order.version), references.get(order.reference)
            missing = order.reference and found is None and order.number > newest.get(name, 0)
            if name in waiting or missing:
                waiting.add(name)
                continue
            if found is not None and (order.kind != "learn" or not self._cases[name].adoption):
                self._adopt(order, found, since)
            self._touch(name).obey(order)

    def wanted(self, orders: Iterable[Order]) -> dict[str, Name]:
        """The references of orders that are still to be carried out, by digest, each with a version that needs it."""
        return {order.reference: (order.model, order.version) for order in self._left(orders) if order.reference}

    @property
    def adoptions(self) -> tuple[Adoption, ...]:
        """Of all versions that have another reference than that of their publication, or had one at a node."""
        cases = self._cases.items()
        return tuple(case.holding for name, case in sorted(cases) if case.adoption or name in self._astray)

    @property
    def learned(self) -> dict[Name, Learning]:
        """Of versions that have learned enough, and have not adopted it yet."""
        found = {name: case.learning for name, case in sorted(self._cases.items())}
        return {name: learning for name, learning in found.items() if learning and learning.done}

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
        case = self._cases[name]
        monitor, version = case.monitor, case.version
        laws = case.profile.features if case.profile else {}
        return Verdicts(
            digest=version.manifest.digest,
            state="learning" if case.learning else _state(monitor.state, version),
            drift=monitor.drift() if version.profile else {},
            risk=monitor.risk(),
            checks=monitor.checks(),
            design_effect={feature: law.design_effect for feature, law in laws.items()},
            judged_at=case.judged_at,
            promise=monitor.promise(),
            notes=(
                *version.notes,
                *(version.profile.notes if version.profile else ()),
                *of_unit(self._settings.unit, version.manifest.features, case.profile),
                *case.notes,
            ),
            which=monitor.which(),
            past=monitor.past(),
            harm=monitor.harm(),
            laws=laws,
            published=case.published,
            order=case.order,
        )

    def save(self, journal: State) -> set[Name]:
        """Write what changed since the last `save`; the versions that did."""
        journal.put("node", {(node,): msgspec.msgpack.encode(known) for node, known in self._nodes.items()})
        journal.put("folded", {(): msgspec.msgpack.encode(self._folded)})
        self._division.save(journal)
        journal.put("monitor", {name: self._cases[name].encode() for name in self._changed})
        adopted = ((name, self._cases[name].version.profile) for name in self._adopted)
        journal.put("reference", {name: profile.encode() for name, profile in adopted if profile})
        learning = ((name, self._cases[name].learning) for name in self._changed)
        journal.put("learned", {name: news for name, found in learning if found and (news := found.news())})
        journal.remove("learned", self._adopted)
        self._adopted.clear()
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
        self._saved = _by_name(journal, "monitor")
        self._references, self._learned = _by_name(journal, "reference"), _by_name(journal, "learned")
        self._slots.load(journal)
        self._label_slots.load(journal)

    def _left(self, orders: Iterable[Order]) -> Iterator[Order]:
        """Orders of known versions that were not carried out yet."""
        for order in orders:
            case = self._cases.get((order.model, order.version))
            if case is not None and order.number > case.order:
                yield order

    def _adopt(self, order: Order, profile: Profile, since: int) -> None:
        """What waits was counted with the reference before."""
        name, case = (order.model, order.version), self._cases[order.model, order.version]
        content = case.version.manifest.digest
        case.adopt(Adoption(*name, content, order.number, order.reference, since, order.rows), profile)
        self._slots.drop(*name)
        self._adopted.add(name)

    def _add(self, known: _Node, key: Key, counts: Counts) -> None:
        if key[2] >= self._folded.marks.slot:
            self._pend(key, counts)
            return
        expected = min(counts.rows, known.given_up or 0)  # was counted when the others went on
        known.given_up = (known.given_up or 0) - expected
        self._folded.gone_rows += counts.rows - expected

    def _pend(self, key: Key, counts: Counts) -> None:
        """Add to what waits to be judged. Of another reference than the one that holds nothing is."""
        case = self._cases.get(key[:2])
        if case is None:  # it was taken out of the registry
            self._folded.gone_rows += counts.rows
        elif case.takes(key[2], counts):
            self._slots.at(key).add(counts)
        elif case.adoption is None or key[2] >= case.adoption.since:
            self._folded.superseded_rows += counts.rows
            self._astray.add(key[:2])

    def _fold(self, mark: int, label_mark: int, now: float) -> None:
        closed = self._slots.close(mark)
        for model, version, slot, _ in closed:  # before any block that ends behind them is judged
            if (case := self._cases.get((model, version))) and case.pagers:
                self._division.note((model, version), slot, case.pagers)
        for model, version, slot, counts in closed:
            if (model, version) not in self._cases:  # it was taken out of the registry
                self._folded.gone_rows += counts.rows
                continue
            self._touch((model, version)).fold(slot, counts)
        for model, version, slot, labels in self._label_slots.close(label_mark):
            if (model, version) in self._cases:
                self._touch((model, version)).monitor.fold_labels(slot, labels)
        for name, case in self._cases.items():
            block = self._block(mark) + self._block(label_mark)  # both only grow
            if block > case.block:
                self._touch(name).block = block
                case.advance(mark)
                case.monitor.advance_labels(label_mark)
                self._look(case, now)

    def _touch(self, name: Name) -> Case:
        self._changed.add(name)
        return self._cases[name]

    def _look(self, case: Case, now: float) -> None:
        """Note when something was judged anew."""
        judged = case.monitor.blocks
        if judged > case.judged:
            case.judged, case.judged_at = judged, now

    def _block(self, slot: int) -> int:
        return math.floor(slot * self._settings.slot_s / self._settings.block_s)


def _state(judged: str, version: Version) -> str:
    """Where the reference is of another schema, silence means nothing; an alarm still does."""
    if version.profile is None:
        return "no_data"
    return "unfit" if version.mismatches and judged != "alarm" else judged


def _brings(order: Order, references: Mapping[str, Profile]) -> bool:
    """Whether a person's order brings a profile that is there."""
    return order.kind != "learn" and order.reference in references


def _by_name(journal: State, kind: str) -> dict[Name, bytes]:
    return {(str(name[0]), str(name[1])): data for name, data in journal.all(kind).items()}
