"""Additive integer counts of one slot of time: the unit of all evidence.

Merging nodes, workers or the two halves of a restart is adding integers, so the sum does not know in which order
or in how many pieces its rows were counted.
"""

from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from itertools import chain, zip_longest

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitors import bottom_k, clusters
from monitors.bottom_k import BottomK
from monitors.cell_losses import added
from monitors.clusters import Clusters
from monitors.loss import LOSS_UNIT as LOSS_UNIT
from monitors.marginal import Marginal
from monitors.reference import Profile
from monitors.whole_rows import WholeRows
from serving.protocol import Array

CLASSES = (0.0, 1.0)  # labels of a classification
ROWS = "_rows"  # in `Counts.cells` of shape (1,): rows of the version whose tensors cannot be read, part of `rows`
HALF = "_half"  # in `Counts.cells`: rows of one feature, about half of them, for the test of the monitor itself


class Counts:
    """Rows of one (model, version, slot) by feature and cell: `cells[feature]` has shape (K,), int64.

    >>> a, b = Counts(2, {"x": np.array([2, 0])}), Counts(1, {"x": np.array([0, 1])})
    >>> a.add(b)
    >>> a.rows, a.cells["x"].tolist(), decode(a.encode()) == a
    (3, [2, 1], True)
    """

    __slots__ = ("cells", "clusters", "contents", "hours", "learned", "reference", "rows", "sample")

    def __init__(
        self,
        rows: int = 0,
        cells: dict[str, NDArray[np.int64]] | None = None,
        sample: BottomK | None = None,
        clusters: Clusters | None = None,
        contents: BottomK | None = None,
        reference: int = 0,
        hours: dict[int, dict[str, NDArray[np.int64]]] | None = None,
        learned: WholeRows | None = None,
    ) -> None:
        self.rows = rows
        self.cells = {} if cells is None else cells
        self.sample = sample  # of the rows, where the profile has one of the reference's
        self.clusters = clusters  # of the rows, where the unit is a cluster
        self.contents = contents  # a sketch of equal rows, see `repeats`
        self.reference = reference  # the order that brought the reference of its cells; 0: the published one
        self.learned = learned  # whole rows, where the version has no reference yet
        self.hours = {} if hours is None else hours  # `cells` by hour of the week, where hours are compared apart

    @property
    def size(self) -> int:
        """Rows."""
        return self.rows

    def add(self, other: "Counts") -> None:
        """Add `other` to this, in place; `other` stays as it is. Of two references only one may have cells."""
        self.rows += other.rows
        self.reference = max(self.reference, other.reference)
        _add(self.cells, other.cells)
        for hour, cells in other.hours.items():
            _add(self.hours.setdefault(hour, {}), cells)
        if other.learned is not None:
            self.learned = other.learned if self.learned is None else self.learned.merged(other.learned)
        if other.sample is not None:
            self.sample = other.sample if self.sample is None else self.sample.merged(other.sample)
        if other.clusters is not None:
            self.clusters = other.clusters if self.clusters is None else self.clusters.merged(other.clusters)
        if other.contents is not None:
            self.contents = other.contents if self.contents is None else self.contents.merged(other.contents)

    def one_a_cluster(self, laws: Mapping[str, Marginal]) -> "Counts":
        """The same with one row of each cluster in the cells of features; `rows` are still all rows."""
        cells = {} if self.clusters is None else self.clusters.counts(laws)
        unreadable = {ROWS: self.cells[ROWS]} if ROWS in self.cells else {}
        return Counts(self.rows, unreadable | cells, self.sample, contents=self.contents)

    def at(self, hour: int, features: Collection[str]) -> "Counts":
        """The same, all of it of one hour of the week, by which these features are compared."""
        apart = {name: cells for name, cells in self.cells.items() if name in features}
        return Counts(self.rows, self.cells, self.sample, self.clusters, self.contents, self.reference, {hour: apart})

    def of(self, feature: str, law: Marginal) -> NDArray[np.int64] | dict[int, NDArray[np.int64]] | None:
        """A feature's cells, by hour of the week where it is compared by hour; None where no row has it."""
        if law.strata:
            return {hour: cells[feature] for hour, cells in self.hours.items() if feature in cells}
        return self.cells.get(feature)

    def encode(self) -> bytes:
        sketches: list[tuple[bytes | int, ...]] = [
            (b"", 0) if found is None else (found.encode(), len(found))
            for found in (self.sample, self.clusters, self.contents)
        ]
        hours = {hour: _lists(cells) for hour, cells in self.hours.items()}
        learned = self.learned.rows if self.learned else ()
        tail: list[bytes | int | dict[int, dict[str, list[int]]] | Sequence[bytes]]
        tail = [*chain.from_iterable(sketches), self.reference, hours, learned]
        while tail and not tail[-1]:
            tail.pop()
        return msgspec.msgpack.encode((self.rows, _lists(self.cells), *tail))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Counts) and self.encode() == other.encode()

    __hash__ = None  # type: ignore[assignment]


class _Encoded(msgspec.Struct, array_like=True):
    rows: int
    cells: dict[str, list[int]]
    sample: bytes = b""
    sampled: int = 0
    clusters: bytes = b""
    clustered: int = 0
    contents: bytes = b""
    sketched: int = 0
    reference: int = 0
    hours: dict[int, dict[str, list[int]]] = {}
    learned: list[bytes] = []


class LabelCounts(msgspec.Struct, array_like=True):
    """Predictions of one (model, version, slot) and the labels they got until the slot was sealed.

    `loss` is the sum of the labelled rows' losses in units of 2**-32: an integer, so that it adds exactly.

    >>> a = LabelCounts(predictions=3, labelled=2, loss=int(0.75 / LOSS_UNIT))
    >>> a.add(LabelCounts(predictions=1))
    >>> a.predictions, a.labelled, a.mean
    (4, 2, 0.375)
    """

    predictions: int = 0
    labelled: int = 0
    loss: int = 0
    # Of labelled rows by bin of the calibration table; empty where there are none:
    bin_rows: list[int] = []
    bin_labels: list[int] = []  # sums
    bin_predictions: list[int] = []  # sums in units of 2**-32
    cells: bytes = b""  # losses by cell, as in `cell_losses`; of all rows of a block, in its last slot

    @property
    def size(self) -> int:
        """Predictions, labelled or not."""
        return self.predictions

    def add(self, other: "LabelCounts") -> None:
        self.predictions += other.predictions
        self.labelled += other.labelled
        self.loss += other.loss
        self.bin_rows = _sums(self.bin_rows, other.bin_rows)
        self.bin_labels = _sums(self.bin_labels, other.bin_labels)
        self.bin_predictions = _sums(self.bin_predictions, other.bin_predictions)
        self.cells = added(self.cells, other.cells)

    def follow(self, lows: Sequence[float], prediction: float, before: float | None, after: float | None) -> None:
        """The label of a row changed from `before` to `after`; `lows` are where the bins begin.

        A prediction beyond 0..1 counts as its end, and a label that is neither 0 nor 1 as none.

        >>> counts = LabelCounts()
        >>> counts.follow([0.0, 0.5], 0.75, None, 1.0)
        >>> counts.bin_rows, counts.bin_labels, counts.bin_predictions
        ([0, 1], [0, 1], [0, 3221225472])
        """
        if not self.bin_rows:
            self.bin_rows, self.bin_labels, self.bin_predictions = ([0] * len(lows) for _ in range(3))
        k = max(0, bisect_right(lows, prediction) - 1)
        rows = (after in CLASSES) - (before in CLASSES)
        self.bin_rows[k] += rows
        self.bin_labels[k] += int(after == 1) - int(before == 1)
        self.bin_predictions[k] += rows * round(min(max(0.0, prediction), 1.0) / LOSS_UNIT)

    @property
    def coverage(self) -> float:
        """Labelled share of the predictions, 0..1."""
        return self.labelled / self.predictions if self.predictions else 0.0

    @property
    def mean(self) -> float:
        """Mean loss of the labelled rows, 0..1."""
        return self.loss * LOSS_UNIT / self.labelled if self.labelled else 0.0

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(self)


def count(profile: Profile, values: Mapping[str, Array]) -> Counts:
    """Count rows. `values` as from `monitors.features`, all of shape (n,); what the profile lacks is left out."""
    rows = max((len(column) for column in values.values()), default=0)
    known = profile.features
    return Counts(rows, {name: known[name].count(column) for name, column in values.items() if name in known})


def decode(data: bytes) -> Counts:
    """The inverse of `Counts.encode`."""
    found = msgspec.msgpack.decode(data, type=_Encoded)
    return Counts(
        found.rows,
        _arrays(found.cells),
        bottom_k.decode(found.sample, found.sampled) if found.sampled else None,
        clusters.decode(found.clusters, found.clustered) if found.clustered else None,
        bottom_k.decode(found.contents, found.sketched) if found.sketched else None,
        found.reference,
        {hour: _arrays(cells) for hour, cells in found.hours.items()},
        WholeRows(found.learned) if found.learned else None,
    )


def _add(cells: dict[str, NDArray[np.int64]], others: Mapping[str, NDArray[np.int64]]) -> None:
    for name, counts in others.items():
        cells[name] = cells[name] + counts if name in cells else counts


def _lists(cells: Mapping[str, NDArray[np.int64]]) -> dict[str, list[int]]:
    return {name: counts.tolist() for name, counts in cells.items()}


def _arrays(cells: Mapping[str, list[int]]) -> dict[str, NDArray[np.int64]]:
    return {name: np.array(counts, np.int64) for name, counts in cells.items()}


def _sums(one: list[int], other: list[int]) -> list[int]:
    return [a + b for a, b in zip_longest(one, other, fillvalue=0)]


def decode_labels(data: bytes) -> LabelCounts:
    """The inverse of `LabelCounts.encode`."""
    return msgspec.msgpack.decode(data, type=LabelCounts)
