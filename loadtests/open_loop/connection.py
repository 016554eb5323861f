"""The client's end of one HTTP/1.1 connection, with one request under way at most.

It knows what a load generator needs and no more: answers with a Content-Length, which Gaugeway's all have. Anything
else ends the connection.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    head: bytes
    body: bytes

    def header(self, name: bytes) -> bytes:
        """Its value, empty where there is none; `name` in lower case."""
        return _value(self.head, name)


class Connection(asyncio.Protocol):
    """Calls `ended` with every reply, and with None when the connection has ended."""

    def __init__(self, ended: Callable[["Connection", Reply | None], None]) -> None:
        self._ended = ended
        self._transport: asyncio.Transport | None = None
        self._received = b""

    @property
    def open(self) -> bool:
        return self._transport is not None

    def send(self, request: bytes) -> None:
        if self._transport is not None:
            self._transport.write(request)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received = self._received + data if self._received else data
        try:
            while (reply := self._reply()) is not None:
                if _value(reply.head, b"connection").lower() == b"close":
                    self.close()
                self._ended(self, reply)
        except ValueError:
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._ended(self, None)

    def _reply(self) -> Reply | None:
        """The whole answer, once it is here. Raises ValueError for what is none."""
        received = self._received
        end = received.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = received[:end]
        length = int(_value(head, b"content-length"))
        if len(received) < end + 4 + length:
            return None
        self._received = received[end + 4 + length :]
        return Reply(int(head[9:12]), head, received[end + 4 : end + 4 + length])


def _value(head: bytes, name: bytes) -> bytes:
    """Of a header. Names are sought as sent in lower case first, which costs less than folding the whole head."""
    at = head.find(b"\r\n" + name + b":")
    if at < 0 and (at := head.lower().find(b"\r\n" + name + b":")) < 0:
        return b""
    start = at + len(name) + 3
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else len(head)].strip()
