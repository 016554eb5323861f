"""Rows of one request or one key, taken out of all segments of this node."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from monitors.capture.columns import text
from monitors.capture.segment import pieces
from monitors.capture.shelf import alone, shelves
from serving.errors import ArtifactCorrupt

Matches = Callable[[Any], Any]  # of a batch, which rows: a boolean array


class Erased(NamedTuple):
    """Rows of a model that are no longer there, and the segments that were written anew."""

    model: str
    rows: int
    segments: int


def of_id(id: str) -> Matches:
    """The rows of a request."""
    return lambda rows: pc.equal(rows.column("request_id"), text(id))


def of_key(key_hash: int) -> Matches:
    """The rows of a sticky key, by its hash."""
    asked = pa.scalar(key_hash, pa.uint64())
    return lambda rows: pc.fill_null(pc.equal(rows.column("key_hash"), asked), False)


def erase(root: Path, model: str, matches: Matches) -> Erased:
    """Of one model. What a running sidecar writes to is sealed first; all segments are read again afterwards.

    Raises ArtifactCorrupt for a segment that is damaged, whose rows cannot be known, and when a row is still there.
    """
    rows = segments = 0
    with alone(root):
        found = shelves(root, model)
        for shelf in found:
            shelf.recover()
        if damaged := [path for shelf in found for path in shelf.damaged()]:
            raise ArtifactCorrupt(
                f"nothing is erased: {damaged[0]} is damaged, so that its rows are not known; remove it"
            )
        for shelf in found:
            for name in sorted(shelf.sealed):
                if n := _count(shelf.folder / name, matches):
                    rows, segments = rows + n, segments + 1
                    shelf.change(name, lambda rows: rows.filter(pc.invert(matches(rows))))
        left = sum(_count(path, matches) for shelf in found for path in shelf.folder.glob("*.arrow"))
    if left:
        raise ArtifactCorrupt(f"{left} rows of model {model!r} are still captured below {root}")
    return Erased(model, rows, segments)


def _count(path: Path, matches: Matches) -> int:
    return sum(pc.sum(matches(piece.rows)).as_py() or 0 for piece in pieces(path))
