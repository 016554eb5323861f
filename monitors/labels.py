"""Predictions that wait for their label and labels that wait for their prediction, in one SQLite file.

The join is by model, request id and row. Its outcome is a function of what was sent, not of the order: of the usable
labels of a row the one with the latest event time is the truth (of two at one time the larger; the others are kept
as history), and of the predictions under one id the latest holds it. Every change of that outcome is
handed back as a `Match`, so that a caller who adds up losses can subtract what is no longer true.

Nearly all predictions come with a new id and before their label: these are appended many at once (`pending.py`).
The few that may be known already, by their hash, are looked at one by one.

The store writes inside the caller's transaction and never commits: what it holds lasts together with the counts.
"""

import math
import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitors.index import Hashes, Index
from monitors.pending import Name, Pending, Rows
from monitors.truths import OF_ROW, Known, Truths
from monitors.truths import UNSAID as UNSAID
from monitors.truths import Truth as Truth
from serving.packed import texts

_STALE = 10_000  # forgotten labels that may stay in the index, beside as many as there are


class Prediction(NamedTuple):
    """A row that may get a label. `lane` is empty for the primary, the version for a shadow.

    `counted` says whether the row is part of the evidence; `time` is its event time, `slot` that time's slot.
    """

    model: str
    id: str
    row: int
    lane: str
    version: str
    slot: int
    value: float
    time: float
    counted: bool = True
    sampling: float = 1.0  # the probability with which it was kept
    segment: int = 0  # the code of its segments
    cells: bytes = b""  # of its features, as in `cell_losses`


Place = tuple[str, str, int]  # model, id, row
FIRST: Place = ("", "", 0)


class Label(NamedTuple):
    """What turned out to be true of a row, at its event time in seconds since 1970."""

    model: str
    id: str
    row: int
    label: float
    time: float
    kpi: float = UNSAID  # a number that was sent with the label

    @property
    def place(self) -> Place:
        return self[:3]


class Match(NamedTuple):
    """A prediction whose truth changed: from none (joined), to none (its id was used again), or corrected."""

    prediction: Prediction
    before: Truth | None
    after: Truth | None


@dataclass(frozen=True)
class Predictions:
    """Rows of one version and lane. `ids` are those of the requests, one after the other, `id_sizes` bytes each;
    `request` is the place of a row's request among them. The other arrays have shape (n,) too, as in `Prediction`.
    """

    model: str
    version: str
    lane: str
    ids: bytes
    id_sizes: NDArray[np.int64]
    request: NDArray[np.int64]
    row: NDArray[np.int64]
    slot: NDArray[np.int64]
    value: NDArray[np.float64]
    time: NDArray[np.float64]
    counted: NDArray[np.bool_]
    segment: NDArray[np.uint16] | int = 0
    cells: NDArray[np.uint8] | None = None  # shape (n, features)


@dataclass
class Admission:
    """What became of a batch of predictions. `admitted`, shape (n,), wait for a label, `sampled_out` rows do not."""

    admitted: NDArray[np.bool_]
    sampling: float = 1.0
    matches: list[Match] = field(default_factory=list)
    sampled_out: int = 0
    unusable: int = 0  # labels that waited for them and cannot be judged
    reused: int = 0


@dataclass
class Arrival:
    """What became of a batch of labels: `joined + parked + unknown` is their number.

    `doubled` of them said what was known, `conflicting` contradicted it.
    """

    joined: int = 0
    parked: int = 0
    turned_away: Counter[str] = field(default_factory=Counter)  # by model: no room to park more
    doubled: int = 0
    conflicting: int = 0
    late: int = 0  # joined after the slot of their prediction was sealed
    unusable: int = 0  # of a row that has a prediction, and cannot be judged
    matches: list[Match] = field(default_factory=list)

    @property
    def unknown(self) -> int:
        return self.turned_away.total()


class LabelStore:
    """The join on disk, bounded: at most `budget_rows` predictions, and as many labels without one.

    Above half of the budget ids are sampled by hash, the more sparsely the fuller it is.

    >>> store = LabelStore(sqlite3.connect(":memory:"), budget_rows=1000)
    >>> store.add_labels([Label("flights", "r1", 0, 1.0, 60.0)], slot=1).parked
    1
    >>> one, zero = np.array([2]), np.array([0])
    >>> row = Predictions("flights", "2", "", b"r1", one, zero, zero, zero, np.array([0.25]), np.array([5.0]), one > 0)
    >>> store.add_predictions(row).matches[0].after
    Truth(time=60.0, label=1.0, kpi=-inf)
    """

    def __init__(self, connection: sqlite3.Connection, budget_rows: int) -> None:
        self._sql = connection
        self._budget = budget_rows
        self.truths = Truths(connection)
        self._pending = Pending(connection)
        self.labels = self._count("SELECT COUNT(*) FROM labels")
        alone = "SELECT model, COUNT(*) FROM labels WHERE joined = 0 GROUP BY model"
        self.parked = Counter[str](dict(self._sql.execute(alone)))  # labels without a prediction, by model
        self._index = self._indexed()

    @property
    def rows(self) -> int:
        """Predictions that wait or waited and are not expired."""
        return self._pending.rows

    @property
    def probability(self) -> float:
        """With which the next id is kept: 1 below half of the budget, then a power of 1/2, 0 at the budget."""
        free = max(self._budget - self.rows, 0) / self._budget
        probability = 1.0
        while 0 < free and probability > 2 * free:
            probability /= 2
        return probability if free else 0.0

    def add_predictions(self, found: Predictions) -> Admission:
        """Let predictions wait for their labels, and join those whose label is already there."""
        result = self._sample(found)
        sums = self._pending.keys.sums(found.ids, found.id_sizes)[found.request]
        keys = self._pending.keys.of(found.model, found.lane, sums, found.row)
        label_hashes = self._pending.keys.of(found.model, "", sums, found.row).hi if found.lane else keys.hi
        rows = self._pending.made(
            Name(found.model, found.version, found.lane), keys, slot=found.slot, value=found.value, time=found.time,
            counted=found.counted, halvings=-np.log2(result.sampling or 1.0), segment=found.segment, cells=found.cells,
        )  # fmt: skip
        known = self._pending.contains(keys.hi) | self._index.contains(label_hashes) | _doubled(keys.hi)
        self._pending.append(rows[result.admitted & ~known])
        if some := np.flatnonzero(result.admitted & known).tolist():
            ids = list(texts(found.ids, found.id_sizes.tolist()))
            for i in some:
                self._insert(rows[i : i + 1], (found.model, ids[found.request[i]], int(found.row[i])), result)
        return result

    def add_labels(self, labels: Sequence[Label], slot: int) -> Arrival:
        """Join labels that arrive while the clock is in `slot`, or park them until their prediction comes."""
        result, new = Arrival(), set[int]()
        hashes, waiting = self._asked(labels)
        met, fresh = self._index.contains(hashes).tolist(), list[tuple[object, ...]]()
        for label, hash, maybe, rows in zip(labels, hashes.view(np.int64).tolist(), met, waiting, strict=True):
            if hash in new:
                self._write(fresh)
            known = self.truths.known(label) if maybe or hash in new else None
            if known is None:
                new.add(hash)
                self._first(label, hash, slot, rows, result, fresh)
            else:
                self._again(label, known, slot, rows, result)
                result.joined += known.joined
                result.parked += 1 - known.joined
        self._write(fresh)
        self._index.add(np.array(sorted(new), np.int64).view(np.uint64), np.zeros(len(new), np.int64))
        return result

    def held(self, labels: Sequence[Label]) -> list[float]:
        """Event times of the predictions that labels are for, the latest of each; NaN where there is none."""
        _, waiting = self._asked(labels)
        return [max((float(row["time"]) for row in rows), default=math.nan) for rows in waiting]

    def strays(self, after: Place, n: int) -> list[Label]:
        """Labels that wait for a prediction, in their order, the next `n` behind a place."""
        query = "SELECT model, id, row, label, time, kpi FROM labels WHERE joined = 0 AND (model, id, row) > (?, ?, ?)"
        found = self._sql.execute(f"{query} ORDER BY model, id, row LIMIT ?", (*after, n))
        return [Label(*row) for row in found]

    def leave(self, labels: Sequence[Label], unusable: Sequence[Label] = ()) -> None:
        """Forget labels that met their prediction elsewhere, but for those that changed or were joined meanwhile.

        Those that turned out `unusable` there give way to what they replaced.
        """
        for label in labels:
            of = (*label.place, label.label, label.time)
            gone = self._sql.execute(f"DELETE FROM labels {OF_ROW} AND joined = 0 AND label = ? AND time = ?", of)
            self.labels -= gone.rowcount
            self.parked[label.model] -= gone.rowcount
        for label in unusable:
            self.truths.demote(label, label.time, label.label)

    def expire(self, slot: int) -> dict[str, int]:
        """Forget what lies before `slot`; labels of each model that never met a prediction."""
        alone = "SELECT model, COUNT(*) FROM labels WHERE slot < ? AND joined = 0 GROUP BY model"
        unknown = dict(self._sql.execute(alone, (slot,)))
        self._pending.expire(slot)
        self.labels -= self._sql.execute("DELETE FROM labels WHERE slot < ?", (slot,)).rowcount
        self._sql.execute("DELETE FROM history WHERE slot < ?", (slot,))
        self.parked.subtract(unknown)
        if len(self._index) > 2 * self.labels + _STALE:
            self._index = self._indexed()
        return unknown

    def save(self) -> None:
        """Write what changed since the last `save`."""
        self._pending.save()

    def _count(self, query: str) -> int:
        return int(self._sql.execute(query).fetchone()[0])

    def _indexed(self) -> Index:
        """Hashes of all labels; their places mean nothing."""
        hashes = np.array([hash for (hash,) in self._sql.execute("SELECT hash FROM labels")], np.int64)
        index = Index()
        index.add(hashes.view(np.uint64), np.zeros(len(hashes), np.int64))
        return index

    def _sample(self, found: Predictions) -> Admission:
        probability, room, n = self.probability, max(self._budget - self.rows, 0), len(found.row)
        kept = np.ones(n, bool)
        if probability < 1:
            ids = texts(found.ids, found.id_sizes.tolist())
            kept = np.array([share(found.model, id) < probability for id in ids], bool)[found.request]
        kept &= np.cumsum(kept) <= room
        return Admission(kept, probability, sampled_out=n - int(kept.sum()))

    def _insert(self, row: Rows, of: tuple[str, str, int], result: Admission) -> None:
        """One that may be known: of two under one id the one with the later event time stays."""
        held = self._pending.find(row[0]["hi"], row[0]["lo"])
        known = self.truths.known(of)
        if held is None:
            self._pending.append(row)
        else:
            result.reused += 1
            if held.row["time"] > row[0]["time"]:
                return
            if known and known.holds:
                result.matches.append(Match(self._prediction(of, held.row), known.holds, None))
            self._pending.displace(held, row)
        if known:
            self._join(self._prediction(of, row[0]), known, result)

    def _join(self, prediction: Prediction, known: Known, result: Admission) -> None:
        unusable = self.truths.meet(prediction, prediction.slot)
        if not known.joined:
            self.parked[prediction.model] -= 1
            result.unusable += unusable
        if known.holds:
            result.matches.append(Match(prediction, None, known.holds))

    def _prediction(self, of: Sequence[Any], row: np.void) -> Prediction:
        """Of a model, id and row."""
        _, _, slot, value, time, code, counted, halvings, segment, _ = row.item()
        _, version, lane = self._pending.name(code)
        model, id, number = of[:3]
        return Prediction(
            model, id, number, lane, version, slot, value, time, bool(counted), 2.0**-halvings, segment,
            row["cells"].tobytes(),
        )  # fmt: skip

    def _asked(self, labels: Sequence[Label]) -> tuple[Hashes, list[list[np.void]]]:
        """Of each label its hash, and the predictions that wait for it."""
        hashes, waiting = np.zeros(len(labels), np.uint64), [list[np.void]() for _ in labels]
        for model in {label.model for label in labels}:
            which = [i for i, label in enumerate(labels) if label.model == model]
            ids = [labels[i].id.encode(errors="surrogatepass") for i in which]
            sums = self._pending.keys.sums(b"".join(ids), np.array([len(id) for id in ids]))
            row = np.array([labels[i].row for i in which])
            hashes[which] = self._pending.keys.of(model, "", sums, row).hi
            for lane in self._pending.lanes(model):
                for k, held in self._pending.find_all(self._pending.keys.of(model, lane, sums, row)).items():
                    waiting[which[k]].append(held.row)
        return hashes, waiting

    def _write(self, fresh: list[tuple[object, ...]]) -> None:
        """Labels of rows that had none, of which none is known."""
        self.truths.add(fresh)
        fresh.clear()

    def _first(
        self, label: Label, hash: int, slot: int, rows: list[np.void], result: Arrival, fresh: list[tuple[object, ...]]
    ) -> None:
        predictions = [self._prediction(label, row) for row in rows]
        if not predictions and self.parked.total() >= self._budget:
            result.turned_away[label.model] += 1
            return
        fresh.append((*label[:5], slot, bool(predictions), hash, label.kpi))
        self.labels += 1
        self.parked[label.model] += not predictions
        result.joined += bool(predictions)
        result.parked += not predictions
        usable = self.truths.usable(label.model, label.label)
        result.unusable += bool(predictions) and not usable
        truth = Truth(label.time, label.label, label.kpi)
        result.matches += [Match(p, None, truth) for p in predictions if usable]

    def _again(self, label: Label, known: Known, slot: int, rows: list[np.void], result: Arrival) -> None:
        truth = Truth(label.time, label.label, label.kpi)
        new = self.truths.replace(label, truth, known.latest, slot)
        usable = self.truths.usable(label.model, label.label)
        result.conflicting += new
        result.doubled += not new
        result.unusable += new and known.joined and not usable
        if usable and (known.holds is None or truth > known.holds):
            result.matches += [Match(self._prediction(label, row), known.holds, truth) for row in rows]


def _doubled(hashes: Hashes) -> NDArray[np.bool_]:
    """Which of them occur more than once."""
    ordered = np.sort(hashes)
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    return np.isin(hashes, again) if len(again) else np.zeros(len(hashes), bool)


def share(model: str, request: str) -> float:
    """A number in [0, 1) that is the same for all rows and versions of a request, on every node."""
    digest = blake2b(f"{model}\0{request}".encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64
