"""A fair sample of a slot's whole rows, with their values, which adds up as counts do: those of the smallest hashes."""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitors.bottom_k import LARGEST, Hashes

MOST, MOST_BYTES = 512, 2**18  # of a slot: rows, and bytes, but for the last row
MOST_TEXT = 256  # bytes of a text
_HASH = 8  # bytes of a hash, the largest first

Value = float | bytes | None  # a number, a text; None: the row does not have it
Whole = tuple[int, list[Value]]  # slot and values


class WholeRows:
    """Distinct rows by increasing hash, until they are `MOST` or have `MOST_BYTES`, as `bottom_k.BottomK` has them: of
    any rows, cut and merged in any way, the same ones stay.

    >>> hashed, values = np.arange(600, dtype=np.uint64), [[float(k) for k in range(600)], [b"a"] * 600]
    >>> one, two = (WholeRows.of(7, hashed[k::2], [column[k::2] for column in values]) for k in (0, 1))
    >>> both = one.merged(two)
    >>> len(both), both == two.merged(one) == WholeRows.of(7, hashed, values), value(both.rows[1])
    (512, True, (7, [1.0, b'a']))
    """

    __slots__ = ("rows",)

    def __init__(self, rows: Sequence[bytes]) -> None:
        """`rows` are distinct and in lexical order: hash, then slot and values in msgpack."""
        self.rows = rows

    @classmethod
    def of(cls, slot: int, hashes: Hashes, columns: Sequence[Sequence[Value]]) -> "WholeRows":
        """Of rows in any order: hashes of shape (n,), of each column n values."""
        packed = map(msgspec.msgpack.encode, ((slot, values) for values in zip(*columns, strict=True)))
        return cls(_lowest({hash_bytes(h) + row for h, row in zip(hashes.tolist(), packed, strict=True)}))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def bound(self) -> int:
        """No row with a larger hash comes in any more."""
        return hashed(self.rows[-1]) if full(self.rows, MOST, MOST_BYTES) else LARGEST

    def merged(self, other: "WholeRows") -> "WholeRows":
        return WholeRows(_lowest({*self.rows, *other.rows}))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WholeRows) and [*self.rows] == [*other.rows]

    __hash__ = None  # type: ignore[assignment]


def smallest(hashes: Hashes, bound: int) -> NDArray[np.intp]:
    """Which rows may come into a sample with such a bound.

    >>> smallest(np.array([3, 1, 9], np.uint64), 3).tolist()
    [0, 1]
    """
    found = np.flatnonzero(hashes <= np.uint64(bound))
    if len(found) <= MOST:
        return found
    return np.asarray(found[hashes[found] <= np.partition(hashes[found], MOST - 1)[MOST - 1]])


def short(text: Value, drawn: int) -> Value:
    """A text as it is kept of the row with the hash `drawn`. A longer one is a category that no other row has: unseen
    in the reference, as it is later.

    >>> short(b"JFK", 10), short(b"J" * 257, 10)
    (b'JFK', b'longer than 256 bytes: 000000000000000a')
    """
    if isinstance(text, bytes) and len(text) > MOST_TEXT:
        return b"longer than %d bytes: %016x" % (MOST_TEXT, drawn)
    return text


def full(rows: Sequence[bytes], most: int, most_bytes: int) -> bool:
    """Whether no row comes in behind these."""
    return len(rows) >= most or sum(map(len, rows)) >= most_bytes


def first(rows: Sequence[bytes], most: int, most_bytes: int) -> list[bytes]:
    """Rows until they are `most`, or have `most_bytes`: the one that fills them is in, so what is cut before rows are
    merged is cut after it too.

    >>> first([b"abcd", b"ef", b"gh"], 9, 5)
    [b'abcd', b'ef']
    """
    ends = np.cumsum([len(row) for row in rows[:most]])
    return [*rows[: min(most, int(np.searchsorted(ends, most_bytes)) + 1)]]


def hashed(row: bytes) -> int:
    return int.from_bytes(row[:_HASH], "big")


def hash_bytes(found: int) -> bytes:
    return found.to_bytes(_HASH, "big")


def value(row: bytes) -> Whole:
    """Slot and values."""
    found: Whole = msgspec.msgpack.decode(row[_HASH:], type=Whole)
    return found


def _lowest(rows: set[bytes]) -> list[bytes]:
    return first(sorted(rows), MOST, MOST_BYTES)
