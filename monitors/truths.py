"""What was said of rows, in SQLite: of each its latest label, and those that it replaced.

The truth of a row is the usable label with the latest event time, of two at one time the larger, in whatever order they
came. While nobody knows a model, nobody knows what is usable of it (a classification has labels 0 and 1): so another
label may be kept, and be the latest. The truth is then one of those that it replaced.
"""

import math
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

_TABLES = """
CREATE TABLE IF NOT EXISTS labels (
    model TEXT, id TEXT, row INTEGER, label REAL, time REAL, slot INTEGER, joined INTEGER, hash INTEGER,
    kpi REAL DEFAULT -9e999, PRIMARY KEY (model, id, row)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS labels_slot ON labels (slot);
CREATE TABLE IF NOT EXISTS history (
    model TEXT, id TEXT, row INTEGER, time REAL, label REAL, slot INTEGER,
    kpi REAL DEFAULT -9e999, PRIMARY KEY (model, id, row, time, label)) WITHOUT ROWID;
"""
OF_ROW = "WHERE model = ? AND id = ? AND row = ?"
_OF_LABEL = f"{OF_ROW} AND time = ? AND label = ?"
UNSAID = -math.inf

Row = Sequence[object]  # model, id, row; more is not looked at


class Truth(NamedTuple):
    """A label as it holds for a row; the larger of two is the one that counts."""

    time: float
    label: float
    kpi: float = UNSAID


class Known(NamedTuple):
    """Of a row: its latest label, the latest that is usable, and whether it met a prediction."""

    latest: Truth
    holds: Truth | None
    joined: int


class Truths:
    """`usable` says of a model whether a label can be judged; whoever knows its versions sets it.

    >>> truths = Truths(sqlite3.connect(":memory:"))
    >>> truths.add([("m", "r", 0, 1.0, 60.0, 0, 0, 7, UNSAID)])
    >>> truths.replace(("m", "r", 0), Truth(90.0, 5.0), truths.known(("m", "r", 0)).latest, slot=0)
    True
    >>> truths.usable = lambda model, label: label in (0, 1)
    >>> truths.known(("m", "r", 0))
    Known(latest=Truth(time=90.0, label=5.0, kpi=-inf), holds=Truth(time=60.0, label=1.0, kpi=-inf), joined=0)
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.usable: Callable[[str, float], bool] = lambda model, label: True
        self._sql = connection
        for statement in _TABLES.split(";"):
            self._sql.execute(statement)
        for table in ("labels", "history"):  # as they were written before there was a KPI
            if "kpi" not in {column[1] for column in self._sql.execute(f"PRAGMA table_info({table})")}:
                self._sql.execute(f"ALTER TABLE {table} ADD COLUMN kpi REAL DEFAULT -9e999")

    def known(self, row: Row) -> Known | None:
        found = self._sql.execute(f"SELECT time, label, kpi, joined FROM labels {OF_ROW}", row[:3]).fetchone()
        if found is None:
            return None
        latest, usable = Truth(*found[:3]), self.usable(str(row[0]), found[1])
        return Known(latest, latest if usable else self._replaced(row), found[3])

    def add(self, labels: Iterable[Row]) -> None:
        """Of rows that had none: the columns of the table."""
        self._sql.executemany("INSERT INTO labels VALUES (?,?,?,?,?,?,?,?,?)", labels)

    def replace(self, row: Row, truth: Truth, latest: Truth, slot: int) -> bool:
        """Keep another label of a row that has some; whether it contradicts them, and was not known."""
        new = 0
        if truth[:2] != latest[:2]:
            time, label, kpi = min(truth, latest)
            lost = (*row[:3], time, label, slot, kpi)
            new = self._sql.execute("INSERT OR IGNORE INTO history VALUES (?,?,?,?,?,?,?)", lost).rowcount
            if not new:
                kept = (kpi, *row[:3], time, label)
                self._sql.execute(f"UPDATE history SET kpi = max(kpi, ?) {_OF_LABEL}", kept)
        if truth > latest:
            self._sql.execute(f"UPDATE labels SET time = ?, label = ?, kpi = ? {OF_ROW}", (*truth, *row[:3]))
        return bool(new)

    def meet(self, row: Row, slot: int) -> int:
        """A prediction of `slot` came, and the labels stay as long as it; how many of them are not usable."""
        self._sql.execute(f"UPDATE labels SET joined = 1, slot = max(slot, ?) {OF_ROW}", (slot, *row[:3]))
        self._sql.execute(f"UPDATE history SET slot = max(slot, ?) {OF_ROW}", (slot, *row[:3]))
        query = f"SELECT label FROM labels {OF_ROW} UNION ALL SELECT label FROM history {OF_ROW}"
        found = self._sql.execute(query, (*row[:3], *row[:3]))
        return sum(not self.usable(str(row[0]), label) for (label,) in found)

    def demote(self, row: Row, time: float, label: float) -> None:
        """The node that has the prediction cannot judge this label: it gives way to what it replaced, if anything."""
        query = f"SELECT time, label, kpi FROM history {OF_ROW} ORDER BY time DESC, label DESC LIMIT 1"
        before = self._sql.execute(query, row[:3]).fetchone()
        if before is not None:
            change = f"UPDATE labels SET time = ?, label = ?, kpi = ? {_OF_LABEL} AND joined = 0"
            if self._sql.execute(change, (*before, *row[:3], time, label)).rowcount:
                self._sql.execute(f"DELETE FROM history {_OF_LABEL}", (*row[:3], *before[:2]))

    def _replaced(self, row: Row) -> Truth | None:
        """The latest usable one among those that were replaced."""
        found = self._sql.execute(f"SELECT time, label, kpi FROM history {OF_ROW}", row[:3])
        return max((Truth(*one) for one in found if self.usable(str(row[0]), one[1])), default=None)
