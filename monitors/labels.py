"""Predictions that wait for their label and labels that wait for their prediction, in one SQLite file.

The join is by model, request id and row. Its outcome is a function of what was sent, not of the order: of the
labels of a row the one with the latest event time is the truth (of two at one time the larger; the others are kept
as history), and of the predictions under one id the latest holds it. Every change of that outcome is
handed back as a `Match`, so that a caller who adds up losses can subtract what is no longer true.

The store writes inside the caller's transaction and never commits: what it holds lasts together with the counts.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

_TABLES = """
CREATE TABLE IF NOT EXISTS predictions (
    model TEXT, id TEXT, row INTEGER, lane TEXT, version TEXT, slot INTEGER, value REAL, time REAL,
    counted INTEGER, sampling REAL, PRIMARY KEY (model, id, row, lane)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS predictions_slot ON predictions (slot);
CREATE TABLE IF NOT EXISTS labels (
    model TEXT, id TEXT, row INTEGER, label REAL, time REAL, slot INTEGER, joined INTEGER,
    PRIMARY KEY (model, id, row)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS labels_slot ON labels (slot);
CREATE TABLE IF NOT EXISTS history (
    model TEXT, id TEXT, row INTEGER, time REAL, label REAL, slot INTEGER,
    PRIMARY KEY (model, id, row, time, label)) WITHOUT ROWID;
"""
_PREDICTION = "model, id, row, lane, version, slot, value, time, counted, sampling"
_OF_ROW = "WHERE model = ? AND id = ? AND row = ?"


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


class Label(NamedTuple):
    """What turned out to be true of a row, at its event time in seconds since 1970."""

    model: str
    id: str
    row: int
    label: float
    time: float


class Truth(NamedTuple):
    """A label as it holds for a row; the larger of two is the one that counts."""

    time: float
    label: float


class Match(NamedTuple):
    """A prediction whose truth changed: from none (joined), to none (its id was used again), or corrected."""

    prediction: Prediction
    before: Truth | None
    after: Truth | None


@dataclass
class Admission:
    """What became of a batch of predictions. `admitted` wait for a label, `sampled_out` rows do not."""

    admitted: list[Prediction] = field(default_factory=list)
    matches: list[Match] = field(default_factory=list)
    sampled_out: int = 0
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
    >>> store.add_predictions([Prediction("flights", "r1", 0, "", "2", 0, 0.25, 5.0)]).matches[0].after
    Truth(time=60.0, label=1.0)
    """

    def __init__(self, connection: sqlite3.Connection, budget_rows: int) -> None:
        self._sql = connection
        self._budget = budget_rows
        for statement in _TABLES.split(";"):
            self._sql.execute(statement)
        self.rows = self._count("SELECT COUNT(*) FROM predictions")
        self.labels = self._count("SELECT COUNT(*) FROM labels")
        alone = "SELECT model, COUNT(*) FROM labels WHERE joined = 0 GROUP BY model"
        self.parked = Counter[str](dict(self._sql.execute(alone)))  # labels without a prediction, by model
        self._shadows = bool(self._count("SELECT EXISTS (SELECT 1 FROM predictions WHERE lane != '')"))

    @property
    def probability(self) -> float:
        """With which the next id is kept: 1 below half of the budget, then a power of 1/2, 0 at the budget."""
        free = max(self._budget - self.rows, 0) / self._budget
        probability = 1.0
        while 0 < free and probability > 2 * free:
            probability /= 2
        return probability if free else 0.0

    def add_predictions(self, predictions: Sequence[Prediction]) -> Admission:
        """Let predictions wait for their labels, and join those whose label is already there."""
        result = Admission()
        kept = self._sample(predictions, result)
        if self._insert_all(kept):
            if self._may_have_labels(kept):
                for prediction in kept:
                    self._join(prediction, result)
        else:
            for prediction in kept:
                self._insert(prediction, result)
        result.admitted += kept
        return result

    def add_labels(self, labels: Iterable[Label], slot: int) -> Arrival:
        """Join labels that arrive while the clock is in `slot`, or park them until their prediction comes."""
        result = Arrival()
        for label in labels:
            known = self._known(label)
            if known is None:
                self._first(label, slot, result)
            else:
                self._again(label, Truth(known[1], known[0]), slot, result)
                result.joined += known[2]
                result.parked += 1 - known[2]
        return result

    def expire(self, slot: int) -> dict[str, int]:
        """Forget what lies before `slot`; labels of each model that never met a prediction."""
        alone = "SELECT model, COUNT(*) FROM labels WHERE slot < ? AND joined = 0 GROUP BY model"
        unknown = dict(self._sql.execute(alone, (slot,)))
        self.rows -= self._sql.execute("DELETE FROM predictions WHERE slot < ?", (slot,)).rowcount
        self.labels -= self._sql.execute("DELETE FROM labels WHERE slot < ?", (slot,)).rowcount
        self._sql.execute("DELETE FROM history WHERE slot < ?", (slot,))
        self.parked.subtract(unknown)
        return unknown

    def _count(self, query: str) -> int:
        return int(self._sql.execute(query).fetchone()[0])

    def _sample(self, predictions: Sequence[Prediction], result: Admission) -> list[Prediction]:
        probability = self.probability
        if probability == 1 and len(predictions) <= self._budget - self.rows:
            return list(predictions)
        kept = [p._replace(sampling=probability) for p in predictions if _share(p.model, p.id) < probability]
        kept = kept[: max(self._budget - self.rows, 0)]
        result.sampled_out = len(predictions) - len(kept)
        return kept

    def _may_have_labels(self, new: list[Prediction]) -> bool:
        """Ids that were not used before have no label unless one is parked, or came for another lane."""
        self._shadows = self._shadows or any(prediction.lane for prediction in new)
        return self.parked.total() > 0 or (self._shadows and self.labels > 0)

    def _insert_all(self, predictions: list[Prediction]) -> bool:
        """The usual way, at once; False, and nothing done, where an id was used before."""
        self._sql.execute("SAVEPOINT predictions")
        try:
            self._sql.executemany(f"INSERT INTO predictions ({_PREDICTION}) VALUES (?,?,?,?,?,?,?,?,?,?)", predictions)
        except sqlite3.IntegrityError:
            self._sql.execute("ROLLBACK TO predictions")
            return False
        finally:
            self._sql.execute("RELEASE predictions")
        self.rows += len(predictions)
        return True

    def _insert(self, prediction: Prediction, result: Admission) -> None:
        """One at a time: of two under one id the one with the later event time stays."""
        old = self._sql.execute(f"SELECT {_PREDICTION} FROM predictions {_OF_ROW} AND lane = ?", prediction[:4])
        for row in old.fetchall():
            result.reused += 1
            if row[7] > prediction.time:
                return
            self._displace(Prediction(*row), result)
        self._sql.execute(f"INSERT INTO predictions ({_PREDICTION}) VALUES (?,?,?,?,?,?,?,?,?,?)", prediction)
        self.rows += 1
        self._join(prediction, result)

    def _displace(self, old: Prediction, result: Admission) -> None:
        self._sql.execute(f"DELETE FROM predictions {_OF_ROW} AND lane = ?", old[:4])
        self.rows -= 1
        known = self._known(old)
        if known:
            result.matches.append(Match(old, Truth(known[1], known[0]), None))

    def _join(self, prediction: Prediction, result: Admission) -> None:
        known = self._known(prediction)
        if known is None:
            return
        label, time, joined = known
        self.parked[prediction.model] -= 1 - joined
        self._sql.execute(
            f"UPDATE labels SET joined = 1, slot = max(slot, ?) {_OF_ROW}", (prediction.slot, *prediction[:3])
        )
        result.matches.append(Match(prediction, None, Truth(time, label)))

    def _known(self, row: Prediction | Label) -> tuple[float, float, int] | None:
        """Label, event time and whether it met a prediction."""
        found: tuple[float, float, int] | None = self._sql.execute(
            f"SELECT label, time, joined FROM labels {_OF_ROW}", row[:3]
        ).fetchone()
        return found

    def _predictions(self, label: Label) -> list[Prediction]:
        found = self._sql.execute(f"SELECT {_PREDICTION} FROM predictions {_OF_ROW}", label[:3])
        return [Prediction(*row) for row in found]

    def _first(self, label: Label, slot: int, result: Arrival) -> None:
        predictions = self._predictions(label)
        if not predictions and self.parked.total() >= self._budget:
            result.turned_away[label.model] += 1
            return
        self._sql.execute("INSERT INTO labels VALUES (?,?,?,?,?,?,?)", (*label, slot, bool(predictions)))
        self.labels += 1
        self.parked[label.model] += not predictions
        result.joined += bool(predictions)
        result.parked += not predictions
        result.matches += [Match(p, None, Truth(label.time, label.label)) for p in predictions]

    def _again(self, label: Label, known: Truth, slot: int, result: Arrival) -> None:
        truth = Truth(label.time, label.label)
        if truth == known:
            result.doubled += 1
            return
        lost = min(truth, known)
        new = self._sql.execute(
            "INSERT OR IGNORE INTO history VALUES (?,?,?,?,?,?)", (*label[:3], *lost, slot)
        ).rowcount
        result.conflicting += new
        result.doubled += 1 - new
        if truth > known:
            self._sql.execute(f"UPDATE labels SET time = ?, label = ? {_OF_ROW}", (*truth, *label[:3]))
            result.matches += [Match(p, known, truth) for p in self._predictions(label)]


def _share(model: str, request: str) -> float:
    """A number in [0, 1) that is the same for all rows and versions of a request, on every node."""
    digest = blake2b(f"{model}\0{request}".encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64
