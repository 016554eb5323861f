"""HTTP/1.1 on a listening socket: connections within bounds, whole requests to the application, answers back.

A request that is small and comes in one piece, which nearly all do, costs one search, one look into a memory of heads
that were seen before, and one write: no task, no timer, no stream object. Requests of a connection are answered one
after the other; what a client sends ahead waits, at most `_AHEAD_BYTES` of it. One sweep looks after all that is slow.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from secrets import token_hex
from socket import socket
from typing import cast

from serving import head
from serving.chunked import Chunked
from serving.errors import GaugewayError, Overloaded, PayloadTooLarge, RequestTimeout
from serving.frames import aligned
from serving.head import CHUNKED, Head
from serving.http import Request, Response, Streamed, refusal
from serving.limits import DEFAULT, Limits
from serving.upload import ENDLESS, UPLOAD_BYTES, Sized, Upload

log = logging.getLogger("gaugeway.server")

SWEEP_S, LINGER_S = 0.25, 2.0
SETTLE_S, HANDSHAKE_S = 0.1, 1.0  # what was accepted in the last moment becomes a connection within
_INBOX_BYTES = 2**14  # of one read; what it holds of a large body is moved twice more
_AHEAD_BYTES, _LARGE = 2**16, 2**16
_KNOWN_HEADS, _KNOWN_BYTES = 1024, 2048
_STATUS = {one.value: f"HTTP/1.1 {one.value} {one.phrase}\r\n".encode() for one in HTTPStatus}


class Server:
    """Accepts connections for `application`; `refused` counts, by status, what never became a request.

    Whose head `streams` says so gets a `Streamed` request, before its body is whole and however long it is.
    """

    def __init__(
        self,
        application: Callable[[Request], None],
        limits: Limits = DEFAULT,
        refused: Callable[[int], None] = lambda status: None,
        room: Callable[[int, int], memoryview | None] = lambda size, at: None,
        streams: Callable[[Head], bool] = lambda head: False,
    ) -> None:
        self.application, self.limits, self.refused, self._room = application, limits, refused, room
        self.streams = streams
        self.connections: set[Connection] = set()
        self.inbox = memoryview(bytearray(_INBOX_BYTES))
        self.buffered_bytes = 0
        self.now, self.date = time.monotonic(), b""
        self.draining = False
        self._heads: dict[bytes, Head] = {}
        self._max_connections = limits.connections
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def listen(self, sock: socket, tls: ssl.SSLContext | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._settle_s = HANDSHAKE_S if tls else SETTLE_S
        self._server = await self._loop.create_server(
            lambda: Connection(self),
            sock=sock,
            backlog=1024,
            ssl=tls,
            ssl_handshake_timeout=self.limits.head_s if tls else None,
        )
        self._sweep()

    async def drain(self, timeout_s: float) -> None:
        """Accept nothing new, answer what was asked, close.

        To close a connection that a client is about to use would cost it a request. So the next answer on each says
        that it is the last, and only what is silent for `farewell_s` is closed without a word.
        """
        self.draining = True
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.finish()
        began = time.monotonic()
        while time.monotonic() < began + timeout_s:
            if not self.connections and time.monotonic() > began + self._settle_s:
                break
            await asyncio.sleep(0.01)
        for connection in list(self.connections):
            connection.abort()
        if self._timer is not None:
            self._timer.cancel()

    @property
    def full(self) -> bool:
        return len(self.connections) > self._max_connections

    def head(self, raw: bytes) -> Head:
        """Parsed, or remembered: most clients send the same head again and again."""
        found = self._heads.get(raw)
        if found is None:
            found = head.parse(raw)
            if len(raw) <= _KNOWN_BYTES:
                if len(self._heads) >= _KNOWN_HEADS:
                    self._heads.clear()
                self._heads[raw] = found
        return found

    def room(self, size: int, at: int) -> memoryview:
        """Memory for a large body, which is not touched before its bytes come. Raises Overloaded."""
        if self.buffered_bytes + size > self.limits.max_buffered_bytes:
            raise Overloaded(f"{self.buffered_bytes} bytes of requests are held, no room for {size} more")
        return self._room(size, at) or aligned(size, at)

    def _sweep(self) -> None:
        self._timer = self._loop.call_later(SWEEP_S, self._sweep)  # first: whatever one connection does
        self.now = time.monotonic()
        self.date = b"date: %s\r\n" % formatdate(usegmt=True).encode()
        for connection in list(self.connections):
            connection.sweep(self.now)


class Connection(asyncio.BufferedProtocol):
    """One client. `_since` is when what it waits for now began; the clock is the server's, coarse and free."""

    def __init__(self, server: Server) -> None:
        self._server, self._max_body_bytes = server, server.limits.max_body_bytes
        self._transport: asyncio.Transport | None = None
        self._peer = ""
        self._rest = b""  # read and not yet looked at, or the beginning of a head
        self._head: Head | None = None  # of the request whose body comes or that is being answered
        self._sized: memoryview | None = None  # a large body on its way, `_at` bytes of which are here
        self._at = self._held = 0
        self._coming: Chunked | Sized | None = None  # a body in chunks, or one that is taken in parts
        self._upload: Upload | None = None
        self._request: Request | None = None
        self._since = self._began = server.now
        self._writing = True  # the client reads what is written
        self._closing, self._refused = server.draining, False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        peer = transport.get_extra_info("peername")
        self._peer = peer[0] if peer else ""
        self._server.connections.add(self)
        if self._server.full:
            self._refuse(Overloaded("too many connections"))
            self._transport.close()  # without a moment for what still comes: descriptors are what is short

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._server.connections.discard(self)
        self._leave()
        self._release()

    def eof_received(self) -> bool:
        self._leave()  # nobody waits for an answer any more
        return False

    def pause_writing(self) -> None:
        self._writing, self._since = False, self._server.now

    def resume_writing(self) -> None:
        self._writing, self._since = True, self._server.now
        self._resume()

    def get_buffer(self, hint: int) -> memoryview:
        return self._server.inbox if self._sized is None else self._sized[self._at :]

    def buffer_updated(self, size: int) -> None:
        try:
            if self._sized is None:
                self._feed(bytes(self._server.inbox[:size]))
            else:
                self._grow(size)
        except GaugewayError as error:
            self._refuse(error)

    def finish(self) -> None:
        """Close with the next answer, or when none is asked for."""
        self._closing = True
        if self._idle:
            self._since = self._server.now

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def sweep(self, now: float) -> None:
        """End what takes too long: a head, a body, a reader, or nothing at all."""
        limits, waited_s = self._server.limits, now - self._since
        if not self._writing or self._refused or self._transport is None or self._transport.is_closing():
            if waited_s > (LINGER_S if self._refused else limits.write_s):
                self.abort()  # closing waits for a client that reads
        elif self._request is not None and (self._coming is None or (self._upload is not None and self._upload.paused)):
            self._since = self._began = now
        elif self._head is not None:
            slow = now - self._began > limits.body_idle_s + self._received / limits.min_bytes_per_s
            if waited_s > limits.body_idle_s or slow:
                self._refuse(RequestTimeout(f"the body of the request was not whole after {now - self._began:.0f} s"))
        elif self._rest:
            if now - self._began > limits.head_s:
                self._refuse(RequestTimeout(f"the head of the request was not whole after {limits.head_s:g} s"))
        elif waited_s > (limits.farewell_s if self._closing else limits.keep_alive_s):
            self._transport.close()

    @property
    def _idle(self) -> bool:
        return self._head is None and not self._rest

    @property
    def _received(self) -> int:
        return self._at if self._coming is None else len(self._coming.data)

    def _feed(self, data: bytes) -> None:
        if self._refused:
            return
        if self._coming is not None:
            self._since = self._server.now
            self._continue(data)
            return
        if self._rest:
            data = self._rest + data
        if self._request is None and self._writing:
            self._begin(data)
        else:
            self._rest = data
            if len(data) > _AHEAD_BYTES and self._transport is not None:
                self._transport.pause_reading()

    def _begin(self, data: bytes) -> None:
        """A request starts in `data`."""
        if data.startswith(b"\r\n"):  # one empty line before a request is no harm (RFC 9112, 2.2)
            data = data[2:]
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._wait_for_head(data)
            return
        self._rest = b""
        known = self._head = self._server.head(data[:end])
        at, length = end + 4, known.length
        if length > self._max_body_bytes and not self._server.streams(known):
            raise PayloadTooLarge(f"got a body of {length} bytes, at most {self._max_body_bytes} are taken")
        if length >= 0 and len(data) - at >= length:
            self._rest = data[at + length :]
            self._start(known, data[at : at + length])
        else:
            self._wait_for_body(known, data[at:])

    def _wait_for_head(self, data: bytes) -> None:
        head.check_start(data)
        if not self._rest:
            self._since = self._began = self._server.now
        self._rest = data

    def _wait_for_body(self, known: Head, data: bytes) -> None:
        self._since = self._began = self._server.now
        if known.expects and not data and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._server.streams(known):
            self._stream(known, data)
        elif known.length == CHUNKED:
            self._coming = Chunked(self._max_body_bytes)
            self._continue(data)
        else:
            self._sized = self._server.room(known.length, head.binary_at(known))
            self._sized[: len(data)] = data
            self._at = len(data)
            self._hold(len(data))

    def _grow(self, size: int) -> None:
        self._hold(size)
        self._at += size
        self._since = self._server.now
        if self._sized is not None and self._head is not None and self._at == len(self._sized):
            body, self._sized = self._sized, None
            self._start(self._head, body)

    def _continue(self, data: bytes) -> None:
        assert self._coming is not None and self._head is not None
        before = len(self._coming.data)
        rest = self._coming.feed(data)
        grown = len(self._coming.data) - before
        self._hold(grown if self._upload is None else min(grown, UPLOAD_BYTES - self._held))
        if self._upload is not None:
            self._upload.offer(whole=rest is not None)
            if self._upload.paused:  # the next part has its own time
                self._began = self._server.now
        if rest is not None:
            body, self._coming, self._rest = self._coming.data, None, rest
            if self._upload is None:
                self._start(self._head, bytes(body))

    def _stream(self, known: Head, data: bytes) -> None:
        """Begin a request before its body is whole."""
        assert self._transport is not None
        self._coming = Chunked(ENDLESS) if known.length == CHUNKED else Sized(known.length)
        self._upload = Upload(self._coming, self._transport)
        request = self._request = Streamed(known, self._upload, self._peer, self._answer_upload)
        request.gone = self._upload.leave
        self._continue(data)
        self._server.application(request)

    def _answer_upload(self, response: Response) -> None:
        """An answer that comes before the end of the body ends the connection."""
        upload, self._upload = self._upload, None
        if upload is not None:
            upload.leave()  # what was not taken is dropped
        if self._coming is None:
            self._answer(response)
        else:
            self._last(response)

    def _hold(self, size: int) -> None:
        self._held += size
        self._server.buffered_bytes += size
        if self._server.buffered_bytes > self._server.limits.max_buffered_bytes:
            raise Overloaded(
                f"{self._server.buffered_bytes} bytes of requests are held, which is more than there may be"
            )

    def _release(self) -> None:
        self._server.buffered_bytes -= self._held
        self._held = 0

    def _start(self, known: Head, body: bytes | memoryview) -> None:
        request = self._request = Request(known, body, self._peer, self._answer)
        self._server.application(request)

    def _answer(self, response: Response) -> None:
        known, self._head, self._request, self._since = self._head, None, None, self._server.now
        if self._transport is None or known is None:  # it left
            return
        keep = known.keep_alive and not self._closing
        self._write(response, known.method != "HEAD", known.reply if keep else b"connection: close\r\n")
        if self._held:
            self._release()
        if not keep:
            self._transport.close()
        elif self._rest:  # in a turn of its own, so that a thousand requests sent ahead do not pile up on the stack
            asyncio.get_running_loop().call_soon(self._resume)

    def _write(self, response: Response, with_body: bool, connection: bytes) -> None:
        assert self._transport is not None
        start = b"%s%s%sx-request-id: %s\r\n%scontent-length: %d\r\n\r\n" % (
            _STATUS[response.status],
            response.headers,
            self._server.date,
            response.request_id,
            connection,
            len(response.body),
        )
        if not with_body:
            self._transport.write(start)
        elif len(response.body) < _LARGE:
            self._transport.write(start + response.body)
        else:
            self._transport.writelines([start, response.body])

    def _resume(self) -> None:
        """What was sent ahead."""
        if self._request is None and self._head is None and self._rest and self._writing and self._transport:
            if not self._transport.is_closing():
                self._transport.resume_reading()
                data, self._rest = self._rest, b""
                try:
                    self._begin(data)
                except GaugewayError as error:
                    self._refuse(error)

    def _refuse(self, error: GaugewayError) -> None:
        """What never became a request, or broke off within its body."""
        self._server.refused(error.status)
        self._leave()
        response = refusal(error)
        response.request_id = token_hex(8).encode()
        self._last(response)

    def _last(self, response: Response) -> None:
        """Answer what is not whole: where it ends nobody knows, so the connection does.

        What still comes is read and dropped for a moment: a reset would overtake the answer.
        """
        self._rest, self._head, self._sized, self._coming, self._request = b"", None, None, None, None
        if self._transport is None or self._transport.is_closing():
            return
        self._write(response, True, b"connection: close\r\n")
        self._refused, self._since = True, self._server.now
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def _leave(self) -> None:
        request, self._request = self._request, None
        if request is not None and request.gone is not None:
            request.gone()
