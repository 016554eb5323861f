"""Cells of texts that were met lately, so that most values of a category need no look-up of their own."""

import numpy as np
from numpy.typing import NDArray

from monitors.fingerprints import Fingerprints

BITS = 20  # 2**20 texts of all features together, 9 MB
_GOLDEN = 0x9E3779B97F4A7C15


class Memo:
    """Cells by key, a fingerprint: a direct-mapped cache (Smith 1982, *Cache memories*), so its memory is bounded.

    A key has one place, which the newest one takes over. What it forgets is looked up again: it changes no count.

    >>> memo, keys = Memo(bits=4), np.array([3, 2**63], np.uint64)
    >>> memo.note(keys, np.array([7, 9], np.uint8))
    >>> cells, known = memo.find(np.array([3, 4, 2**63], np.uint64))
    >>> cells[known].tolist(), known.tolist()
    ([7, 9], [True, False, True])
    """

    def __init__(self, bits: int = BITS) -> None:
        self._bits, self._shift = bits, np.uint64(64 - bits)
        self._keys: Fingerprints | None = None  # made when there is a text
        self._cells = np.zeros(0, np.uint8)
        self._salts = 0

    def salt(self) -> np.uint64:
        """What tells keys of one feature from those of the others."""
        self._salts += 1
        return np.uint64(self._salts * _GOLDEN % 2**64)

    def find(self, keys: Fingerprints) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """The cell of each key, and whether it is known; in the shape of `keys`."""
        if self._keys is None:
            return np.zeros(keys.shape, np.uint8), np.zeros(keys.shape, bool)
        at = keys >> self._shift
        return self._cells[at], self._keys[at] == keys

    def note(self, keys: Fingerprints, cells: NDArray[np.uint8]) -> None:
        """Remember cells, shape (n,)."""
        if self._keys is None:  # at first each place holds a key of another one
            self._keys = ~(np.arange(2**self._bits, dtype=np.uint64) << self._shift)
            self._cells = np.zeros(2**self._bits, np.uint8)
        at = keys >> self._shift
        self._keys[at], self._cells[at] = keys, cells
