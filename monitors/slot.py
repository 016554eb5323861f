"""Additive integer counts of one slot of time: the unit of all evidence.

Merging nodes, workers or the two halves of a restart is adding integers, so the sum does not know in which order
or in how many pieces its rows were counted.
"""

from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitors.reference import Profile
from serving.protocol import Array

LOSS_UNIT = 2.0**-32  # losses are summed as integers of this size


class Counts:
    """Rows of one (model, version, slot) by feature and cell: `cells[feature]` has shape (K,), int64.

    >>> a, b = Counts(2, {"x": np.array([2, 0])}), Counts(1, {"x": np.array([0, 1])})
    >>> a.add(b)
    >>> a.rows, a.cells["x"].tolist(), decode(a.encode()) == a
    (3, [2, 1], True)
    """

    __slots__ = ("cells", "rows")

    def __init__(self, rows: int = 0, cells: dict[str, NDArray[np.int64]] | None = None) -> None:
        self.rows = rows
        self.cells = {} if cells is None else cells

    @property
    def size(self) -> int:
        """Rows."""
        return self.rows

    def add(self, other: "Counts") -> None:
        """Add `other` to this, in place; `other` stays as it is."""
        self.rows += other.rows
        for name, cells in other.cells.items():
            self.cells[name] = self.cells[name] + cells if name in self.cells else cells

    def encode(self) -> bytes:
        return msgspec.msgpack.encode((self.rows, {name: cells.tolist() for name, cells in self.cells.items()}))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Counts) and self.encode() == other.encode()

    __hash__ = None  # type: ignore[assignment]


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

    @property
    def size(self) -> int:
        """Predictions, labelled or not."""
        return self.predictions

    def add(self, other: "LabelCounts") -> None:
        self.predictions += other.predictions
        self.labelled += other.labelled
        self.loss += other.loss

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
    rows, cells = msgspec.msgpack.decode(data, type=tuple[int, dict[str, list[int]]])
    return Counts(rows, {name: np.array(numbers, np.int64) for name, numbers in cells.items()})


def decode_labels(data: bytes) -> LabelCounts:
    """The inverse of `LabelCounts.encode`."""
    return msgspec.msgpack.decode(data, type=LabelCounts)
