"""Where a hash was put: sorted runs in memory, merged as they grow (O'Neil et al. 1996, the log-structured merge).

A look-up of many hashes costs one search a run; each hash is merged a logarithmic number of times. Most hashes that are
asked for were never put: nearly all of them are told by one bit (Bloom 1970), without a search.
"""

import numpy as np
from numpy.typing import NDArray

_BITS = 26

Hashes = NDArray[np.uint64]
Places = NDArray[np.int64]


class Index:
    """Places by 64-bit hash, 16 bytes each.

    >>> index = Index()
    >>> index.add(np.array([7, 3], np.uint64), np.array([0, 1]))
    >>> index.add(np.array([7], np.uint64), np.array([2]))
    >>> index.contains(np.array([3, 5, 7], np.uint64)).tolist(), index.find(np.uint64(7))
    ([True, False, True], [2, 0])
    """

    def __init__(self) -> None:
        self._runs: list[tuple[Hashes, Places]] = []
        self._bits, self._gone = _Bits(), 0

    def __len__(self) -> int:
        return sum(len(hashes) for hashes, _ in self._runs)

    def add(self, hashes: Hashes, places: Places) -> None:
        if len(hashes):
            order = np.argsort(hashes, kind="stable")
            self._runs.append((hashes[order], places[order]))
            self._bits.add(hashes)
        while len(self._runs) > 1 and len(self._runs[-2][0]) < 2 * len(self._runs[-1][0]):
            self._runs[-2:] = [_merged(*self._runs[-2:])]

    def contains(self, hashes: Hashes) -> NDArray[np.bool_]:
        """Of each whether it was added, shape (n,)."""
        found = self._bits.hold(hashes)
        some = np.flatnonzero(found)
        some = some[np.argsort(hashes[some])]
        asked, hit = hashes[some], np.zeros(len(some), bool)
        for known, _ in self._runs if len(some) else ():
            at = np.searchsorted(known, asked)
            hit |= known[np.minimum(at, len(known) - 1)] == asked
        found[some] = hit
        return found

    def newest(self, hashes: Hashes) -> Places:
        """Of each the largest place, shape (n,); -1 where there is none."""
        found = np.full(len(hashes), -1, np.int64)
        for known, places in self._runs:
            at = np.searchsorted(known, hashes, side="right") - 1
            found = np.where((at >= 0) & (known[at] == hashes), np.maximum(places[at], found), found)
        return found

    def find(self, hash: np.uint64) -> list[int]:
        """All places of one hash, the largest first."""
        places: list[int] = []
        for known, where in self._runs:
            first, last = np.searchsorted(known, hash), np.searchsorted(known, hash, side="right")
            places += where[first:last].tolist()
        return sorted(places, reverse=True)

    def latest(self) -> Places:
        """Of each hash its largest place, in increasing order."""
        hashes, places = map(np.concatenate, zip(*self._runs, strict=True))
        order = np.lexsort((places, hashes))
        last = np.append(hashes[order][1:] != hashes[order][:-1], True)
        return np.sort(places[order][last])

    def keep(self, least: int) -> None:
        """Forget all places below `least`."""
        before = len(self)
        kept = [(hashes[places >= least], places[places >= least]) for hashes, places in self._runs]
        self._runs = [(hashes, places) for hashes, places in kept if len(hashes)]
        self._gone += before - len(self)
        if self._gone > len(self):
            self._bits, self._gone = _Bits(), 0
            for hashes, _ in self._runs:
                self._bits.add(hashes)


class _Bits:
    """Which hashes may have been added, by their upper bits: 8 MB. Of five million hashes one in 14 others may, too."""

    def __init__(self) -> None:
        self._bytes = np.zeros(2**_BITS // 8, np.uint8)

    def add(self, hashes: Hashes) -> None:
        at, bit = self._place(hashes)
        for number in range(8):  # of equal places the last one would be written alone
            self._bytes[at[bit == number]] |= np.uint8(1 << number)

    def hold(self, hashes: Hashes) -> NDArray[np.bool_]:
        """Of each whether it may have been added, shape (n,)."""
        at, bit = self._place(hashes)
        return np.asarray(self._bytes[at] >> bit & 1, bool)

    def _place(self, hashes: Hashes) -> tuple[Places, NDArray[np.uint8]]:
        upper = (hashes >> np.uint64(64 - _BITS)).astype(np.int64)
        return upper >> 3, (upper & 7).astype(np.uint8)


def _merged(a: tuple[Hashes, Places], b: tuple[Hashes, Places]) -> tuple[Hashes, Places]:
    hashes, places = np.concatenate([a[0], b[0]]), np.concatenate([a[1], b[1]])
    order = np.argsort(hashes, kind="stable")
    return hashes[order], places[order]
