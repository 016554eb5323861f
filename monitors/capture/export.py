"""Captured rows as Parquet, one batch after the other: memory stays bounded whatever the segments hold."""

import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from monitors.capture.columns import FACTS, TIME
from monitors.capture.segment import Piece, pieces, schema
from monitors.capture.shelf import Shelf, shelves, span
from serving.errors import Conflict, NotFound

GROUP_ROWS = 2**16
GROUP_BYTES = 2**26
_ASKED = 500  # ids in one query
DAY_US = 86_400_000_000


@dataclass(frozen=True)
class Selection:
    """Rows of a model that arrived in [since, until), seconds since 1970; of all versions where none is named.

    `counted` are those alone that the monitors count: answered with 200, and with a time of their event.
    """

    model: str
    version: str | None = None
    since: float = -math.inf
    until: float = math.inf
    counted: bool = False


@dataclass(frozen=True)
class Held:
    """What is captured of a version on this node; times of arrival in seconds since 1970, None without a row."""

    model: str
    version: str
    segments: int
    rows: int
    bytes: int
    first: float | None
    last: float | None


def held(root: Path) -> list[Held]:
    return [_held(shelf) for shelf in shelves(root)]


def export(root: Path, selection: Selection, to: Path, *, by_day: bool = False, labels: Path | None = None) -> int:
    """Write the rows to a new Parquet file, with `by_day` to a new folder of `day=YYYY-MM-DD`; returns their number.

    `labels` is the monitors' journal: the columns `label` and `label_time` are then those that have arrived.
    Raises NotFound when nothing is captured of it, Conflict when `to` exists or the versions do not fit together.
    """
    found = shelves(root, selection.model, selection.version)
    paths = [path for shelf in found for path in _paths(shelf, selection)]
    schemas = [known for path in paths if (known := schema(path)) is not None]
    if not schemas:
        there = sorted({f"{shelf.model} version {shelf.version}" for shelf in shelves(root)})
        raise NotFound(f"nothing is captured of model {selection.model!r} in that selection below {root}; there is"
                       f" {', '.join(there) or 'nothing'}")  # fmt: skip
    if labels is not None and not labels.exists():
        raise NotFound(f"there are no labels: the monitors of this node have no {labels}")
    whole = _whole(schemas, labels is not None)
    if to.exists():
        raise Conflict(f"{to} exists: name a new {'folder' if by_day else 'file'}")
    batches = _batches(paths, selection, whole, labels)
    return _write_days(to, whole, batches) if by_day else _write(to, whole, batches)


def _held(shelf: Shelf) -> Held:
    rows = sum(sealed.rows for sealed in shelf.sealed.values())
    times = [at for sealed in shelf.sealed.values() if sealed.rows for at in (sealed.first, sealed.last)]
    for path in shelf.loose:
        for piece in _there(path):
            rows += piece.rows.num_rows
            times += span(piece.rows)
    segments = len(shelf.sealed) + len(shelf.loose)
    first, last = (min(times), max(times)) if times else (None, None)
    return Held(shelf.model, shelf.version, segments, rows, shelf.bytes, first, last)


def _paths(shelf: Shelf, selection: Selection) -> list[Path]:
    """Segments that may have a row of it, oldest first."""
    outside = {one.name for one in shelf.sealed.values() if one.last < selection.since or one.first >= selection.until}
    return [path for path in sorted(shelf.folder.glob("*.arrow")) if path.name not in outside]


def _whole(schemas: list[Any], labelled: bool) -> Any:
    """One schema for all; columns that only some have are empty in the others."""
    fields = [pa.field("model", pa.string(), False), pa.field("version", pa.string(), False), *FACTS]
    for name in ("inputs", "outputs"):
        kinds: dict[str, Any] = {}
        for field in (field for one in schemas if name in one.names for field in one.field(name).type):
            if kinds.setdefault(field.name, field.type) != field.type:
                raise Conflict(f"{field.name!r} of {name} is {kinds[field.name]} in some segments and {field.type} in"
                               " others: export one version or another span of time")  # fmt: skip
        if kinds:
            fields.append(pa.field(name, pa.struct(kinds.items())))
    if labelled:
        fields += [pa.field("label", pa.float64()), pa.field("label_time", TIME)]
    return pa.schema(fields)


def _batches(paths: list[Path], selection: Selection, whole: Any, labels: Path | None) -> Iterator[Any]:
    """In the order of the segments, each with the columns of `whole`."""
    source = f"{labels.absolute().as_uri()}?mode=ro" if labels else ":memory:"
    with closing(sqlite3.connect(source, uri=True)) as sql:
        for path in paths:
            for piece in _there(path):
                rows = piece.rows.filter(_within(piece.rows, selection))
                if rows.num_rows:
                    yield _conformed(rows, path, whole, _labels(sql, selection.model, rows) if labels else {})


def _there(path: Path) -> Iterator[Piece]:
    """Of a segment that may have expired meanwhile."""
    with suppress(FileNotFoundError):
        yield from pieces(path)


def _within(rows: Any, selection: Selection) -> Any:
    at = np.asarray(rows.column("arrival_time").cast("int64").fill_null(0)) / 1e6
    wanted = (at >= selection.since) & (at < selection.until)
    if selection.counted:
        wanted &= (np.asarray(rows.column("status")) == 200) & np.asarray(rows.column("event_time").is_valid())
    return pa.array(wanted)


def _conformed(rows: Any, path: Path, whole: Any, labels: dict[str, Any]) -> Any:
    n, known = rows.num_rows, {name: rows.column(name) for name in rows.schema.names} | labels
    known |= {"model": pa.array([path.parent.parent.name] * n), "version": pa.array([path.parent.name] * n)}
    columns = [_column(known.get(field.name), field.type, n) for field in whole]
    return pa.RecordBatch.from_arrays(columns, schema=whole)


def _column(found: Any, kind: Any, n: int) -> Any:
    if found is None:
        return pa.nulls(n, kind)
    if not pa.types.is_struct(kind) or found.type == kind:
        return found
    there = {field.name: found.field(i) for i, field in enumerate(found.type)}
    parts = [there.get(field.name, pa.nulls(n, field.type)) for field in kind]
    return pa.StructArray.from_arrays(parts, fields=list(kind), mask=found.is_null())


def _labels(sql: sqlite3.Connection, model: str, rows: Any) -> dict[str, Any]:
    """What is known to be true of each row, and since when."""
    ids, found = rows.column("request_id").to_pylist(), dict[tuple[str, int], tuple[float, float]]()
    unique = list(dict.fromkeys(ids))
    for at in range(0, len(unique), _ASKED):
        some = unique[at : at + _ASKED]
        asked = f"SELECT id, row, label, time FROM labels WHERE model = ? AND id IN ({','.join('?' * len(some))})"
        found |= {(id, row): (label, time) for id, row, label, time in sql.execute(asked, (model, *some))}
    of = [found.get(place) for place in zip(ids, rows.column("row").to_pylist(), strict=True)]
    micros = [None if one is None else round(one[1] * 1e6) for one in of]
    return {
        "label": pa.array([None if one is None else one[0] for one in of], pa.float64()),
        "label_time": pa.array(micros, pa.int64()).cast(TIME),
    }


def _write(to: Path, whole: Any, batches: Iterator[Any]) -> int:
    """To one file, which is there once it is whole."""
    staged, total = to.with_name(f"{to.name}.partial"), 0
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        with parquet.ParquetWriter(staged, whole, compression="zstd") as writer:
            for group in _groups(batches):
                writer.write_batch(group)
                total += group.num_rows
        staged.rename(to)
    finally:
        staged.unlink(missing_ok=True)
    return total


def _write_days(to: Path, whole: Any, batches: Iterator[Any]) -> int:
    """A file for each stretch of rows of one day."""
    total = 0
    days = ((day, rows) for batch in batches for day, rows in _days(batch))
    for part, (day, stretch) in enumerate(groupby(days, key=lambda found: found[0])):
        total += _write(to / f"day={day}" / f"part-{part:05d}.parquet", whole, (rows for _, rows in stretch))
    return total


def _days(rows: Any) -> Iterator[tuple[str, Any]]:
    """A batch by the UTC day of arrival, oldest first."""
    days = np.asarray(rows.column("arrival_time").cast("int64").fill_null(0)) // DAY_US
    for day in np.unique(days).tolist():
        yield str(np.datetime64(day, "D")), rows.filter(pa.array(days == day))


def _groups(batches: Iterator[Any]) -> Iterator[Any]:
    """Small batches together, as many rows as one row group should have."""
    waiting: list[Any] = []
    for rows in batches:
        waiting.append(rows)
        if sum(one.num_rows for one in waiting) >= GROUP_ROWS or sum(one.nbytes for one in waiting) >= GROUP_BYTES:
            yield pa.concat_batches(waiting)
            waiting = []
    if waiting:
        yield pa.concat_batches(waiting)
