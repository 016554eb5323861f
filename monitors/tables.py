"""What is added up of the labels of one version, whole and by segment, and of its predictions by segment."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitors.metrics import Plan, Sums
from monitors.segments import cells
from serving.manifest import Segment
from serving.protocol import Array

WHOLE = ""


def key(segment: int, cell: int) -> str:
    """Of a cell of the segment with this number."""
    return f"{segment}:{cell}"


class Tables(msgspec.Struct):
    """Sums as bytes, so that a copy costs nothing. `offered` are predictions, and how many of them predict 1.

    >>> tables, one = Tables(Plan("classification")), np.array([1])
    >>> tables.follow(np.array([0.9]), np.array([1.0]), one, np.array([0]))
    >>> tables.follow(np.array([0.9]), np.array([1.0]), -one, np.array([0]))
    >>> tables.of(WHOLE).any()
    np.False_
    """

    plan: Plan
    segments: tuple[Segment, ...] = ()
    sums: dict[str, bytes] = {}
    offered: dict[str, tuple[int, int]] = {}

    def copy(self) -> "Tables":
        return msgspec.structs.replace(self, sums={**self.sums}, offered={**self.offered})

    def of(self, at: str) -> Sums:
        """Shape (plan.width,)."""
        data = self.sums.get(at)
        return np.zeros(self.plan.width, np.int64) if data is None else np.frombuffer(data, "<i8")

    def add(self, other: "Tables") -> None:
        """Add what another node counted; where it counts another declaration of the version, this one stays."""
        if (self.plan, self.segments) != (other.plan, other.segments):
            return
        for at in other.sums:
            self._add(at, other.of(at))
        for at, (n, ones) in other.offered.items():
            self._offer(at, n, ones)

    def follow(self, scores: Array, labels: Array, signs: Sums, codes: Array, kpis: Array | None = None) -> None:
        """Count rows with their label `signs` times, shapes (n,); `codes` as from `monitors.segments`."""
        self._add(WHOLE, self.plan.count(scores, labels, signs, kpis=kpis)[0])
        for number, found in enumerate(cells(self.segments, codes)):
            present, place = np.unique(found, return_inverse=True)
            rows = self.plan.count(scores, labels, signs, place, len(present), kpis)
            for cell, row in zip(present.tolist(), rows, strict=True):
                self._add(key(number, cell), row)

    def offer(self, scores: Array, codes: NDArray[np.uint16]) -> None:
        """Count predictions of segments, shapes (n,), whether or not they ever get a label."""
        ones = (scores >= self.plan.threshold) & (self.plan.task == "classification")
        for number, found in enumerate(cells(self.segments, codes)):
            n, chosen = np.bincount(found), np.bincount(found, ones)
            for cell in np.flatnonzero(n).tolist():
                self._offer(key(number, cell), int(n[cell]), int(chosen[cell]))

    def _add(self, at: str, row: Sums) -> None:
        self.sums[at] = (self.of(at) + row).astype("<i8").tobytes()

    def _offer(self, at: str, n: int, ones: int) -> None:
        before = self.offered.get(at, (0, 0))
        self.offered[at] = before[0] + n, before[1] + ones
