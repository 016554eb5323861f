"""Deadlines of very many short-lived items: adding and removing one costs an operation on a set, no timer."""

import asyncio
import time
from collections.abc import Callable, Hashable
from heapq import heappop, heappush
from typing import Generic, TypeVar

TICK_S = 0.01

T = TypeVar("T", bound=Hashable)


class Deadlines(Generic[T]):
    """Calls `expire` for each item that is still here at its deadline, at most TICK_S late.

    Deadlines are on the clock of `time.monotonic`. Items lie in buckets of TICK_S; one timer waits for the earliest.
    """

    def __init__(self, expire: Callable[[T], None]) -> None:
        self._expire = expire
        self._loop = asyncio.get_running_loop()
        self._buckets: dict[int, set[T]] = {}
        self._numbers: list[int] = []  # of the buckets, a heap
        self._timer: asyncio.TimerHandle | None = None

    def add(self, item: T, deadline: float) -> None:
        number = int(deadline / TICK_S) + 1
        bucket = self._buckets.get(number)
        if bucket is None:
            bucket = self._buckets[number] = set()
            heappush(self._numbers, number)
            if self._numbers[0] == number:
                self._wait()
        bucket.add(item)

    def discard(self, item: T, deadline: float) -> None:
        """With the deadline it was added with."""
        bucket = self._buckets.get(int(deadline / TICK_S) + 1)
        if bucket is not None:
            bucket.discard(item)

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._numbers:
            wait_s = self._numbers[0] * TICK_S - time.monotonic()
            self._timer = self._loop.call_later(max(0.001, wait_s), self._tick)

    def _tick(self) -> None:
        now = time.monotonic()
        try:
            while self._numbers and self._numbers[0] * TICK_S <= now:
                bucket = self._buckets[self._numbers[0]]
                while bucket:
                    self._expire(bucket.pop())
                del self._buckets[heappop(self._numbers)]
        finally:  # one that cannot be told must not stop the clock of the others
            self._wait()
