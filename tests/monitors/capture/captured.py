"""Records that are to be captured, in rings, and what the segments have of them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from monitors.capture.segment import pieces
from serving import record
from serving.packed import Cut, Excerpt
from serving.record import Record
from serving.ring import RingWriter
from tests.monitors.traffic import FEATURES
from tests.monitors.traffic import record as one_record

NOW = 1_764_000_000.0  # in November 2025
CUTS = (Cut("x0", 0, 0, "FP32", 0), Cut("x2", 0, 2, "FP32", 0), Cut("p", 1, None, "FP32", 1, output=True))


def excerpted(found: Record, sample: float = 1.0, cuts: Sequence[Cut] = CUTS) -> Record:
    return msgspec.structs.replace(found, excerpt=Excerpt(tuple(cuts), sample))


def records(
    requests: int,
    *,
    first: int = 0,
    start: float = NOW,
    spacing_s: float = 1.0,
    version: str = "1",
    sample: float = 1.0,
) -> list[Record]:
    """Requests `r0`, `r1`, … of one to three rows, a record each; every seventh failed."""
    found = []
    for k in range(first, first + requests):
        x = np.full((1 + k % 3, FEATURES), k, np.float32)
        one = one_record([f"r{k}"], x, [start + k * spacing_s], version=version)
        one = msgspec.structs.replace(one, keys=[key(k)])
        if k % 7 == 6:
            one = msgspec.structs.replace(one, statuses=[500], inputs={}, outputs={})
        found.append(excerpted(one, sample))
    return found


def key(k: int) -> int:
    """One of five, as large as hashes are; one is none."""
    return k % 5 << 61


def append(ring: RingWriter, found: Iterable[Record]) -> None:
    for one in found:
        assert ring.append(record.encode(one), one.rows)


def expected(found: Iterable[Record]) -> list[tuple[str, int]]:
    return [(id, row) for one in found for id, n in zip(one.ids, one.counts, strict=True) for row in range(n)]


def paths(root: Path) -> list[Path]:
    return sorted(root.glob("*/*/*.arrow"))


def rows(root: Path) -> list[dict[str, Any]]:
    """All that is captured, in the order of the segments."""
    return [row for path in paths(root) for piece in pieces(path) for row in piece.rows.to_pylist()]


def places(root: Path) -> list[tuple[str, int]]:
    return [(row["request_id"], row["row"]) for row in rows(root)]
