"""Rows that come twice: a fair sample of contents with all rows that have them, which adds up as counts do."""

from collections.abc import Iterable
from math import prod

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitors.bottom_k import LARGEST, BottomK, Hashes, hashes, lowest
from monitors.fingerprints import fingerprints
from monitors.loss import upper_bound_of_means, upper_bound_of_share
from serving.protocol import Array

MAX_BLOCKS = 1_000  # of a reference, whose repeated rows are counted


class Repeats(msgspec.Struct, frozen=True):
    """Share of the reference's rows that repeat an earlier one of their block: its mean and upper bound, 0..1."""

    mean: float
    bound: float
    block_rows: float  # rows of a block on average; in more rows more of them repeat by chance


def contents(columns: Iterable[Array]) -> Hashes:
    """Of each row over all its columns, arrays of shape (n, …); equal rows have equal ones.

    >>> x = np.array([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0]])
    >>> one, two, three = contents([x, np.array(["a", "b", "a"], object)]).tolist()
    >>> one == three, one == two
    (True, False)
    """
    total, first = np.zeros(1, np.uint64), 0
    for array in columns:
        bits = _bits(array.reshape(len(array), prod(array.shape[1:])))
        odd = hashes(np.zeros(bits.shape[1]), np.arange(first, first + bits.shape[1]) + 1) | np.uint64(1)
        total, first = total + bits @ odd, first + bits.shape[1]
    return hashes(total.view(np.float64), np.zeros(len(total), np.int64))


def sketch(found: Hashes, rows: Hashes, bound: int = LARGEST) -> BottomK | None:
    """Of rows with these contents and hashes of their own, shape (n,): those that may come into a sketch."""
    mine = lowest(found, bound)
    own = rows[mine].astype(">u8").view(np.uint8).reshape(-1, 8)
    return BottomK.of(found[mine], own) if len(mine) else None


def repeated(found: BottomK) -> tuple[int, int]:
    """Rows of a sketch that repeat another one, and all its rows."""
    return len(found) - found.distinct, len(found)


class Repeating:
    """Repeated rows of a reference that comes in parts.

    >>> x = np.array([1.0, 2.0, 1.0, 3.0])
    >>> repeating = Repeating()
    >>> for first in (0, 2):
    ...     repeating.add([x[first : first + 2]], first, np.array([0]), np.zeros(2, np.intp))
    >>> law = repeating.law(alpha=0.01)
    >>> law.mean, law.block_rows
    (0.25, 4.0)
    """

    def __init__(self) -> None:
        self._blocks: dict[int, BottomK] = {}
        self._rows = 0  # of these blocks

    def add(self, columns: Iterable[Array], first: int, blocks: NDArray[np.int64], place: NDArray[np.intp]) -> None:
        """Rows from number `first` on; row i lies in block `blocks[place[i]]`."""
        found = contents(columns)
        rows = hashes(np.arange(first, first + len(found)).astype(np.float64), np.zeros(len(found), np.int64))
        order = np.argsort(place, kind="stable")
        ends = np.searchsorted(place[order], np.arange(len(blocks) + 1))
        for number, block in enumerate(blocks.tolist()):
            if block in self._blocks or len(self._blocks) < MAX_BLOCKS:
                mine, known = order[ends[number] : ends[number + 1]], self._blocks.get(block)
                self._rows += len(mine)
                new = sketch(found[mine], rows[mine], known.bound if known else LARGEST)
                if new is not None:
                    self._blocks[block] = known.merged(new) if known else new

    def law(self, alpha: float) -> Repeats | None:
        """None of no rows."""
        if not self._blocks:
            return None
        hits, sampled = np.array([repeated(self._blocks[key]) for key in sorted(self._blocks)]).T
        shares = hits / sampled
        one = upper_bound_of_share(int(hits.sum()), int(sampled.sum()), alpha)
        bound = max(one, upper_bound_of_means(shares, alpha)) if len(shares) > 1 else one
        return Repeats(float(shares.mean()), bound, self._rows / len(shares))


def _bits(array: Array) -> Hashes:
    if array.dtype.kind in "OSU":
        return fingerprints(array)
    bits = np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}").astype(np.uint64)
    return bits ^ (bits >> np.uint64(32)) if array.dtype.itemsize == 8 else bits  # whole numbers end with zeros
