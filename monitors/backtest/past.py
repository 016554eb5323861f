"""Rows of the past are counted by block, part after part: in any order, and forgotten once they are counted."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from monitors import slot
from monitors.backtest.metrics import Metrics
from monitors.bottom_k import LARGEST, Hashes, hashes, lowest
from monitors.clusters import keys
from monitors.loss import losses
from monitors.panel import Panel
from monitors.reference import Part, Profile
from monitors.slot import LOSS_UNIT, Counts, LabelCounts
from serving.config import Monitors
from serving.errors import BadRequest
from serving.manifest import Feature
from serving.protocol import Array

Floats = NDArray[np.float64]
Place = slice | NDArray[np.int64]


@dataclass(frozen=True)
class Ruler:
    """Cuts rows into blocks: of `block_s` seconds, or of `rows` rows in their order.

    Slots of `slot_s` seconds are what the live monitor seals; a slot is in the block in which it begins. A block of
    rows is given the length `block_s`.
    """

    block_s: float
    slot_s: float
    rows: int | None = None

    def blocks(self, time: Array | None, first: int, n: int) -> NDArray[np.int64]:
        """The block of each of `n` rows, of which the first is row `first`; `time` in seconds since 1970, shape (n,).

        >>> Ruler(60.0, 60.0).blocks(np.array([59.0, 60.0, -1.0]), 0, 3).tolist()
        [0, 1, -1]
        >>> Ruler(60.0, 60.0, rows=2).blocks(None, 3, 3).tolist()
        [1, 2, 2]
        """
        if self.rows is not None:
            return np.asarray(np.arange(first, first + n) // self.rows)
        return np.asarray(np.floor(self.slots(time) * self.slot_s / self.block_s), np.int64)

    def slots(self, time: Array | None) -> NDArray[np.int64]:
        return np.floor(np.asarray(time, np.float64) / self.slot_s).astype(np.int64)

    def slot(self, block: int) -> int:
        """The first slot that is in the block."""
        return math.ceil(block * self.block_s / self.slot_s)

    def mark(self, block: int) -> str | int:
        """Where the block begins: ISO 8601 in UTC, or the number of its first row."""
        if self.rows is not None:
            return block * self.rows
        return datetime.fromtimestamp(block * self.block_s, UTC).isoformat().replace("+00:00", "Z")


@dataclass
class Sums:
    """What a block's rows add up to, in integers. `squares` is of the losses, in their unit, for their interval."""

    counts: Counts = field(default_factory=Counts)
    labels: LabelCounts = field(default_factory=LabelCounts)
    squares: int = 0
    late: int = 0  # labels that came after their slot was sealed

    def add(self, other: "Sums") -> None:
        self.counts.add(other.counts)
        self.labels.add(other.labels)
        self.squares += other.squares
        self.late += other.late


class Past:
    """All rows so far, by block.

    >>> from monitors.reference import build
    >>> profile = build({"x": np.arange(1000.0)}, {"x": "numeric"})
    >>> past = Past(profile, Ruler(60.0, 60.0), Monitors())
    >>> past.add(Part({"x": np.array([1.0, 2.0, 3.0])}, time=np.array([61.0, 5.0, 119.0])))
    >>> {block: sums.counts.rows for block, sums in past.blocks.items()}
    {0: 1, 1: 2}
    """

    def __init__(self, profile: Profile, ruler: Ruler, settings: Monitors, segments: Iterable[str] = ()) -> None:
        self._profile, self._ruler = profile, ruler
        self._horizon_s = max(settings.label_horizon_s, settings.lateness_s)  # as of the ledger
        self._sums: dict[int, Sums] = {}
        self.metrics = Metrics(profile, segments)
        self.rows = 0

    @property
    def blocks(self) -> dict[int, Sums]:
        """In increasing order; those that have rows."""
        return dict(sorted(self._sums.items()))

    def add(self, part: Part, label_times: Array | None = None, clusters: Array | None = None) -> None:
        """Count rows. `label_times`: labels without count as in time. `clusters`: which one each row is of, shape (n,).

        Raises BadRequest for a label before its prediction.
        """
        n = part.rows
        drawn = hashes(np.zeros(n), np.arange(self.rows, self.rows + n))
        clustered = None if clusters is None else keys(clusters)
        loss, late = self._losses(part, label_times)
        predicted = np.zeros(n, bool) if part.prediction is None else part.prediction == part.prediction
        for block, place in _places(self._ruler.blocks(part.time, self.rows, n)):
            columns = {name: column[place] for name, column in part.columns.items()}
            counts = slot.count(self._profile, columns)
            counts.add(self._drawn(columns, drawn[place], None if clustered is None else clustered[place]))
            in_time = np.isfinite(loss[place])
            labels = self._label_counts(part, place, loss[place], in_time)
            labels.predictions = int(predicted[place].sum())
            squares = _units(loss[place][in_time] ** 2)
            self._sums.setdefault(block, Sums()).add(Sums(counts, labels, squares, int(late[place].sum())))
        self.metrics.add(part)
        self.rows += n

    def _drawn(self, columns: Mapping[str, Array], drawn: Hashes, clusters: Hashes | None) -> Counts:
        """The block's samples: of rows for the classifier, and one row of each cluster."""
        found, panel = Counts(), Panel(self._profile.features, [Feature(name, name) for name in columns])
        if self._profile.sample is not None:
            few = lowest(drawn, LARGEST)
            cells = {name: column[few] for name, column in columns.items()}
            found.sample = panel.draw(cells, drawn[few], self._profile.sample.features)
        if clusters is not None:
            found.clusters = panel.gather(columns, clusters, drawn)
        return found

    def _label_counts(self, part: Part, place: Place, loss: Floats, in_time: NDArray[np.bool_]) -> LabelCounts:
        """What the ledger adds up row by row: losses, and for probabilities the calibration table."""
        found = LabelCounts(0, int(in_time.sum()), _units(loss[in_time]))
        risk = self._profile.risk
        if not found.labelled or risk is None or risk.task != "classification" or part.labels is None:
            return found
        assert part.prediction is not None  # there is no loss without
        p, y = part.prediction[place][in_time], part.labels[place][in_time]
        lows = [bin.low for bin in risk.calibration]
        in_bin = np.maximum(np.searchsorted(lows, p, side="right") - 1, 0)
        found.bin_rows = np.bincount(in_bin, minlength=len(lows)).tolist()
        found.bin_labels = [int(y[in_bin == k].sum()) for k in range(len(lows))]
        found.bin_predictions = [_units(p[in_bin == k]) for k in range(len(lows))]
        return found

    def _losses(self, part: Part, label_times: Array | None) -> tuple[Floats, NDArray[np.bool_]]:
        """NaN where no label came in time, and whether one came later; shapes (n,)."""
        risk = self._profile.risk
        if risk is None or part.prediction is None or part.labels is None:
            return np.full(part.rows, np.nan), np.zeros(part.rows, bool)
        loss = losses(risk.task, risk.cap, part.prediction, part.labels)
        late = self._late(part, label_times) & np.isfinite(loss)
        return np.where(late, np.nan, loss), late

    def _late(self, part: Part, label_times: Array | None) -> NDArray[np.bool_]:
        if label_times is None or part.labels is None or part.time is None:
            return np.zeros(part.rows, bool)
        known = np.isfinite(part.labels)
        if timeless := int((known & np.isnan(label_times)).sum()):
            raise BadRequest(f"{timeless} labels have no label time")
        early = np.flatnonzero(known & (label_times < part.time))
        if len(early):
            raise BadRequest(
                f"{len(early)} labels came before their prediction, the first in row {self.rows + early[0]}: label time"
                f" {label_times[early[0]]:.0f}, prediction {part.time[early[0]]:.0f} (seconds since 1970)"
            )
        sealed = (self._ruler.slots(part.time) + 1) * self._ruler.slot_s + self._horizon_s
        return np.asarray(label_times >= sealed)


def _places(blocks: NDArray[np.int64]) -> Iterator[tuple[int, Place]]:
    """Each block, and the rows that are in it."""
    is_sorted = bool((np.diff(blocks) >= 0).all())
    order = None if is_sorted else np.argsort(blocks, kind="stable")
    ordered = blocks if order is None else blocks[order]
    begins = np.flatnonzero(np.diff(ordered, prepend=ordered[:1] - 1)).tolist()
    for first, last in pairwise([*begins, len(ordered)]):
        yield int(ordered[first]), slice(first, last) if order is None else order[first:last]


def _units(values: Array) -> int:
    """Their sum, each rounded to the unit of losses."""
    return int(np.rint(np.asarray(values, np.float64) / LOSS_UNIT).astype(np.int64).sum())
