"""One node's counting: records and labels in, sealed slots out. No process, no file but the label store, no clock.

The clock of slots is the largest event time seen (and the wall clock once there is nothing older left to read, with
``event_time = "arrival"``). Whether a row is late depends on the records before it, never on how many of them were
read at once: so the counts are the same for any polling, and for any restart in between.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitors.book import Book, Version
from monitors.bundle import Bundle, Requests, bundles, join
from monitors.features import declared, tensors
from monitors.journal import Journal
from monitors.labels import Arrival, Label, LabelStore, Match, Predictions
from monitors.open_slots import Closed, OpenSlots
from monitors.panel import Panel
from monitors.reference import PREDICTION, Profile
from monitors.slot import Counts, LabelCounts, decode, decode_labels
from serving.config import Monitors
from serving.manifest import Manifest
from serving.packed import Layout, Packed
from serving.protocol import Array

Name = tuple[str, str]  # model, version
Identity = tuple[str, str, str]  # model, version, digest
log = logging.getLogger("gaugeway.monitors")

MAX_PANELS = 256  # at once; there is one for each layout of a version's records
NEVER = -(2**62)  # before all slots
MIN_FUTURE_S = 60.0  # an event time further ahead of the wall clock than this, or than `lateness_s`, is none


@dataclass(frozen=True)
class Sealed:
    """What will not change any more: all slots before `watermark`, all label slots before `label_watermark`."""

    watermark: int
    label_watermark: int
    slots: list[Closed[Counts]] = field(default_factory=list)
    labels: list[Closed[LabelCounts]] = field(default_factory=list)


class Times(NamedTuple):
    """Of all requests of a batch, shape (requests,): slot, whether it is sealed, whether the time is none."""

    time: NDArray[np.float64]
    slot: NDArray[np.int64]
    late: NDArray[np.bool_]
    misdated: NDArray[np.bool_]

    def of(self, which: NDArray[np.bool_]) -> "Times":
        return Times(self.time[which], self.slot[which], self.late[which], self.misdated[which])


class Marks(msgspec.Struct):
    """Where the clock stands, in seconds since 1970; None before the first record. Slots before a mark are sealed."""

    clock: float | None = None
    watermark: int | None = None
    label_watermark: int | None = None
    unknown: dict[str, int] = {}  # labels of a model that never met a prediction
    dropped: dict[str, int] = {}  # rows by reason
    lost_frames: int = 0
    doubled: int = 0
    conflicting: int = 0


class Ledger:
    """Open slots, books and the label store of one node."""

    def __init__(self, settings: Monitors, store: LabelStore) -> None:
        self._settings, self._store = settings, store
        self.books: dict[Name, Book] = {}
        self.marks = Marks()
        self._slots = OpenSlots("slot", Counts, decode)
        self._label_slots = OpenSlots("label_slot", LabelCounts, decode_labels)
        self._changed: set[Name] = set()
        self._panels: dict[Layout, Panel] = {}

    @property
    def store(self) -> LabelStore:
        return self._store

    def ingest(self, records: Sequence[Packed], versions: Mapping[Identity, Version | None], now: float) -> None:
        """Count records, in the order in which they were read. `versions` says of each what is known of it.

        `now` is the wall clock in seconds; an event time beyond it is refused.
        """
        if not records:
            return
        requests = join(records)
        times = self._times(requests, np.array([record.requests for record in records]), now)
        for bundle, which in bundles(records, requests):
            version = versions[bundle.layout.identity]
            if version is None:
                self.drop("unknown_version", bundle.rows)
            else:
                self._ingest(version, bundle, times.of(which), now)

    def label(self, labels: Sequence[Label], now: float) -> Arrival:
        """Join or park labels. Their times do not move the clock: one wrong label would make every row late."""
        clock = self.marks.clock
        if clock is None:
            clock = min([now, *(label.time for label in labels)])
        arrival = self._store.add_labels(labels, slot=self._slot(clock))
        self._follow(arrival.matches)
        self.marks.doubled += arrival.doubled
        self.marks.conflicting += arrival.conflicting
        self._unknown(arrival.turned_away)
        return arrival

    def seal(self, outside: float | None = None) -> Sealed:
        """Close the slots that the clock has left behind. A clock from `outside` (the wall, another node's records)
        moves it too: give it only when all that was written before is read.
        """
        marks = self.marks
        if outside is not None:
            marks.clock = outside if marks.clock is None else max(marks.clock, outside)
        if marks.clock is None:
            return Sealed(NEVER, NEVER)
        marks.watermark = max(self._mark(marks.clock, self._settings.lateness_s), _or_less(marks.watermark))
        before = marks.label_watermark
        marks.label_watermark = max(self._mark(marks.clock, self._horizon_s), _or_less(before))
        if marks.label_watermark != before:
            self._unknown(self._store.expire(self._expired))
        slots, labels = self._slots.close(marks.watermark), self._close_labels(marks.label_watermark)
        return Sealed(marks.watermark, marks.label_watermark, slots, labels)

    def refusal(self, model: str, label: float) -> str | None:
        """Why no version of the model could judge this label, else None."""
        reasons = [book.refusal(label) for (name, _), book in self.books.items() if name == model and book.task]
        return reasons[0] if reasons and all(reasons) else None

    @property
    def open_rows(self) -> int:
        """Rows that were counted and are not yet sealed."""
        return sum(counts.rows for counts in self._slots.values())

    def drop(self, reason: str, rows: int) -> None:
        if rows:
            self.marks.dropped[reason] = self.marks.dropped.get(reason, 0) + rows

    def save(self, journal: Journal) -> None:
        """Write what changed since the last `save`."""
        self._store.save()
        journal.put("marks", {(): msgspec.msgpack.encode(self.marks)})
        journal.put("book", {name: msgspec.msgpack.encode(self.books[name]) for name in self._changed})
        self._changed.clear()
        self._slots.save(journal)
        self._label_slots.save(journal)

    def load(self, journal: Journal) -> None:
        """Go on from what was last committed."""
        if marks := journal.one("marks"):
            self.marks = msgspec.msgpack.decode(marks, type=Marks)
        for (model, version), data in journal.all("book").items():
            self.books[str(model), str(version)] = msgspec.msgpack.decode(data, type=Book)
        self._slots.load(journal)
        self._label_slots.load(journal)

    @property
    def _horizon_s(self) -> float:
        return max(self._settings.label_horizon_s, self._settings.lateness_s)

    @property
    def _expired(self) -> int:
        """Predictions before this slot are forgotten: they were kept for two horizons."""
        return _or_less(self.marks.label_watermark) - math.ceil(self._horizon_s / self._settings.slot_s)

    def _slot(self, time: float) -> int:
        return math.floor(time / self._settings.slot_s)

    def _mark(self, clock: float, patience_s: float) -> int:
        """Slots before this one ended at least `patience_s` before the clock."""
        return math.floor((clock - patience_s) / self._settings.slot_s)

    def _latest(self, now: float) -> float:
        """The latest event time that is believed."""
        if self._settings.event_time == "arrival":
            return math.inf
        return now + max(self._settings.lateness_s, MIN_FUTURE_S)

    def _times(self, table: Requests, requests: Array, now: float) -> Times:
        """Slot and lateness of every request, from the clock as it stood before its record; moves the clock."""
        time = table["event_time" if self._settings.event_time == "request" else "arrival_time"]
        misdated = ~((time <= self._latest(now)) & (time >= 0) & (time < 2.0**40))
        known = np.where(misdated, -math.inf, time)
        peaks = np.maximum.reduceat(known, np.cumsum(requests) - requests)
        clock = -math.inf if self.marks.clock is None else self.marks.clock
        clocks = np.maximum.accumulate(np.concatenate([[clock], peaks]))
        marks = np.floor((clocks[:-1] - self._settings.lateness_s) / self._settings.slot_s)
        marks = np.maximum(marks, -math.inf if self.marks.watermark is None else self.marks.watermark)
        if clocks[-1] > -math.inf:
            self.marks.clock = float(clocks[-1])
        slot = np.floor(np.where(misdated, 0.0, time) / self._settings.slot_s)
        return Times(known, slot.astype(np.int64), slot < np.repeat(marks, requests), misdated)

    def _ingest(self, version: Version, bundle: Bundle, times: Times, now: float) -> None:
        """Count records of one version and layout."""
        name, counts = bundle.layout.identity[:2], bundle.counts
        book = self._book(name, version)
        failed = bundle.requests["status"] != 200
        late = times.late & ~failed & ~times.misdated
        book.rows += bundle.rows
        book.failed += int(counts[failed].sum())
        book.misdated += int(counts[times.misdated].sum())
        book.late += int(counts[late].sum())
        book.last_time = max(book.last_time, float(times.time.max()))
        book.seen = max(book.seen, now)
        whole = ~failed & ~times.misdated
        try:
            self._read(name, version, bundle, times, whole, late)
        except (ValueError, IndexError, TypeError) as error:  # tensors that do not fit the manifest; nothing is counted
            self.drop("unreadable", bundle.rows)
            log.warning("%d rows of %s version %s cannot be read: %s", bundle.rows, *name, error)

    def _read(self, name: Name, version: Version, bundle: Bundle, times: Times, whole: Array, late: Array) -> None:
        """Count the rows' features and let their predictions wait. Raises before anything of them is counted."""
        found = tensors(bundle, version.manifest) if bundle.layout.tensors and whole.any() else {}
        values = np.asarray(found.get(PREDICTION, ()), np.float64)
        if version.profile is not None and found:
            panel = self._panel(version.profile, version.manifest, bundle.layout)
            self._count(name, panel, found, bundle.spread(times.slot), bundle.spread(whole & ~late))
        if self.books[name].task is not None and PREDICTION in found:
            self._wait(name, bundle, values, times, whole, late)

    def _panel(self, profile: Profile, manifest: Manifest, layout: Layout) -> Panel:
        panel = self._panels.get(layout)
        if panel is None:
            if len(self._panels) >= MAX_PANELS:
                self._panels.clear()
            panel = self._panels[layout] = Panel(profile.features, declared(manifest, layout))
        return panel

    def _count(self, name: Name, panel: Panel, found: Mapping[str, Array], slots: Array, use: Array) -> None:
        if not use.all():
            found, slots = {key: array[use] for key, array in found.items()}, slots[use]
        numbers, place = np.unique(slots, return_inverse=True)
        for number, counts in zip(numbers.tolist(), panel.count(found, place, len(numbers)), strict=True):
            self._slots.at((*name, number)).add(counts)

    def _wait(self, name: Name, bundle: Bundle, values: Array, times: Times, whole: Array, late: Array) -> None:
        """Let predictions wait for their labels."""
        use = bundle.spread(whole & (times.slot >= self._expired)) & (values == values)
        lane = name[1] if bundle.layout.role == "shadow" else ""
        sizes = bundle.requests["id_bytes"].astype(np.int64)
        slot, time, counted = (bundle.spread(fact)[use] for fact in (times.slot, times.time, ~late))
        self._admit(
            name,
            Predictions(
                *name, lane, bundle.ids, sizes, bundle.request[use], bundle.row[use], slot, values[use], time, counted
            ),
        )

    def _admit(self, name: Name, rows: Predictions) -> None:
        admission = self._store.add_predictions(rows)
        book = self.books[name]
        book.expected += int(admission.admitted.sum())
        book.sampled_out += admission.sampled_out
        book.reused += admission.reused
        slots, counts = np.unique(rows.slot[admission.admitted & rows.counted], return_counts=True)
        for slot, n in zip(slots.tolist(), counts.tolist(), strict=True):
            self._label_slots.at((*name, slot)).predictions += n
        self._follow(admission.matches)

    def _follow(self, matches: list[Match]) -> None:
        """Bring books and open label slots up to date with changed truths."""
        for name, group in groupby(sorted(matches, key=_name), _name):
            changed = list(group)
            self._changed.add(name)
            for match, (labelled, loss) in zip(changed, self.books[name].follow(changed), strict=True):
                slot = match.prediction.slot
                if match.prediction.counted and slot >= _or_less(self.marks.label_watermark):
                    counts = self._label_slots.at((*name, slot))
                    counts.labelled += labelled
                    counts.loss += loss

    def _book(self, name: Name, version: Version) -> Book:
        """The version's book; a new one where other content came under the same name."""
        book = self.books.get(name)
        if book is None or book.digest != version.manifest.digest:
            self._slots.drop(*name)
            self._label_slots.drop(*name)
            book = self.books[name] = Book.of(version)
        self._changed.add(name)
        return book

    def _close_labels(self, before: int) -> list[Closed[LabelCounts]]:
        closed = self._label_slots.close(before)
        for model, version, _, counts in closed:
            book = self.books[model, version]
            book.due += counts.predictions
            book.due_labelled += counts.labelled
            self._changed.add((model, version))
        return closed

    def _unknown(self, labels: Mapping[str, int]) -> None:
        for model, n in labels.items():
            self.marks.unknown[model] = self.marks.unknown.get(model, 0) + n


def _name(match: Match) -> Name:
    return match.prediction.model, match.prediction.version


def _or_less(mark: int | None) -> int:
    return NEVER if mark is None else mark
