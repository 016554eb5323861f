"""One row of each cluster: a sample of clusters that adds up as counts do.

Rows of a cluster (a user, a machine) depend on one another, clusters do not. Of a block the clusters of the smallest
hashes stay, and of each its row of the smallest hash, which is any of its rows as likely as another.
"""

from collections.abc import Iterable, Mapping
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from monitors.bottom_k import ABSENT, Hashes, hashes
from monitors.marginal import Marginal
from serving.protocol import Array

MOST = 512  # clusters
_HASH = 8  # bytes of a hash, the largest first
_ROW = 2 * _HASH  # where the cells begin

Rows = NDArray[np.uint8]


class Clusters:
    """At most `MOST` clusters by increasing hash, of each the cells of one row, uint8.

    Of any rows, cut and merged in any way, the same ones stay (Cohen & Kaplan 2007, *Summarizing data using bottom-k
    sketches*, with the smallest row beside each key).

    >>> user, row = np.arange(6, dtype=np.uint64) // 3, np.array([4, 5, 3, 9, 7, 8], np.uint64)
    >>> cells = np.array([[0], [1], [2], [3], [4], [5]], np.uint8)
    >>> one, two = Clusters.of(user[:4], row[:4], cells[:4]), Clusters.of(user[4:], row[4:], cells[4:])
    >>> one.merged(two).cells.tolist(), one.merged(two) == two.merged(one) == Clusters.of(user, row, cells)
    ([[2], [4]], True)
    """

    __slots__ = ("_rows",)

    def __init__(self, rows: Rows) -> None:
        """`rows`, shape (n, 16 + features): hash of the cluster, hash of the row and its cells, in lexical order."""
        self._rows = rows

    @classmethod
    def of(cls, clusters: Hashes, rows: Hashes, cells: Rows) -> "Clusters":
        """Of rows in any order: hashes of shape (n,), cells of shape (n, features)."""
        return cls(_lowest(np.concatenate([_bytes(clusters), _bytes(rows), cells], axis=1)))

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def cells(self) -> Rows:
        """Shape (n, features)."""
        return self._rows[:, _ROW:]

    @property
    def bound(self) -> int:
        """No cluster with a larger hash comes in any more."""
        return int.from_bytes(self._rows[-1, :_HASH].tobytes(), "big") if len(self) == MOST else 2**64 - 1

    def merged(self, other: "Clusters") -> "Clusters":
        return Clusters(_lowest(np.concatenate([self._rows, other._rows])))

    def counts(self, laws: Mapping[str, Marginal]) -> dict[str, NDArray[np.int64]]:
        """Clusters by feature and cell; `laws` are of the features in the order of `columns`."""
        found = {}
        for name, cells in zip(columns(laws), self.cells.T, strict=True):
            known = cells[cells != ABSENT]
            if len(known):
                found[name] = np.bincount(known, minlength=laws[name].size)
        return found

    def encode(self) -> bytes:
        return self._rows.tobytes()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Clusters) and self._rows.shape == other._rows.shape and self.encode() == other.encode()

    __hash__ = None  # type: ignore[assignment]


def decode(data: bytes, clusters: int) -> Clusters:
    """The inverse of `Clusters.encode`, of so many clusters."""
    return Clusters(np.frombuffer(data, np.uint8).reshape(clusters, -1))


def columns(laws: Mapping[str, Marginal]) -> list[str]:
    """The features in the order in which a row holds their cells."""
    return sorted(laws)


def one_a_cluster(parts: Iterable[tuple[Hashes, Array, NDArray[np.int64]]]) -> NDArray[np.int64]:
    """The numbers of the rows that are counted where one of each cluster and block is, in increasing order.

    The rows come in parts: the hash of its cluster, the time and the block of each row, all of shape (n,). They are
    numbered from 0; of rows, cut into parts in any way, the same ones are chosen, and of the clusters those that
    stay of live rows. Memory grows with the blocks, at most 12 KiB each.

    >>> user = np.array([7, 7, 8, 7], np.uint64)
    >>> one_a_cluster([(user, np.zeros(4), np.array([0, 0, 0, 1]))]).tolist()
    [0, 2, 3]
    """
    found: dict[int, Clusters] = {}
    first = 0
    for clusters, time, block in parts:
        number = np.arange(first, first + len(clusters), dtype=np.uint64)
        row, order = hashes(time, number), np.argsort(block, kind="stable")
        names, begins = np.unique(block[order], return_index=True)
        for name, mine in zip(names.tolist(), np.split(order, begins)[1:], strict=True):
            some = Clusters.of(clusters[mine], row[mine], _bytes(number[mine]))
            found[name] = found[name].merged(some) if name in found else some
        first += len(number)
    chosen = [np.ascontiguousarray(clusters.cells).view(">u8").ravel() for clusters in found.values()]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def keys(values: Array) -> Hashes:
    """A hash of each value of the column that names clusters, numbers or text, shape (n,). NaN is one cluster.

    >>> keys(np.array([1.0, 2.0, 1.0])).tolist() == keys(np.array([1, 2, 1], np.int32)).tolist()
    True
    >>> len(set(keys(np.array([2**53, 2**53 + 1, 2**53 + 2])).tolist()))
    3
    """
    if values.dtype.kind in "OSU":
        known = {value: blake2b(_text(value), digest_size=_HASH).digest() for value in set(values.tolist())}
        return np.frombuffer(b"".join(known[value] for value in values.tolist()), ">u8").astype(np.uint64)
    numbers = values.astype(np.float64) + 0.0  # -0.0 is 0.0
    rounded = np.zeros(len(numbers), np.int64)
    if values.dtype.kind in "iu":  # ids beyond 2^53 are told apart by what float64 leaves off
        with np.errstate(invalid="ignore"):
            rounded = values.astype(np.int64) - numbers.astype(np.int64)
    return hashes(np.where(np.isnan(numbers), np.nan, numbers), rounded)


def _text(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _bytes(hashed: Hashes) -> Rows:
    return hashed.astype(">u8").view(np.uint8).reshape(-1, _HASH)


def _lowest(rows: Rows) -> Rows:
    """Of each cluster its first row in lexical order, and of these the first `MOST`."""
    width = rows.shape[1]
    ordered = np.frombuffer(np.sort(np.ascontiguousarray(rows).view(f"S{width}").ravel()).tobytes(), np.uint8)
    ordered = ordered.reshape(-1, width)
    cluster = ordered[:, :_HASH].copy().view(">u8").ravel()
    return ordered[np.flatnonzero(np.diff(cluster, prepend=~cluster[:1]))[:MOST]]
