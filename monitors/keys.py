"""128-bit keys of rows, many at once: by them predictions and labels find each other.

Multilinear hashing over 32-bit words with secret random multipliers: four sums modulo 2**64, of which the upper
halves are the key. Two different rows share a key with probability 2**-128 whatever their ids are, as long as whoever
chooses the ids does not know the secret (Lemire & Kaser 2014, strongly universal).
"""

from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_LONGEST = 1024  # bytes of an id; of a longer one its digest stands for it
_WORDS = _LONGEST // 4
_UPPER = np.uint64(0xFFFFFFFF00000000)
_HALF = np.uint64(32)

Words = NDArray[np.uint64]


class Pair(NamedTuple):
    """The halves of n keys, each of shape (n,)."""

    hi: Words
    lo: Words


class Keys:
    """Made from a secret of 16 bytes, which outlives the process.

    >>> keys = Keys(bytes(16))
    >>> sums = keys.sums(b"ababc", np.array([2, 3]))
    >>> apart, same = keys.of("m", "", sums, np.array([0, 0])), keys.of("m", "", sums[[0, 0]], np.array([0, 1]))
    >>> len({*apart.hi.tolist(), *same.hi.tolist()})
    3
    """

    def __init__(self, secret: bytes) -> None:
        numbers = np.random.PCG64(int.from_bytes(secret, "little")).random_raw(4 * (_WORDS + 2))
        self._words = np.asarray(numbers, np.uint64).reshape(-1, 4)
        self._size, self._row = self._words[-2], self._words[-1]
        self._start = lru_cache(1024)(lambda model, lane: _start(secret, model, lane))

    def sums(self, ids: bytes, sizes: NDArray[np.int64]) -> Words:
        """Of ids one after the other, `sizes` bytes each: shape (n, 4), to be given to `of`."""
        if len(sizes) and int(sizes[0]) * len(sizes) == len(ids) and (sizes == sizes[0]).all():
            return self._equal(np.frombuffer(ids, np.uint8).reshape(len(sizes), -1), int(sizes[0]))
        data, ends = np.frombuffer(ids, np.uint8), np.cumsum(sizes)
        found = np.empty((len(sizes), 4), np.uint64)
        for size in np.unique(sizes).tolist():
            which = np.flatnonzero(sizes == size)
            found[which] = self._equal(data[(ends[which] - size)[:, None] + np.arange(size)], size)
        return found

    def of(self, model: str, lane: str, sums: Words, row: NDArray[np.int64]) -> Pair:
        """Keys of rows; `sums` has the sums of each row's id, shape (n, 4)."""
        whole = sums + self._start(model, lane)
        if row.any():
            whole = whole + row.astype(np.uint64)[:, None] * self._row
        upper = whole & _UPPER
        return Pair(upper[:, 0] | upper[:, 1] >> _HALF, upper[:, 2] | upper[:, 3] >> _HALF)

    def _equal(self, ids: NDArray[np.uint8], size: int) -> Words:
        """Of ids of one size, shape (n, size)."""
        if size > _LONGEST:
            digests = b"".join(blake2b(id.tobytes()).digest() for id in ids)
            ids = np.frombuffer(digests, np.uint8).reshape(len(ids), -1)
        words = -(-ids.shape[1] // 4)
        padded = np.zeros((len(ids), 4 * words), np.uint8)
        padded[:, : ids.shape[1]] = ids
        found: Words = padded.view("<u4").astype(np.uint64) @ self._words[:words] + np.uint64(size) * self._size
        return found


def _start(secret: bytes, model: str, lane: str) -> Words:
    digest = blake2b(f"{model}\0{lane}".encode(), key=secret, digest_size=32).digest()
    return np.frombuffer(digest, np.uint64)
