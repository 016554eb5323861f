"""The connections of one client: a request takes one that idles, else a new one; an open loop never waits its turn."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from loadtests.open_loop.connection import Connection, Reply


@dataclass(slots=True, eq=False)
class Attempt:
    """One try of a request. `over`: answered, or nobody waits for it any more."""

    request: int
    content: bytes
    connection: Connection | None = None
    over: bool = False


class Pool:
    """Calls `answered` once for each attempt: with its reply, or None when its connection ended or never came."""

    def __init__(
        self, to: tuple[str, int], source: str, most: int, answered: Callable[[Attempt, Reply | None], None]
    ) -> None:
        self._to, self._source = to, (source, 0) if source else None
        self._most, self._answered = most, answered
        self._idle: list[Connection] = []
        self._waiting: deque[Attempt] = deque()
        self._under_way: dict[Connection, Attempt | None] = {}  # every open connection
        self._opening: set[asyncio.Task[None]] = set()
        self.unasked = 0  # answers on a connection on which nothing was asked
        self.largest = 0  # connections open at once
        self._closed = False

    def ask(self, attempt: Attempt) -> None:
        if self._idle:
            self._send(self._idle.pop(), attempt)
            return
        self._waiting.append(attempt)
        if len(self._under_way) + len(self._opening) < self._most:
            task = asyncio.get_running_loop().create_task(self.open())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def open(self) -> None:
        """One more connection."""
        connection = Connection(self._ended)
        try:
            loop = asyncio.get_running_loop()
            await loop.create_connection(lambda: connection, *self._to, local_addr=self._source)
        except OSError:
            if (attempt := self._next()) is not None:
                self._answered(attempt, None)
            return
        self._under_way[connection] = None
        self.largest = max(self.largest, len(self._under_way))
        self._reuse(connection)

    def close(self) -> None:
        self._closed = True
        for task in self._opening:
            task.cancel()
        for connection in list(self._under_way):
            connection.close()

    def _next(self) -> Attempt | None:
        """The oldest attempt that waits for a connection and still wants one."""
        while self._waiting:
            if not (attempt := self._waiting.popleft()).over:
                return attempt
        return None

    def _reuse(self, connection: Connection) -> None:
        if (attempt := self._next()) is not None:
            self._send(connection, attempt)
        else:
            self._under_way[connection] = None
            self._idle.append(connection)

    def _send(self, connection: Connection, attempt: Attempt) -> None:
        attempt.connection = connection
        self._under_way[connection] = attempt
        connection.send(attempt.content)

    def _ended(self, connection: Connection, reply: Reply | None) -> None:
        if self._closed or connection not in self._under_way:
            return
        attempt = self._under_way[connection]
        if reply is None or not connection.open:
            del self._under_way[connection]
            if connection in self._idle:
                self._idle.remove(connection)
        elif attempt is not None:
            self._reuse(connection)
        if attempt is not None:
            self._answered(attempt, reply)
        elif reply is not None:
            self.unasked += 1
