"""What must survive a `kill -9`: one SQLite file, changed by one transaction at a time.

Positions in the rings, open slots, the label store and the monitors' states change in the same transaction, so a
process killed at any point resumes with counts and positions that belong together.
"""

import json
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

Key = tuple[str | int, ...]


class State(Protocol):
    """Values by kind and key, in a file of one node or in the database of all."""

    def put(self, kind: str, values: dict[Key, bytes]) -> None: ...

    def remove(self, kind: str, keys: Iterable[Key]) -> None: ...

    def all(self, kind: str) -> dict[Key, bytes]: ...


_TABLE = "CREATE TABLE IF NOT EXISTS state (kind TEXT, key TEXT, value BLOB, PRIMARY KEY (kind, key)) WITHOUT ROWID"
_LAYOUT = 3  # of the tables and the values in them


class Journal:
    """Values by kind and key. A transaction is open from the first change to `commit`.

    `meaning` names what numbers in the file depend on (the length of a slot); a file of another meaning is begun
    anew, and `fresh` says so.

    >>> journal = Journal(None, "slots of 60 s")
    >>> journal.put("slot", {("flights", "1", 7): b"counts"})
    >>> journal.commit()
    >>> journal.all("slot")
    {('flights', '1', 7): b'counts'}
    """

    def __init__(self, path: Path | None, meaning: str) -> None:
        self.fresh = False
        meaning = json.dumps([_LAYOUT, meaning])
        self.sql = _connect(path)
        if self._meaning() not in (None, meaning):
            self.sql.close()
            assert path is not None
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            self.sql, self.fresh = _connect(path), True
        self.begin()
        self.put("meaning", {(): meaning.encode()})
        self.commit()

    def begin(self) -> None:
        if not self.sql.in_transaction:
            self.sql.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        if self.sql.in_transaction:
            self.sql.execute("COMMIT")

    def put(self, kind: str, values: dict[Key, bytes]) -> None:
        if values:
            rows = [(kind, json.dumps(key), value) for key, value in values.items()]
            self.sql.executemany("INSERT OR REPLACE INTO state VALUES (?, ?, ?)", rows)

    def remove(self, kind: str, keys: Iterable[Key]) -> None:
        rows = [(kind, json.dumps(key)) for key in keys]
        if rows:
            self.sql.executemany("DELETE FROM state WHERE kind = ? AND key = ?", rows)

    def all(self, kind: str) -> dict[Key, bytes]:
        found = self.sql.execute("SELECT key, value FROM state WHERE kind = ?", (kind,))
        return {tuple(json.loads(key)): value for key, value in found}

    def one(self, kind: str) -> bytes | None:
        """The value of a kind that has only one."""
        return self.all(kind).get(())

    def close(self) -> None:
        self.sql.close()

    def _meaning(self) -> str | None:
        found = self.one("meaning")
        return None if found is None else bytes(found).decode()


def _connect(path: Path | None) -> sqlite3.Connection:
    """WAL without an fsync per commit: a killed process loses nothing, a machine that loses power the last moments."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    sql = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False)
    sql.execute("PRAGMA journal_mode = WAL")
    sql.execute("PRAGMA synchronous = NORMAL")
    sql.execute("PRAGMA cache_size = -65536")
    sql.execute(_TABLE)
    return sql
