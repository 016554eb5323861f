"""Rows of the past are counted by block, part after part: in any order, and forgotten once they are counted."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from monitors.backtest.metrics import Metrics
from monitors.bottom_k import hashes
from monitors.cell_losses import follow
from monitors.clusters import keys
from monitors.counting import Rows, take
from monitors.loss import losses
from monitors.panel import Panel
from monitors.reference import PREDICTION, Part, Profile
from monitors.selftest import chosen
from monitors.slot import LOSS_UNIT, Counts, LabelCounts
from serving.config import Monitors
from serving.errors import BadRequest
from serving.manifest import Feature, Task
from serving.protocol import Array

MAX_BLOCKS = 2**17  # 15 years of hours; a block takes about 4 KiB

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
        """The first slot that is not before the block.

        >>> Ruler(3.3, 3.3).slot(2), Ruler(3.3, 3.3).slot(3)  # 3 * 3.3 / 3.3 is less than 3
        (2, 4)
        """
        slot = math.ceil(block * self.block_s / self.slot_s)
        while self._block_of(slot) < block:
            slot += 1
        while self._block_of(slot - 1) >= block:
            slot -= 1
        return slot

    def mark(self, block: int) -> str | int:
        """Where the block begins: ISO 8601 in UTC, or the number of its first row."""
        if self.rows is not None:
            return block * self.rows
        return datetime.fromtimestamp(block * self.block_s, UTC).isoformat().replace("+00:00", "Z")

    def ended(self, at_s: float) -> str | int:
        """The mark at which a judged block ended, by the monitor's clock."""
        return self.mark(round(at_s / self.block_s))

    def _block_of(self, slot: int) -> int:
        """As the monitor reckons, to the bit."""
        return math.floor(slot * self.slot_s / self.block_s)


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


@dataclass(frozen=True)
class Outcomes:
    """Of each row, shapes (n,). A row whose prediction is no number, which is NaN here, waits for no label."""

    prediction: Floats
    label: Floats  # NaN where none came in time
    loss: Floats
    late: NDArray[np.bool_]  # whether one came later
    cells: NDArray[np.uint8]  # by which losses are told, shape (n, features)

    def of(self, place: Place) -> "Outcomes":
        return Outcomes(
            self.prediction[place], self.label[place], self.loss[place], self.late[place], self.cells[place]
        )  # fmt: skip


class Past:
    """All rows so far, by block, counted by the code that counts live ones.

    >>> from monitors.reference import build
    >>> profile = build({"x": np.arange(1000.0)}, {"x": "numeric"})
    >>> past = Past(profile, Ruler(60.0, 60.0), Monitors())
    >>> past.add(Part({"x": np.array([1.0, 2.0, 3.0])}, time=np.array([61.0, 5.0, 119.0])))
    >>> {block: sums.counts.rows for block, sums in past.blocks.items()}
    {0: 1, 1: 2}
    """

    def __init__(
        self, profile: Profile, ruler: Ruler, settings: Monitors, segments: Iterable[str] = (), task: Task | None = None
    ) -> None:
        """`task` is that of a reference without labels, whose profile has no risk."""
        self._profile, self._ruler = profile, ruler
        self._horizon_s = max(settings.label_horizon_s, settings.lateness_s)  # as of the ledger
        self._halved = chosen(profile)
        self._sums: dict[int, Sums] = {}
        self.task = _task(profile, task)
        self.metrics = Metrics(profile, self.task, segments)
        self.rows = 0

    @property
    def blocks(self) -> dict[int, Sums]:
        """In increasing order; those that have rows."""
        return dict(sorted(self._sums.items()))

    def add(self, part: Part, label_times: Array | None = None, clusters: Array | None = None) -> None:
        """Count rows. `label_times`: labels without count as in time. `clusters`: which one each row is of, shape (n,).

        Raises BadRequest for a label before its prediction, and for more than `MAX_BLOCKS` blocks.
        """
        n, columns = part.rows, part.columns
        panel = Panel(self._profile.features, [Feature(name, name) for name in columns], self._halved)
        time = np.zeros(n) if part.time is None else np.asarray(part.time, np.float64)
        drawn, named = hashes(time, np.arange(self.rows, self.rows + n)), None if clusters is None else keys(clusters)
        outcomes = self._outcomes(part, label_times)
        for block, place in _places(self._ruler.blocks(part.time, self.rows, n)):
            mine = drawn[place]
            rows = Rows({name: column[place] for name, column in columns.items()}, np.full(len(mine), block), mine)
            take(self._at, panel, rows, self._profile.sample, None if named is None else named[place])
            self._follow(self._sums[block], outcomes.of(place))
        if len(self._sums) > MAX_BLOCKS:
            raise BadRequest(
                f"the rows lie in more than {MAX_BLOCKS:,} blocks of {self._ruler.block_s:g} s, expected fewer:"
                " take longer ones (--block)"
            )
        self.metrics.add(part)
        self.rows += n

    def _at(self, block: int) -> Counts:
        return self._sums.setdefault(block, Sums()).counts

    def _follow(self, sums: Sums, rows: Outcomes) -> None:
        """What the ledger adds up row by row: losses, and for probabilities the calibration table."""
        known = np.isfinite(rows.loss)
        loss, p, y = rows.loss[known], rows.prediction[known], rows.label[known]
        labels = LabelCounts(int(np.isfinite(rows.prediction).sum()), len(loss), _units(loss))
        risk = self._profile.risk
        if len(loss) and risk is not None and risk.task == "classification":
            lows = [bin.low for bin in risk.calibration]
            in_bin = np.maximum(np.searchsorted(lows, p, side="right") - 1, 0)
            labels.bin_rows = np.bincount(in_bin, minlength=len(lows)).tolist()
            labels.bin_labels = [int(y[in_bin == k].sum()) for k in range(len(lows))]
            labels.bin_predictions = [_units(np.clip(p[in_bin == k], 0.0, 1.0)) for k in range(len(lows))]
        if len(loss) and (told := self._profile.losses):
            units = np.rint(loss / LOSS_UNIT).astype(np.int64)
            labels.cells = follow(b"", told.sizes, rows.cells[known], np.ones(len(loss), np.int64), units)
        sums.add(Sums(Counts(), labels, _units(loss**2), int(rows.late.sum())))

    def _outcomes(self, part: Part, label_times: Array | None) -> Outcomes:
        late, unknown = self._late(part, label_times), np.full(part.rows, np.nan)
        if self.task is None or part.prediction is None:
            return Outcomes(unknown, unknown, unknown, np.zeros(part.rows, bool), np.zeros((part.rows, 0), np.uint8))
        prediction, label = _finite(part.prediction), unknown if part.labels is None else _finite(part.labels)
        late &= np.isfinite(prediction) & np.isfinite(label)
        label = np.where(late, np.nan, label)
        cap = self._profile.risk.cap if self._profile.risk else 1.0
        return Outcomes(prediction, label, losses(self.task, cap, prediction, label), late, self._cells(part))

    def _cells(self, part: Part) -> NDArray[np.uint8]:
        names = self._profile.losses.names if self._profile.losses else ()
        laws = {name: self._profile.features[name] for name in names}
        return Panel(laws, [Feature(name, name) for name in part.columns]).cells(part.columns, part.rows, names)

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


def _task(profile: Profile, task: Task | None) -> Task | None:
    """What labels are judged by, None where they are not: the scale of a regression's loss is the reference's."""
    if profile.risk is not None:
        return profile.risk.task
    return "classification" if task == "classification" and PREDICTION in profile.features else None


def _places(blocks: NDArray[np.int64]) -> Iterator[tuple[int, Place]]:
    """Each block, and the rows that are in it."""
    is_sorted = bool((np.diff(blocks) >= 0).all())
    order = None if is_sorted else np.argsort(blocks, kind="stable")
    ordered = blocks if order is None else blocks[order]
    begins = np.flatnonzero(np.diff(ordered, prepend=ordered[:1] - 1)).tolist()
    for first, last in pairwise([*begins, len(ordered)]):
        yield int(ordered[first]), slice(first, last) if order is None else order[first:last]


def _finite(values: Array) -> Floats:
    """What is no number, or infinite, as NaN."""
    numbers = np.asarray(values, np.float64)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def _units(values: Array) -> int:
    """Their sum, each rounded to the unit of losses."""
    return int(np.rint(np.asarray(values, np.float64) / LOSS_UNIT).astype(np.int64).sum())
