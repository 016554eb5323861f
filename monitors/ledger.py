"""One node's counting: records and labels in, sealed slots out. No process, no file but the label store, no clock.

The clock of slots is the largest event time seen (and the wall clock once there is nothing older left to read, with
``event_time = "arrival"``). Whether a row is late depends on the records before it, never on how many of them were
read at once: so the counts are the same for any polling, and for any restart in between.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitors.block import last_slot
from monitors.book import Book, Version, span_s
from monitors.bottom_k import hashes
from monitors.bundle import Bundle, bundles, join
from monitors.cell_losses import follow, gathered
from monitors.clusters import keys
from monitors.counting import Rows, as_fed, learn, note_unreadable, take
from monitors.features import clustering, column, declared, tensors
from monitors.journal import Journal
from monitors.labels import Arrival, Label, LabelStore, Match, Prediction, Predictions, Truth
from monitors.learning import learns
from monitors.memo import Memo
from monitors.open_slots import Closed, OpenSlots
from monitors.panel import Panel, Table
from monitors.reference import PREDICTION, Profile
from monitors.segments import codes
from monitors.selftest import chosen
from monitors.slot import CLASSES, Counts, LabelCounts, decode, decode_labels
from monitors.times import Times, times
from serving.config import Monitors
from serving.manifest import Manifest
from serving.packed import Layout, Packed
from serving.protocol import Array

Name = tuple[str, str]  # model, version
Identity = tuple[str, str, str]  # model, version, digest
_Change = tuple[Prediction, int, int]  # how much labelled rows and the loss changed by it
log = logging.getLogger("gaugeway.monitors")

MAX_PANELS = 256  # at once; there is one for each layout and reference of a version's records
NEVER = -(2**62)  # before all slots


@dataclass(frozen=True)
class Sealed:
    """What will not change any more: all slots before `watermark`, all label slots before `label_watermark`."""

    watermark: int
    label_watermark: int
    slots: list[Closed[Counts]] = field(default_factory=list)
    labels: list[Closed[LabelCounts]] = field(default_factory=list)


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
    unusable: int = 0  # labels that were kept before it was known that they cannot be judged


class Ledger:
    """Open slots, books and the label store of one node."""

    def __init__(self, settings: Monitors, store: LabelStore) -> None:
        self._settings, self._store = settings, store
        store.truths.usable = self._usable
        self.books: dict[Name, Book] = {}
        self.marks = Marks()
        self._slots = OpenSlots("slot", Counts, decode)
        self._label_slots = OpenSlots("label_slot", LabelCounts, decode_labels)
        self._changed: set[Name] = set()
        self._panels: dict[tuple[Layout, str], Panel] = {}
        self._memo = Memo()

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
        marks, sizes = self.marks, np.array([record.requests for record in records])
        found, marks.clock = times(self._settings, requests, sizes, marks.clock, marks.watermark, now)
        for bundle, which in bundles(records, requests):
            version = versions[bundle.layout.identity]
            if version is None:
                self.drop("unknown_version", bundle.rows)
            else:
                self._ingest(version, bundle, found.of(which), now)

    def label(self, labels: Sequence[Label], now: float) -> Arrival:
        """Join or park labels. Their times do not move the clock: one wrong label would make every row late."""
        clock = self.marks.clock
        if clock is None:
            clock = min([now, *(label.time for label in labels)])
        arrival = self._store.add_labels(labels, slot=self._slot(clock))
        arrival.late = self._follow(arrival.matches)
        self.marks.doubled += arrival.doubled
        self.marks.conflicting += arrival.conflicting
        self.marks.unusable += arrival.unusable
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

    def refusals(self, labels: Iterable[Label]) -> list[str | None]:
        """Of each label why no version of its model could judge it, else None."""
        books: dict[str, list[Book]] = {}
        for (model, _), book in self.books.items():
            if book.task:
                books.setdefault(model, []).append(book)
        return [_refusal(books.get(label.model, ()), label.label) for label in labels]

    def _usable(self, model: str, label: float) -> bool:
        """0 and 1 always are; without a version that takes labels all are."""
        known = (book for (of, _), book in self.books.items() if of == model and book.task)
        return label in CLASSES or _refusal(known, label) is None

    def next_slot(self, name: Name) -> int:
        """From this slot on the version has no rows yet."""
        newest = self._slots.newest(*name)
        return self.sealed if newest is None else max(self.sealed, newest + 1)

    @property
    def sealed(self) -> int:
        """Slots before this one are closed."""
        return _or_less(self.marks.watermark)

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
        whole = ~failed & ~times.misdated
        try:
            self._read(name, version, bundle, times, whole, late)
        except (ValueError, IndexError, TypeError) as error:  # tensors that do not fit the manifest; nothing is counted
            self.drop("unreadable", bundle.rows)
            note_unreadable(partial(self._at, name, version), bundle.counts[whole & ~late], times.slot[whole & ~late])
            log.warning("%d rows of %s version %s cannot be read: %s", bundle.rows, *name, error)
            return
        if whole.any():
            book.last_time = max(book.last_time, float(times.time[whole].max()))
            book.seen = max(book.seen, now)

    def _read(self, name: Name, version: Version, bundle: Bundle, times: Times, whole: Array, late: Array) -> None:
        """Count the rows' features and let their predictions wait. Raises before anything of them is counted."""
        manifest, book = version.manifest, self.books[name]
        found = tensors(bundle, manifest) if bundle.layout.tensors and whole.any() else {}
        if not found:
            return
        values = np.asarray(found.get(PREDICTION, ()), np.float64)
        cells = table = segment = None
        if book.cells and PREDICTION in found:
            table, cells = self._cells(version, bundle.layout, found)
        if waits := book.task is not None and PREDICTION in found:
            segment = codes(manifest.segments, manifest.features, found, len(values)) if manifest.segments else None
        drawn = hashes(bundle.spread(bundle.requests["arrival_time"]), bundle.row)
        rows, use = Rows(found, bundle.spread(times.slot), drawn, table), bundle.spread(whole & ~late)
        counting = [*self._counting(name, version, bundle.layout, rows, use)]
        if learns(manifest, self._settings) and (mine := version.unreferenced(rows.slot)).any():
            part = rows.of(use & mine)
            learn(partial(self._at, name, version), as_fed(manifest, bundle.layout, part.tensors), part)
        for count in counting:
            count()
        if waits:
            self._wait(name, bundle, values, segment, cells, times, whole, late)

    def _counting(
        self, name: Name, version: Version, layout: Layout, rows: Rows, use: Array
    ) -> Iterator[Callable[[], None]]:
        """What counts the rows to `use`, shape (n,), by reference. It raises nothing: what may is done before."""
        at, named = partial(self._at, name, version), clustering(self._settings.unit, version.manifest.features)
        for digest, profile, mine in version.divided(rows.slot):
            panel = self._panel(digest, profile, version.manifest, layout)
            part = (replace(rows, table=None) if digest else rows).of(use & mine).tabled(panel)
            clusters = None
            if named and named.input in part.tensors:
                clusters = keys(column(part.tensors[named.input], named.column))
            yield partial(take, at, panel, part, profile.sample, clusters)

    def _panel(self, digest: str, profile: Profile, manifest: Manifest, layout: Layout) -> Panel:
        panel = self._panels.get((layout, digest))
        if panel is None:
            if len(self._panels) >= MAX_PANELS:
                self._panels.clear()
            panel = Panel(profile.features, declared(manifest, layout), chosen(profile), self._memo)
            self._panels[layout, digest] = panel
        return panel

    def _cells(self, version: Version, layout: Layout, tensors: Mapping[str, Array]) -> tuple[Table, NDArray[np.uint8]]:
        """Of each row by the published reference: of all features, and of those to whose cells its loss is held."""
        profile = version.profile
        assert profile is not None and profile.losses is not None  # else the book has none
        panel = self._panel("", profile, version.manifest, layout)
        table = panel.table(tensors, len(tensors[PREDICTION]))
        return table, panel.chosen(table, profile.losses.names)

    def _at(self, name: Name, version: Version, number: int) -> Counts:
        counts = self._slots.at((*name, number))
        counts.reference = version.order(number)
        return counts

    def _wait(
        self, name: Name, bundle: Bundle, values: Array, segment: Array | None, cells: Array | None, times: Times,
        whole: Array, late: Array,
    ) -> None:  # fmt: skip
        """Let predictions wait for their labels."""
        use = bundle.spread(whole & (times.slot >= self._expired)) & np.isfinite(values)
        lane = name[1] if bundle.layout.role == "shadow" else ""
        sizes = bundle.requests["id_bytes"].astype(np.int64)
        slot, time, counted = (bundle.spread(fact)[use] for fact in (times.slot, times.time, ~late))
        of, row, values = bundle.request[use], bundle.row[use], values[use]
        found = Predictions(*name, lane, bundle.ids, sizes, of, row, slot, values, time, counted)
        if segment is not None and (tables := self.books[name].tables):
            found = replace(found, segment=segment[use])
            tables.offer(values, segment[use])
        self._admit(name, found if cells is None else replace(found, cells=cells[use]))

    def _admit(self, name: Name, rows: Predictions) -> None:
        admission = self._store.add_predictions(rows)
        book = self.books[name]
        book.expected += int(admission.admitted.sum())
        book.sampled_out += admission.sampled_out
        book.reused += admission.reused
        self.marks.unusable += admission.unusable
        slots, counts = np.unique(rows.slot[admission.admitted & rows.counted], return_counts=True)
        for slot, n in zip(slots.tolist(), counts.tolist(), strict=True):
            self._label_slots.at((*name, slot)).predictions += n
            book.wait(self.span(slot), n)
        self._follow(admission.matches)

    def span(self, slot: int) -> int:
        """The number of the span of time that a slot begins in: a 64th of the label horizon, or a slot."""
        return math.floor(slot * self._settings.slot_s / span_s(self._settings))

    def _follow(self, matches: list[Match]) -> int:
        """Bring books and open label slots up to date with changed truths; labels that came after their seal."""
        late = 0
        for name, group in groupby(sorted(matches, key=_name), _name):
            changed = list(group)
            self._changed.add(name)
            book, told = self.books[name], list[_Change]()
            for match, (labelled, loss) in zip(changed, book.follow(changed), strict=True):
                slot = match.prediction.slot
                if slot < _or_less(self.marks.label_watermark):
                    book.late_labels += labelled
                    late += labelled
                elif match.prediction.counted:
                    counts = self._label_slots.at((*name, slot))
                    counts.labelled += labelled
                    counts.loss += loss
                    if book.lows:
                        counts.follow(book.lows, match.prediction.value, _label(match.before), _label(match.after))
                    book.wait(self.span(slot), -labelled)
                    told.append((match.prediction, labelled, loss))
            if book.cells and told:
                self._tell(name, book.cells, told)
        return late

    def _tell(self, name: Name, sizes: tuple[int, ...], changed: list[_Change]) -> None:
        """Add to the cells of rows. A block has one table, in its last slot: one in each would be far more to write."""
        for slot, group in groupby(sorted(changed, key=self._closing), self._closing):
            predictions, rows, loss = zip(*group, strict=True)
            cells = gathered((found.cells for found in predictions), len(sizes))
            counts = self._label_slots.at((*name, slot))
            counts.cells = follow(counts.cells, sizes, cells, rows, loss)

    def _closing(self, change: _Change) -> int:
        """The last slot of the row's block."""
        return last_slot(change[0].slot, self._settings.slot_s, self._settings.block_s)

    def _book(self, name: Name, version: Version) -> Book:
        """The version's book; a new one where other content came under the same name."""
        book = self.books.get(name)
        if book is None or not book.fits(version):
            self._slots.drop(*name)
            self._label_slots.drop(*name)
            book = self.books[name] = Book.of(version)
        if book.tables is None and book.task is not None:
            book.tables = Book.of(version).tables  # it was written before there were any
        self._changed.add(name)
        return book

    def _close_labels(self, before: int) -> list[Closed[LabelCounts]]:
        closed = self._label_slots.close(before)
        for model, version, slot, counts in closed:
            book = self.books[model, version]
            book.due += counts.predictions
            book.due_labelled += counts.labelled
            book.wait(self.span(slot), counts.labelled - counts.predictions)
            self._changed.add((model, version))
        return closed

    def _unknown(self, labels: Mapping[str, int]) -> None:
        for model, n in labels.items():
            self.marks.unknown[model] = self.marks.unknown.get(model, 0) + n


def _refusal(books: Iterable[Book], label: float) -> str | None:
    reasons = [book.refusal(label) for book in books]
    return reasons[0] if reasons and all(reasons) else None


def _label(truth: Truth | None) -> float | None:
    return None if truth is None else truth.label


def _name(match: Match) -> Name:
    return match.prediction.model, match.prediction.version


def _or_less(mark: int | None) -> int:
    return NEVER if mark is None else mark
