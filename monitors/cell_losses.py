"""Losses by feature and cell: what a rise of the mean loss is split by.

Of labelled rows, in each cell of the first features that are judged: how many there are, and the sum of their losses
in units of 2**-32. Integers, so that nodes and restarts add, and a corrected label subtracts, exactly. Reference rows
are counted into the same cells.

Of N rows with the mean loss R a cell has the share p of the rows and the sum A of losses. Its excess x = A/N - p R is
what it carries of the mean loss beyond its share of the rows. Rows come in blocks that share their weather. A block of
n rows with losses L, of which r rows with losses a lie in the cell, moves x by u/N,

    u = (a - R r) - p (L - R n) - x n,        v = mean of u^2 / n over blocks

to first order, so that x of N other rows in such blocks has the variance v/N. v is the cell's `spread`, and no less
than if rows were independent. What all rows of a block have in common moves R, and hardly x.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitors.bottom_k import ABSENT
from monitors.loss import LOSS_UNIT
from monitors.sampling import MIN_BLOCKS

MOST_FEATURES = 64  # whose cells a row keeps while it waits for its label, a byte each
MOST_BLOCKS = 1024  # of the reference, behind a spread
_NO_CELL = bytes([ABSENT])

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]
Cells = NDArray[np.uint8]
Integers = Sequence[int] | Numbers


class CellLosses(msgspec.Struct, frozen=True):
    """Reference rows of one feature that have a loss: of each of its K cells, in their order."""

    rows: tuple[int, ...]
    loss: tuple[int, ...]  # sums, in units of 2**-32
    spread: tuple[float, ...]  # of the excess; 0 where the cell is empty


class Losses(msgspec.Struct, frozen=True, kw_only=True):
    """Of the reference, by feature. A row and a table hold features in the order of their names."""

    features: dict[str, CellLosses]
    blocks: int  # behind the spreads; 0: rows were taken as independent
    block_rows: float  # rows of such a block, on average over rows
    block_s: float  # its length in seconds

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self.features))

    @property
    def sizes(self) -> tuple[int, ...]:
        """K of each feature."""
        return tuple(len(self.features[name].rows) for name in self.names)

    def split(self, tables: Sequence[bytes]) -> dict[str, Numbers]:
        """By feature, of tables as from `follow`, those of another reference left out: shape (tables, 2, K)."""
        total, firsts = sum(self.sizes), accumulate(self.sizes, initial=0)
        whole = np.frombuffer(b"".join(table for table in tables if len(table) == 16 * total), "<i8")
        whole = whole.reshape(-1, 2, total)
        return {name: whole[:, :, first : first + size]
                for name, first, size in zip(self.names, firsts, self.sizes, strict=False)}  # fmt: skip


def follow(table: bytes, sizes: Sequence[int], cells: Cells, rows: Integers, loss: Integers) -> bytes:
    """Add rows to a table: of features with `sizes` cells, `cells` of shape (n, features); another cell is none.

    `rows` and `loss`, shape (n,), are by how much the labelled rows and the loss changed. An empty table has no row.

    >>> table = follow(b"", [2, 3], np.array([[1, 0], [1, 255]], np.uint8), [1, 1], [7, 8])
    >>> np.frombuffer(follow(table, [2, 3], np.array([[1, 0]], np.uint8), [-1], [-7]), "<i8").reshape(2, 5).tolist()
    [[0, 1, 0, 0, 0], [0, 8, 0, 0, 0]]
    """
    firsts, total = np.cumsum([0, *sizes[:-1]]), sum(sizes)
    known = cells < np.array(sizes)
    at = (cells + firsts)[known]
    found = np.frombuffer(table, "<i8").copy() if len(table) == 16 * total else np.zeros(2 * total, "<i8")
    for first, change in ((0, rows), (total, loss)):
        np.add.at(found, first + at, np.broadcast_to(np.array(change, np.int64)[:, None], cells.shape)[known])
    return found.tobytes()


def gathered(rows: Iterable[bytes], features: int) -> Cells:
    """Cells of rows that kept as many or more, or fewer, shape (n, features).

    >>> gathered([b"\\x01\\x02\\x03", b"\\x04"], 2).tolist()
    [[1, 2], [4, 255]]
    """
    whole = b"".join(row[:features].ljust(features, _NO_CELL) for row in rows)
    return np.frombuffer(whole, np.uint8).reshape(-1, features)


def added(one: bytes, other: bytes) -> bytes:
    """Two tables as one. Of those of two references, told by their lengths, the longer stays: in any order the same."""
    if len(one) != len(other):
        return max(one, other, key=len)
    both: Numbers = np.frombuffer(one, "<i8") + np.frombuffer(other, "<i8")
    return both.tobytes()


def excess(rows: Floats, loss: Floats) -> Floats:
    """x of each cell, from rows and sums of losses in 0..1, both of shape (K,).

    >>> excess(np.array([50.0, 50.0]), np.array([15.0, 5.0])).tolist()
    [0.05, -0.05]
    """
    found: Floats = (loss - rows * loss.sum() / rows.sum()) / rows.sum()
    return found


def spread(rows: Floats, loss: Floats) -> Floats:
    """v of each cell, shape (K,), from rows and losses of at least two blocks, (blocks, K), each at least one row."""
    n, total = rows.sum(1, keepdims=True), loss.sum(1, keepdims=True)
    mean, share = total.sum() / n.sum(), rows.sum(0) / n.sum()
    u = (loss - mean * rows) - share * (total - mean * n) - excess(rows.sum(0), loss.sum(0)) * n
    found: Floats = (u**2 / n).sum(0) / (len(n) - 1)
    return found


def spread_of_rows(rows: Floats, loss: Floats, squares: Floats) -> Floats:
    """v of each cell if rows were independent, from their number, losses and squares of losses, shape (K,).

    >>> spread_of_rows(np.array([50.0, 50.0]), np.array([50.0, 0.0]), np.array([50.0, 0.0])).tolist()
    [0.0, 0.0]
    """
    n, mean = rows.sum(), loss.sum() / rows.sum()
    share, around = rows / n, (squares - 2 * mean * loss + mean**2 * rows) / n
    found: Floats = (1 - 2 * share) * around + share**2 * around.sum() - excess(rows, loss) ** 2
    return found.clip(min=0.0)


class LossTally:
    """Adds up the losses of reference rows by block of time and cell, over as many parts as the rows come in.

    Of more than `MOST_BLOCKS` blocks neighbours are joined, again and again: memory is bounded, and clusters that fit
    into a block fit into a longer one.

    >>> tally = LossTally({"x": 2})
    >>> tally.add({"x": np.array([0, 0, 1])}, np.array([0.5, np.nan, 0.25]), np.zeros(3, np.int64))
    >>> found = tally.losses(86400.0)
    >>> found.features["x"].rows, [units * LOSS_UNIT for units in found.features["x"].loss]
    ((1, 1), [0.5, 0.25])
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        """`sizes` is K of each feature."""
        ends = list(accumulate(sizes.values(), initial=0))
        self._size = ends[-1]
        self._at = {name: slice(*span) for name, *span in zip(sizes, ends[:-1], ends[1:], strict=True)}
        self._joined = 1  # blocks that are one here
        self._blocks = np.empty(0, np.int64)
        self._sums = np.zeros((2, 0, self._size), np.int64)  # rows and losses, by block and cell
        self._squares = np.zeros(self._size)

    def __contains__(self, name: str) -> bool:
        return name in self._at

    def add(self, cells: Mapping[str, NDArray[np.intp]], loss: Floats, block: Numbers) -> None:
        """Add rows, shape (n,): their cells by feature, their loss, NaN where it is not known, their block of time."""
        known = np.flatnonzero(np.isfinite(loss))
        if not len(known) or not self._at:
            return
        loss = loss[known]
        units = np.rint(loss / LOSS_UNIT)
        number, place = np.unique(self._numbers(block[known]), return_inverse=True)
        sums = np.zeros((2, len(number), self._size), np.int64)
        for name, at in self._at.items():
            size, mine = at.stop - at.start, cells[name][known]
            for which, weights in enumerate((None, units)):
                counted = np.bincount(place * size + mine, weights, len(number) * size)
                sums[which, :, at] = np.rint(counted).reshape(-1, size)
            self._squares[at] += np.bincount(mine, loss**2, size)
        both = np.union1d(self._blocks, number)
        total = np.zeros((2, len(both), self._size), np.int64)
        total[:, np.searchsorted(both, self._blocks)] += self._sums
        total[:, np.searchsorted(both, number)] += sums
        self._blocks, self._sums = both, total

    def losses(self, block_s: float) -> Losses | None:
        """Of all rows; `block_s` is the length of a block. None where no row has a loss."""
        if not len(self._blocks):
            return None
        first = next(iter(self._at.values()))
        n = self._sums[0, :, first].sum(1)
        return Losses(
            features={name: self._of(at) for name, at in self._at.items()},
            blocks=len(n) if len(n) >= MIN_BLOCKS else 0,
            block_rows=float((n**2).sum() / n.sum()),
            block_s=block_s * self._joined,
        )

    def _numbers(self, block: Numbers) -> Numbers:
        """The block of each row, after as many as are too many are joined."""
        numbers = block // self._joined
        while len(np.union1d(self._blocks, numbers)) > MOST_BLOCKS:
            numbers //= 2
            self._joined *= 2
            pairs = self._blocks // 2
            begins = np.flatnonzero(np.diff(pairs, prepend=pairs[:1] - 1))
            self._blocks = pairs[begins]
            self._sums = np.add.reduceat(self._sums, begins, axis=1) if len(begins) else self._sums
        return numbers

    def _of(self, at: slice) -> CellLosses:
        rows, units = self._sums[:, :, at]
        loss = units * LOSS_UNIT
        found = spread_of_rows(rows.sum(0).astype(np.float64), loss.sum(0), self._squares[at])
        if len(rows) >= MIN_BLOCKS:
            found = np.maximum(found, spread(rows.astype(np.float64), loss))
        return CellLosses(tuple(rows.sum(0).tolist()), tuple(units.sum(0).tolist()), tuple(found.tolist()))
