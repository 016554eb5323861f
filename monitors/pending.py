"""Predictions that wait for a label: rows of fixed size in blocks of one SQLite table, and an index in memory.

A row is appended in the order of arrival and found by its 128-bit key. Of several rows under one key the last
one holds. What is appended is written by `save`, in the caller's transaction: full blocks once, the open one again
each time.
"""

import os
import sqlite3
from collections import Counter, OrderedDict
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitors.bottom_k import ABSENT
from monitors.index import Index
from monitors.keys import Keys, Pair

_TABLES = """
CREATE TABLE IF NOT EXISTS pending_blocks (
    number INTEGER PRIMARY KEY, last_slot INTEGER, data BLOB, width INTEGER DEFAULT 0);
CREATE TABLE IF NOT EXISTS pending_names (code INTEGER PRIMARY KEY, model TEXT, version TEXT, lane TEXT);
CREATE TABLE IF NOT EXISTS pending_slots (slot INTEGER PRIMARY KEY, rows INTEGER);
CREATE TABLE IF NOT EXISTS pending_facts (name TEXT PRIMARY KEY, value);
"""
ROW = np.dtype(
    [
        ("hi", "<u8"), ("lo", "<u8"), ("slot", "<i8"), ("value", "<f8"), ("time", "<f8"), ("name", "<u4"),
        ("counted", "u1"), ("halvings", "u1"), ("segment", "<u2"),
    ]
)  # fmt: skip
_WIDER = "ALTER TABLE pending_blocks ADD COLUMN width INTEGER DEFAULT 0"  # to what was written before there was one
Rows = NDArray[np.void]

BLOCK_ROWS = 4096
SLACK_ROWS = 16 * BLOCK_ROWS  # displaced and expired rows that may stay, beside as many as are live
CACHED_BLOCKS = 64  # that labels asked for: 12 MB, and a quarter of one for each feature whose cells are kept


@lru_cache
def layout(width: int) -> np.dtype[np.void]:
    """Of a row that keeps its cells of `width` features: `ROW`, and them."""
    return np.dtype([*ROW.descr, ("cells", "u1", (width,))])


class Name(NamedTuple):
    """Whose a prediction is; `lane` is empty for the primary, the version for a shadow."""

    model: str
    version: str
    lane: str


class Held(NamedTuple):
    """The row that holds a key, and its place."""

    place: int
    row: np.void


class Pending:
    """Rows by key, on disk, 48 bytes and a byte a cell; in memory 16 bytes for each."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._sql = connection
        for statement in _TABLES.split(";"):
            self._sql.execute(statement)
        if "width" not in {column[1] for column in self._sql.execute("PRAGMA table_info(pending_blocks)")}:
            self._sql.execute(_WIDER)
        self.keys = Keys(bytes(self._fact("secret", os.urandom(16))))
        named = self._sql.execute("SELECT model, version, lane FROM pending_names ORDER BY code")
        self._names = [Name(*name) for name in named]  # by code
        self._codes = {name: code for code, name in enumerate(self._names)}
        self._live = Counter[int](dict(self._sql.execute("SELECT slot, rows FROM pending_slots")))
        self.rows = self._live.total()  # live: not displaced under their key, not expired
        self._changed: set[int] = set()  # slots whose number of live rows has to be written
        self._mark = int(self._fact("mark", -(2**62)))  # slots before it are expired
        self._index = Index()
        self._blocks: OrderedDict[int, Rows] = OrderedDict()  # read lately
        self._width = 0  # cells that a row keeps: the most of any version's so far
        self._begin(0)
        self._load()

    def lanes(self, model: str) -> list[str]:
        """Lanes that predictions of the model were seen in."""
        return sorted({name.lane for name in self._names if name.model == model})

    def name(self, code: int) -> Name:
        return self._names[code]

    def contains(self, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Whether a row with this upper half of a key may wait."""
        return self._index.contains(hashes)

    def find(self, hi: np.uint64, lo: np.uint64) -> Held | None:
        """The row that holds a key."""
        for place in self._index.find(hi):
            row = self._row(place)
            if row is not None and row["lo"] == lo:
                return Held(place, row) if row["slot"] >= self._mark else None
        return None

    def find_all(self, keys: Pair) -> dict[int, Held]:
        """The rows that hold keys, by the place of the key among `keys`. Each block is read once."""
        found = {}
        places = self._index.newest(keys.hi)
        asked = np.flatnonzero(places >= 0)
        asked = asked[np.argsort(places[asked])]
        for some in np.split(asked, np.flatnonzero(np.diff(places[asked] // BLOCK_ROWS)) + 1) if len(asked) else ():
            block = self._block(int(places[some[0]]) // BLOCK_ROWS)
            at = places[some] % BLOCK_ROWS
            rows = block[np.minimum(at, len(block) - 1)] if len(block) else np.zeros(len(some), layout(0))
            holds = (at < len(block)) & (rows["lo"] == keys.lo[some]) & (rows["slot"] >= self._mark)
            for i, row, held in zip(some.tolist(), rows, holds.tolist(), strict=True):
                if held:
                    found[i] = Held(int(places[i]), row)
                elif older := self.find(keys.hi[i], keys.lo[i]):
                    found[i] = older
        return found

    def made(self, name: Name, keys: Pair, cells: NDArray[np.uint8] | None = None, **columns: object) -> Rows:
        """Rows to be appended at once; `columns` are those of `ROW`, each one number or of shape (n,)."""
        width = 0 if cells is None else cells.shape[1]
        if width > self._width:
            self._widen(width)
        rows = np.zeros(len(keys.hi), layout(self._width))
        rows["cells"] = ABSENT
        if cells is not None:
            rows["cells"][:, :width] = cells
        rows["hi"], rows["lo"], rows["name"] = keys.hi, keys.lo, self._code(name)
        for column, values in columns.items():
            rows[column] = values
        return rows

    def append(self, rows: Rows) -> None:
        """Of keys that are not live, or that `displace` takes the place of."""
        slots, n = np.unique(rows["slot"], return_counts=True)
        for slot, count in zip(slots.tolist(), n.tolist(), strict=True):
            self._count(slot, count)
        self._store(rows)
        if len(self._index) > 2 * self.rows + SLACK_ROWS:
            self._compact()

    def displace(self, held: Held, row: Rows) -> None:
        """Let another row, of shape (1,), hold the key."""
        self._count(int(held.row["slot"]), -1)
        if held.place // BLOCK_ROWS == self._number:
            self._open[held.place % BLOCK_ROWS] = row[0]
            self._count(int(row[0]["slot"]), 1)
            self._dirty = True
        else:
            self.append(row)

    def expire(self, slot: int) -> None:
        """Forget what lies before `slot`."""
        self._mark = max(self._mark, slot)
        for old in [old for old in self._live if old < slot]:
            self._count(old, -self._live[old])
        self._sql.execute("UPDATE pending_facts SET value = ? WHERE name = 'mark'", (self._mark,))
        if self._sql.execute("DELETE FROM pending_blocks WHERE last_slot < ?", (self._mark,)).rowcount:
            oldest = self._sql.execute("SELECT min(number) FROM pending_blocks").fetchone()[0]
            self._index.keep((self._number if oldest is None else oldest) * BLOCK_ROWS)
            self._blocks.clear()

    def save(self) -> None:
        if self._dirty:
            self._write()
        rows = [(slot, self._live[slot]) for slot in self._changed]
        self._sql.executemany("INSERT OR REPLACE INTO pending_slots VALUES (?, ?)", [r for r in rows if r[1]])
        self._sql.executemany("DELETE FROM pending_slots WHERE slot = ?", [(slot,) for slot, n in rows if not n])
        self._changed.clear()

    def _store(self, rows: Rows) -> None:
        while len(rows):
            part, rows = rows[: BLOCK_ROWS - self._filled], rows[BLOCK_ROWS - self._filled :]
            self._open[self._filled : self._filled + len(part)] = part
            place = self._number * BLOCK_ROWS + self._filled
            self._index.add(part["hi"].copy(), np.arange(place, place + len(part)))
            self._filled += len(part)
            self._dirty = True
            if self._filled == BLOCK_ROWS:
                self._write()
                self._begin(self._number + 1)

    def _widen(self, width: int) -> None:
        """Let rows from now on keep so many cells."""
        if self._filled:
            self._write()
            self._number += 1
        self._width = width
        self._begin(self._number)

    def _begin(self, number: int) -> None:
        """A new open block."""
        self._number, self._filled, self._dirty = number, 0, False
        self._open: Rows = np.zeros(BLOCK_ROWS, layout(self._width))

    def _compact(self) -> None:
        """Write live rows alone. Who uses ids again and again would fill the disk with rows that were displaced."""
        if self._filled:
            self._write()
        latest, last = self._index.latest(), self._number
        self._index = Index()
        self._begin(last + 1)
        for (number,) in self._sql.execute("SELECT number FROM pending_blocks ORDER BY number").fetchall():
            block = self._block(number)
            places = np.arange(number * BLOCK_ROWS, number * BLOCK_ROWS + len(block))
            at = np.minimum(np.searchsorted(latest, places), len(latest) - 1)
            self._store(_widened(block[(latest[at] == places) & (block["slot"] >= self._mark)], self._width))
        self._sql.execute("DELETE FROM pending_blocks WHERE number <= ?", (last,))
        self._blocks.clear()

    def _load(self) -> None:
        for (number,) in self._sql.execute("SELECT number FROM pending_blocks ORDER BY number").fetchall():
            block = self._block(number)
            self._index.add(block["hi"].copy(), np.arange(number * BLOCK_ROWS, number * BLOCK_ROWS + len(block)))
            self._width = block["cells"].shape[1]  # which only grows
            self._begin(number + 1)
        if self._blocks and len(block) < BLOCK_ROWS:
            self._begin(number)
            self._open[: len(block)], self._filled = block, len(block)
        self._blocks.clear()  # the open one is written again when it is full

    def _row(self, place: int) -> np.void | None:
        block = self._block(place // BLOCK_ROWS)
        return block[place % BLOCK_ROWS].copy() if place % BLOCK_ROWS < len(block) else None

    def _block(self, number: int) -> Rows:
        if number == self._number and self._filled:
            return self._open
        if number not in self._blocks:
            query = "SELECT data, width FROM pending_blocks WHERE number = ?"
            data, width = self._sql.execute(query, (number,)).fetchone() or (b"", 0)
            self._blocks[number] = np.frombuffer(data, layout(width))
        self._blocks.move_to_end(number)
        while len(self._blocks) > CACHED_BLOCKS:
            self._blocks.popitem(last=False)
        return self._blocks[number]

    def _write(self) -> None:
        rows = self._open[: self._filled]
        block = (self._number, int(rows["slot"].max()), rows.tobytes(), self._width)
        self._sql.execute("INSERT OR REPLACE INTO pending_blocks VALUES (?, ?, ?, ?)", block)
        self._dirty = False

    def _count(self, slot: int, rows: int) -> None:
        self.rows += rows
        self._live[slot] += rows
        self._changed.add(slot)
        if not self._live[slot]:
            del self._live[slot]

    def _code(self, name: Name) -> int:
        code = self._codes.get(name)
        if code is None:
            code = self._codes[name] = len(self._names)
            self._names.append(name)
            self._sql.execute("INSERT INTO pending_names VALUES (?, ?, ?, ?)", (code, *name))
        return code

    def _fact(self, name: str, default: bytes | int) -> bytes | int:
        """A fact that was written before, or `default`, which is written now."""
        self._sql.execute("INSERT OR IGNORE INTO pending_facts VALUES (?, ?)", (name, default))
        found: bytes | int = self._sql.execute("SELECT value FROM pending_facts WHERE name = ?", (name,)).fetchone()[0]
        return found


def _widened(rows: Rows, width: int) -> Rows:
    """The same rows with room for as many cells."""
    found = np.zeros(len(rows), layout(width))
    found["cells"] = ABSENT
    for column in ROW.names or ():
        found[column] = rows[column]
    found["cells"][:, : rows["cells"].shape[1]] = rows["cells"]
    return found
