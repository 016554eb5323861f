"""Memory that a gateway worker shares with the replicas of its node: what is received there is not copied to them.

It is an anonymous file, which ends with the processes that hold it, however they end. The worker lets others open it
through /proc and read; a frame then says where a tensor lies instead of carrying its bytes. A slot lives as long as any
Python object that looks into it, so nothing is freed by hand.
"""

import fcntl
import mmap
import os
import secrets
import weakref
from bisect import bisect_left
from collections import deque

import msgspec
import numpy as np

from serving.errors import ChannelError

ALIGN_BYTES = 64
_TOKEN_BYTES = 16  # at the start of the memory: whoever opens it sees that it is what was offered


class Offer(msgspec.Struct, frozen=True, array_like=True):
    """How another process finds an arena: a descriptor of the one that made it."""

    fd: int
    size_bytes: int
    token: bytes


class Extents:
    """The free parts of a range of bytes; the first that fits is used, so that the same pages come again and again.

    >>> free = Extents(0, 100)
    >>> free.take(60), free.take(60)
    (0, None)
    >>> free.give(0, 60)
    >>> free.take(100)
    0
    """

    def __init__(self, start: int, size: int) -> None:
        self._starts, self._sizes = [start], [size]  # in order, never touching

    def take(self, size: int) -> int | None:
        for i, free in enumerate(self._sizes):
            if free >= size:
                start = self._starts[i]
                if free == size:
                    del self._starts[i], self._sizes[i]
                else:
                    self._starts[i] += size
                    self._sizes[i] -= size
                return start
        return None

    def give(self, start: int, size: int) -> None:
        i = bisect_left(self._starts, start)
        if i < len(self._starts) and start + size == self._starts[i]:
            self._starts[i], self._sizes[i] = start, size + self._sizes[i]
        else:
            self._starts.insert(i, start)
            self._sizes.insert(i, size)
        if i and self._starts[i - 1] + self._sizes[i - 1] == start:
            self._sizes[i - 1] += self._sizes.pop(i)
            del self._starts[i]

    @property
    def free_bytes(self) -> int:
        return sum(self._sizes)


class Arena:
    """`size_bytes` of shared memory, of which only what was once used takes any; 0: none.

    >>> arena = Arena(2**20)
    >>> slot = arena.take(100_000)
    >>> arena.place(slot[5:]) == arena.place(slot) + 5
    True
    """

    def __init__(self, size_bytes: int) -> None:
        self.offer: Offer | None = None
        self._returned: deque[tuple[int, int]] = deque()
        self._free = Extents(0, 0)
        if size_bytes > ALIGN_BYTES and hasattr(os, "memfd_create"):
            self._open(size_bytes)

    def _open(self, size: int) -> None:
        fd = os.memfd_create("gaugeway-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        weakref.finalize(self, os.close, fd)
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        self._memory = mmap.mmap(fd, size)
        self.offer = Offer(fd, size, secrets.token_bytes(_TOKEN_BYTES))
        self._memory[:_TOKEN_BYTES] = self.offer.token
        self._address = _address(memoryview(self._memory))
        self._free = Extents(ALIGN_BYTES, size - ALIGN_BYTES)

    def take(self, size: int, at: int = 0) -> memoryview | None:
        """A slot for `size` bytes, of which number `at` is aligned; None when there is no room."""
        self._collect()
        skip = -at % ALIGN_BYTES
        room = -(-(skip + size) // ALIGN_BYTES) * ALIGN_BYTES
        if size <= 0 or (start := self._free.take(room)) is None:
            return None
        slot = np.ndarray(size, np.uint8, self._memory, start + skip)
        weakref.finalize(slot, self._returned.append, (start, room)).atexit = False
        return slot.data

    def place(self, buffer: memoryview) -> int | None:
        """Where in the arena these bytes lie; None: somewhere else."""
        if self.offer is None or not len(buffer):
            return None
        at = _address(buffer) - self._address
        return at if 0 <= at <= self.offer.size_bytes - len(buffer) else None

    @property
    def free_bytes(self) -> int:
        self._collect()
        return self._free.free_bytes

    def _collect(self) -> None:
        """Slots come back whenever their last view goes, be it within `take` or in another thread."""
        while self._returned:
            self._free.give(*self._returned.popleft())


class Window:
    """The arena of another process, to be read. Raises OSError or ValueError where it cannot be had."""

    def __init__(self, offer: Offer, pid: int) -> None:
        fd = os.open(f"/proc/{pid}/fd/{offer.fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
                raise ValueError("its size may change")
            self.memory = memoryview(mmap.mmap(fd, offer.size_bytes, prot=mmap.PROT_READ))
        finally:
            os.close(fd)
        if self.memory[:_TOKEN_BYTES] != offer.token:
            raise ValueError("it is another one")

    def bytes_at(self, start: int, size: int) -> memoryview:
        """Raises ChannelError."""
        if not 0 <= start <= start + size <= len(self.memory):
            raise ChannelError(f"got {size} bytes at {start} of shared memory, which has {len(self.memory)}")
        return self.memory[start : start + size]


def _address(buffer: memoryview) -> int:
    address: int = np.frombuffer(buffer, np.uint8).__array_interface__["data"][0]
    return address
