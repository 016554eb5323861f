"""A body that is taken in parts while it comes, by one reader; the client waits while the reader is behind.

The connection fills one part while the reader has another. When both are there it reads no more, so that what the
kernel holds, and then the client's own socket, fill up.
"""

import asyncio
from collections.abc import AsyncIterator

from serving.chunked import Chunked

PART_BYTES = 2**20
UPLOAD_BYTES = 2 * PART_BYTES  # that one upload holds
ENDLESS = 2**63  # bytes that a body in chunks may have


class Sized:
    """A body of `length` bytes, fed as a `Chunked` one is.

    >>> body = Sized(3)
    >>> body.feed(b"abcGET"), bytes(body.data)
    (b'GET', b'abc')
    """

    def __init__(self, length: int) -> None:
        self.data = bytearray()
        self._missing = length

    def feed(self, data: bytes) -> bytes | None:
        """What follows the body, once it is whole."""
        self.data += data[: self._missing]
        rest = data[self._missing :]
        self._missing -= min(self._missing, len(data))
        return None if self._missing else rest


class Upload(AsyncIterator[bytes]):
    """The parts of a body in their order: `PART_BYTES` and one read at most, and no less but for the last.

    To take one raises ConnectionAbortedError when the rest will not come; then nobody waits for an answer.
    """

    def __init__(self, body: Sized | Chunked, transport: asyncio.Transport) -> None:
        self._body, self._transport = body, transport
        self._whole = self._left = False
        self._news = asyncio.Event()
        self.paused = False  # by the reader: a part waits for it

    def offer(self, whole: bool) -> None:
        """More of the body has come, or all of it."""
        self._whole = whole
        full = len(self._body.data) >= PART_BYTES
        if full and not self.paused:
            self.paused = True
            self._transport.pause_reading()
        if full or whole:
            self._news.set()

    def leave(self) -> None:
        """The rest will not come, or nobody wants it."""
        self._left = True
        self._news.set()
        self._resume()

    async def __anext__(self) -> bytes:
        await self._news.wait()
        if self._left:
            raise ConnectionAbortedError("the body broke off")
        if not self._body.data:
            raise StopAsyncIteration
        part = bytes(self._body.data)
        self._body.data.clear()
        if not self._whole:
            self._news.clear()
        self._resume()
        return part

    def _resume(self) -> None:
        if self.paused and not self._transport.is_closing():
            self.paused = False
            self._transport.resume_reading()
