"""A queue with a line per priority: the more important goes first, and nobody waits for ever."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

LINES = 4  # as many as `serving.admission.PRIORITIES`
USUAL = 1  # the line of requests that name no priority
PATIENCE = 8  # how often the head of a line is passed over before it goes next


class Ranked(Protocol):
    @property
    def priority(self) -> int: ...  # 0 goes first; below LINES


T = TypeVar("T", bound=Ranked)


class Waiting(Generic[T]):
    """First come, first served within a line; a line behind others moves up by one at every ninth turn at least.

    >>> from collections import namedtuple
    >>> item = namedtuple("item", "priority")
    >>> queue = Waiting()
    >>> for priority in (2, 1, 0, 1):
    ...     queue.append(item(priority))
    >>> [queue.popleft().priority for _ in range(4)]
    [0, 1, 1, 2]
    """

    def __init__(self) -> None:
        self._lines: list[deque[T]] = [deque() for _ in range(LINES)]
        self._passed = [0] * LINES
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T]:
        return (item for line in self._lines for item in line)

    def append(self, item: T) -> None:
        self._lines[item.priority].append(item)
        self._length += 1

    def appendleft(self, item: T) -> None:
        """To the front of its own line."""
        self._lines[item.priority].appendleft(item)
        self._length += 1

    def head(self) -> T:
        """Who goes next. Raises IndexError when nobody waits."""
        return self._lines[self._next()][0]

    def popleft(self) -> T:
        """Take who goes next. Raises IndexError when nobody waits."""
        turn = self._next()
        item = self._lines[turn].popleft()
        self._length -= 1
        if self._length != len(self._lines[turn]):
            for behind in range(turn + 1, LINES):
                self._passed[behind] += bool(self._lines[behind])
        self._passed[turn] = 0
        return item

    def prune(self, priority: int, over: Callable[[T], bool]) -> None:
        """Drop from the front of a line those that are over, since its turn may be far."""
        line = self._lines[priority]
        while line and over(line[0]):
            line.popleft()
            self._length -= 1

    def _next(self) -> int:
        """The first line that is not empty, unless one behind it was passed over too often."""
        if len(self._lines[USUAL]) == self._length:
            return USUAL
        waiting = [n for n in range(LINES) if self._lines[n]]
        return next((n for n in waiting[1:] if self._passed[n] >= PATIENCE), waiting[0])
