"""Answers of one version, kept to be given again for the same input bytes: bounded in bytes, the least used leave.

A version never changes, so an answer stays right for as long as it is kept; `ttl_s` is for those who want it anyway.
Pure: the clock is an argument.
"""

import sys
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from serving.protocol import Array

ENTRY_BYTES = 512  # what an entry takes beside its arrays, rounded up


@dataclass(frozen=True, slots=True)
class Entry:
    outputs: list[Array]
    bytes: int
    kept_at: float


class Cache:
    """Of the version with this digest. `bytes` is what is kept, never above `max_bytes`; `ttl_s` 0 is for ever.

    >>> cache = Cache("4f2a", max_bytes=10_000)
    >>> key = cache.key([np.float32([[1, 2]])], client="ann")
    >>> cache.put(key, [np.float32([[0.5]])], now=0.0)
    >>> cache.get(key, now=1.0), cache.get(cache.key([np.float32([[1, 2]])], client="bob"), now=1.0)
    ([array([[0.5]], dtype=float32)], None)
    """

    def __init__(self, digest: str, *, max_bytes: int, ttl_s: float = 0.0) -> None:
        self._salt = blake2b(digest.encode(), digest_size=32).digest()
        self._max_bytes, self._ttl_s = max_bytes, ttl_s
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()  # the least recently used first
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def key(self, inputs: Sequence[Array], client: str) -> bytes:
        """256 bits of the version, the client ("" for all of them), and every input's shape and bytes, in order.

        So long that nobody finds another input with the key of one that is kept.
        """
        hashed = blake2b(_sized(client.encode("utf-8", "surrogatepass")), digest_size=32, key=self._salt)
        for array in inputs:
            hashed.update(_sized(f"{array.dtype.str}{array.shape}".encode()))
            if array.dtype == object:
                for element in array.ravel():
                    hashed.update(_sized(element))
            else:
                hashed.update(np.ascontiguousarray(array).data)
        return hashed.digest()

    def get(self, key: bytes, now: float) -> list[Array] | None:
        """What was put, to the bit; the arrays are not to be written to."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if self._ttl_s and now - entry.kept_at >= self._ttl_s:
            self._forget(key)
            return None
        self._entries.move_to_end(key)
        return entry.outputs

    def put(self, key: bytes, outputs: Sequence[Array], now: float) -> None:
        """Keep a copy; what is larger than the whole cache is not kept."""
        size = ENTRY_BYTES + sum(map(_bytes_of_copy, outputs))
        if key in self._entries:
            self._forget(key)
        if size > self._max_bytes:
            return
        while self.bytes + size > self._max_bytes:
            self._forget(next(iter(self._entries)))
        self._entries[key] = Entry(list(map(_copy, outputs)), size, now)
        self.bytes += size

    def _forget(self, key: bytes) -> None:
        self.bytes -= self._entries.pop(key).bytes


def _sized(data: bytes) -> bytes:
    """With its length before it, so that no two sequences of parts have the same bytes."""
    return len(data).to_bytes(8, "little") + data


def _copy(array: Array) -> Array:
    """Its own memory: the original may be a view into the answer of a whole batch, or into shared memory."""
    copied = np.array(array, order="C")
    copied.setflags(write=False)
    return copied


def _bytes_of_copy(array: Array) -> int:
    """As Python counts: the array object with its data, and the elements where these are objects."""
    elements = sum(map(sys.getsizeof, array.ravel())) if array.dtype == object else 0
    return _ARRAY_BYTES + 16 * array.ndim + array.size * array.itemsize + elements


_ARRAY_BYTES = sys.getsizeof(np.empty((), np.uint8)) - 1  # without dimensions and data
