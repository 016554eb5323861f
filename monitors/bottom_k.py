"""A fair sample of rows that adds up as counts do: the rows of the smallest hashes."""

import numpy as np
from numpy.typing import NDArray

from serving.protocol import Array
from serving.splitmix import GOLDEN, mixed

K = 128  # rows
LARGEST = 2**64 - 1
ABSENT = 255  # the cell of a feature that a row does not have
_HASH = 8  # bytes of a hash, the largest first

Hashes = NDArray[np.uint64]


class BottomK:
    """At most `K` distinct rows by increasing hash; a row is the cells of its features, uint8.

    Of any rows, cut and merged in any way, the same ones stay (Cohen & Kaplan 2007, *Summarizing data using bottom-k
    sketches*). Rows of the same hash and cells count once.

    >>> hashed, cells = np.arange(300, dtype=np.uint64), np.arange(600).astype(np.uint8).reshape(300, 2)
    >>> one, two = BottomK.of(hashed[::2], cells[::2]), BottomK.of(hashed[1::2], cells[1::2])
    >>> both = one.merged(two)
    >>> len(both), both.cells[:2].tolist(), both == two.merged(one) == BottomK.of(hashed, cells)
    (128, [[0, 1], [2, 3]], True)
    """

    __slots__ = ("_rows",)

    def __init__(self, rows: NDArray[np.uint8]) -> None:
        """`rows`, shape (n, 8 + features): hash and cells of each, distinct, in lexical order."""
        self._rows = rows

    @classmethod
    def of(cls, hashes: Hashes, cells: NDArray[np.uint8]) -> "BottomK":
        """Of rows in any order: hashes of shape (n,), cells of shape (n, features)."""
        return cls(_lowest(np.concatenate([hashes.astype(">u8").view(np.uint8).reshape(-1, _HASH), cells], axis=1)))

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def cells(self) -> NDArray[np.uint8]:
        """Shape (n, features)."""
        return self._rows[:, _HASH:]

    @property
    def distinct(self) -> int:
        """Number of distinct hashes."""
        hashed = np.ascontiguousarray(self._rows[:, :_HASH]).view(">u8").ravel()  # in increasing order
        return int((hashed[1:] != hashed[:-1]).sum()) + bool(len(hashed))

    @property
    def bound(self) -> int:
        """No row with a larger hash comes in any more."""
        return int.from_bytes(self._rows[-1, :_HASH].tobytes(), "big") if len(self) == K else LARGEST

    def merged(self, other: "BottomK") -> "BottomK":
        return BottomK(_lowest(np.concatenate([self._rows, other._rows])))

    def encode(self) -> bytes:
        return self._rows.tobytes()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BottomK) and self._rows.shape == other._rows.shape and self.encode() == other.encode()

    __hash__ = None  # type: ignore[assignment]


def decode(data: bytes, rows: int) -> BottomK:
    """The inverse of `BottomK.encode`, of so many rows."""
    return BottomK(np.frombuffer(data, np.uint8).reshape(rows, -1))


def hashes(arrival_time: Array, row: Array) -> Hashes:
    """Of each row by the arrival time of its request, float64, and its number in it; shapes (n,).

    What a client sends has no part in it.
    """
    return mixed(np.ascontiguousarray(arrival_time).view(np.uint64) + row.astype(np.uint64) * GOLDEN)


def lowest(hashes: Hashes, bound: int) -> NDArray[np.intp]:
    """Which rows may come into a sample with such a bound: those of the `K` smallest hashes.

    >>> lowest(np.array([3, 1, 9, 2], np.uint64), 3).tolist()
    [0, 1, 3]
    """
    found = np.flatnonzero(hashes <= np.uint64(bound))
    smallest = np.unique(hashes[found])[:K]
    return found[hashes[found] <= smallest[-1]] if len(smallest) == K else found


def _lowest(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Distinct rows in lexical order, as bytes: of one width, so that zeros at their end change nothing."""
    width = rows.shape[1]
    found = np.unique(np.ascontiguousarray(rows).view(f"S{width}").ravel())[:K]
    return np.frombuffer(found.tobytes(), np.uint8).reshape(-1, width)
