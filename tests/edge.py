"""A `Server` in this process whose application is a plain function, or a gateway; blocking sockets of the tests ask it.

`/…` is echoed: method, path, and the body behind a line. `/later` is answered in a turn of its own, `/held` when the
test lets it go, `/never` by nobody, `/large/N` with N bytes.
"""

import asyncio
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvloop

from serving.gateway import streams
from serving.handover import listen
from serving.http import Request, Response
from serving.limits import Limits
from serving.server import Server
from tests.raw_http import Wire

Application = Callable[[Request], None]


class Echo:
    """`asked` are the requests that were given to it, `left` counts those whose client did not wait."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, bytes]] = []
        self.left = 0
        self.held: list[Callable[[], None]] = []

    def __call__(self, request: Request) -> None:
        body = bytes(request.body)
        self.asked.append((request.method, request.path, body))
        request.gone = self._gone
        response = Response(f"{request.method} {request.path}\n".encode() + body, 200, b"content-type: text/plain\r\n")
        if request.path.startswith("/large/"):
            response.body = bytes(int(request.path.rpartition("/")[2]))
        if request.path.startswith("/later"):
            asyncio.get_running_loop().call_later(0.02, request.answer, response)
        elif request.path == "/held":
            self.held.append(lambda: request.answer(response))
        elif request.path != "/never":
            request.answer(response)

    def _gone(self) -> None:
        self.left += 1


class Listening:
    """The server's side of a test: its loop runs in a thread."""

    def __init__(
        self, limits: Limits, tls: ssl.SSLContext | None, application: Callable[[], Application] | None
    ) -> None:
        self.echo, self.refused = Echo(), Counter[int]()
        self._application = application or (lambda: self.echo)
        self._limits, self._tls = limits, tls
        self._drain_s: float | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: uvloop.run(self._run()), daemon=True)
        self._thread.start()
        assert self._started.wait(10)

    def connect(self, timeout_s: float = 10.0, tls: ssl.SSLContext | None = None) -> Wire:
        return Wire("127.0.0.1", self.port, timeout_s, tls)

    def drain(self, timeout_s: float) -> None:
        """Begin to end; `stop` waits for the end."""
        self._drain_s = timeout_s
        self._loop.call_soon_threadsafe(self._stop.set)

    def let_go(self) -> None:
        """Answer what is held."""
        while self.echo.held:
            self._loop.call_soon_threadsafe(self.echo.held.pop())

    def stop(self) -> None:
        if self._drain_s is None:
            self.drain(0.0)
        self._thread.join(20)
        assert not self._thread.is_alive()

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self.server = Server(self._application(), self._limits, self._refused, streams=streams)
        sock = listen("127.0.0.1", 0)
        self.port: int = sock.getsockname()[1]
        await self.server.listen(sock, self._tls)
        self._started.set()
        await self._stop.wait()
        await self.server.drain(self._drain_s or 0.0)

    def _refused(self, status: int) -> None:
        self.refused[status] += 1


@contextmanager
def listening(
    limits: Limits | None = None,
    tls: ssl.SSLContext | None = None,
    application: Callable[[], Application] | None = None,
) -> Iterator[Listening]:
    """`application` is made inside the server's loop."""
    server = Listening(limits or Limits(), tls, application)
    try:
        yield server
    finally:
        server.stop()
