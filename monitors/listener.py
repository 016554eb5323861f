"""The sidecar's HTTP: metrics and verdicts over TCP, labels over a unix socket, the other nodes' sidecars on a port
of their own; in a thread of its own.

Nothing here touches the counts. A request becomes a question in a bounded queue; the thread that counts answers.
"""

import asyncio
import math
import threading
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from monitors.exchange import Exchange
from monitors.exporter import Workers, text
from monitors.inlet import VERDICTS, Inlet
from monitors.inquiry import EXPLANATION, Inquiry, answered
from monitors.labels import UNSAID, Label
from monitors.questions import Asking, Labelling, Questions, Refused, ask
from monitors.report import Report
from serving.config import NAME
from serving.errors import NotReady, Unavailable

MAX_BODY_BYTES = 64 * 2**20

Post = Callable[[str, str, bytes], bytes]  # address, path, body -> answer; raises Unavailable

_CONTENT = "text/plain; version=0.0.4; charset=utf-8"


class _Sent(msgspec.Struct):
    model: str
    id: str
    label: bool | int | float
    row: int = 0
    time: datetime | int | float | None = None
    kpi: int | float | None = None


def parse(body: bytes) -> Labelling:
    """Labels from a JSON array. Raises msgspec.DecodeError or RecursionError when the body is none.

    >>> parsed = parse(b'[{"model": "m", "id": "a", "label": true, "time": "2013-01-01T00:00:00Z"}, {"id": "b"}]')
    >>> parsed.labels
    [(0, Label(model='m', id='a', row=0, label=1.0, time=1356998400.0, kpi=-inf))]
    >>> parsed.refused
    [Refused(index=1, reason='Object missing required field `model`')]
    """
    result = Labelling([])
    for index, item in enumerate(msgspec.json.decode(body, type=list[msgspec.Raw])):
        try:
            result.labels.append((index, _label(_decoder.decode(item))))
        except (ValueError, RecursionError) as error:
            result.refused.append(Refused(index, str(error)))
    return result


_decoder = msgspec.json.Decoder(_Sent)


def _label(sent: _Sent) -> Label:
    """Raises ValueError with a sentence."""
    if not NAME.fullmatch(sent.model):
        raise ValueError(f"model must match {NAME.pattern}, got {sent.model[:80]!r}")
    if not 0 < len(sent.id) <= 256:
        raise ValueError(f"id must have 1 to 256 characters, got {len(sent.id)}")
    if not 0 <= sent.row < 2**31:
        raise ValueError(f"row must be between 0 and 2^31, got {sent.row}")
    label, kpi = _number("label", sent.label), UNSAID if sent.kpi is None else _number("kpi", sent.kpi)
    return Label(sent.model, sent.id, sent.row, label, _seconds(sent.time), kpi)


def _number(name: str, sent: float) -> float:
    found = float(sent) if abs(sent) < 1e300 else math.inf
    if not math.isfinite(found):
        raise ValueError(f"{name} must be a finite number, got {sent!s:.40}")
    return found


def _seconds(time: datetime | float | None) -> float:
    if time is None:
        return math.nan
    if isinstance(time, datetime):
        if time.tzinfo is None:
            raise ValueError(f"time must be RFC 3339 with an offset, got {time.isoformat()!r}")
        return time.timestamp()
    if not 0 <= time < 2**40:
        raise ValueError(f"time must be RFC 3339 or seconds since 1970, got {time!r}")
    return float(time)


class Listener:
    """Listens until `close`; `port` and `peers_port` are bound when `start` returns.

    `alive` says whether the counting thread is, `judge` where the verdicts are while another node has them.
    """

    def __init__(
        self,
        questions: Questions,
        exchange: Exchange,
        inlet: Inlet,
        *,
        alive: Callable[[], bool],
        workers: Workers,
        judge: Callable[[], str],
        send: Post,
    ) -> None:
        self._questions, self._exchange, self._inlet = questions, exchange, inlet
        self._alive, self._workers, self._judge, self._send = alive, workers, judge, send
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="http", daemon=True)
        self._runners: list[web.AppRunner] = []
        self._wandering: asyncio.Task[None] | None = None
        self.port = self.peers_port = 0

    def start(self, host: str, port: int, socket: Path, peers_host: str) -> None:
        """Raises OSError when the address is taken."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(host, port, socket, peers_host), self._loop).result()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(timeout=10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()

    async def _start(self, host: str, port: int, socket: Path, peers_host: str) -> None:
        socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        socket.unlink(missing_ok=True)
        gets = [web.get("/metrics", self.metrics), web.get("/verdicts", self.verdicts), web.get("/health", self.health)]
        self.port = await self._listen(gets, host, port)
        self.peers_port = await self._listen(self._inlet.routes(), peers_host, 0)
        own = [web.post("/labels", self.labels), web.get(EXPLANATION, self.explanation)]  # they tell of the data
        inside = await self._runner([*gets, *own])
        await web.UnixSite(inside, str(socket)).start()
        self._wandering = asyncio.create_task(self._exchange.wander())

    async def _listen(self, routes: list[web.RouteDef], host: str, port: int) -> int:
        runner = await self._runner(routes)
        await web.TCPSite(runner, host, port, reuse_address=True).start()
        bound: int = runner.addresses[0][1]
        return bound

    async def _runner(self, routes: list[web.RouteDef]) -> web.AppRunner:
        application = web.Application(client_max_size=MAX_BODY_BYTES)
        application.add_routes(routes)
        runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=2.0)
        self._runners.append(runner)
        await runner.setup()
        return runner

    async def _close(self) -> None:
        if self._wandering is not None:
            self._wandering.cancel()
        for runner in self._runners:
            await runner.cleanup()

    async def labels(self, request: web.Request) -> web.Response:
        body = await request.read()
        try:
            labelling = await asyncio.get_running_loop().run_in_executor(None, parse, body)
        except (msgspec.DecodeError, RecursionError) as error:
            return _error(400, f"labels must be a JSON array: {error}")
        return await self._respond(self._exchange.label(labelling), _json)

    async def verdicts(self, request: web.Request) -> web.Response:
        return await self._respond(self._document(), _plain)

    async def metrics(self, request: web.Request) -> web.Response:
        return await self._respond(ask(self._questions, Asking()), self._metrics)

    async def explanation(self, request: web.Request) -> web.Response:
        try:
            inquiry = msgspec.convert(dict(request.query), Inquiry)
        except msgspec.ValidationError as error:
            return _error(400, f"{EXPLANATION}?model=…&version=…&feature=…: {error}")
        return await self._respond(self._explained(inquiry), _passed)

    async def health(self, request: web.Request) -> web.Response:
        alive = self._alive()
        return _json({"state": "ok" if alive else "stale"}, 200 if alive else 503)

    def _metrics(self, report: Report) -> web.Response:
        return web.Response(body=text(report, self._workers), headers={"content-type": _CONTENT})

    async def _document(self) -> bytes:
        """The verdicts of the cluster, from the node that has them."""
        report: Report = await ask(self._questions, Asking())
        if report.document is not None:
            return msgspec.json.encode(report.document)
        if not (address := self._judge()):
            raise NotReady("no sidecar judges at the moment")
        return await asyncio.get_running_loop().run_in_executor(None, self._send, address, VERDICTS, b"")

    async def _explained(self, inquiry: Inquiry) -> tuple[int, bytes]:
        """HTTP status and JSON, from the node that has the verdicts."""
        loop, report = asyncio.get_running_loop(), await ask(self._questions, Asking())
        if report.document is not None:
            return await loop.run_in_executor(None, answered, report.verdicts, inquiry)
        if not (address := self._judge()):
            raise NotReady("no sidecar judges at the moment")
        body = msgspec.msgpack.encode(inquiry)
        answer = await loop.run_in_executor(None, self._send, address, EXPLANATION, body)
        found: tuple[int, bytes] = msgspec.msgpack.decode(answer, type=tuple[int, bytes])
        return found

    async def _respond(self, answer: Awaitable[Any], respond: Callable[[Any], web.Response]) -> web.Response:
        try:
            return respond(await answer)
        except Unavailable as error:
            return _error(503, str(error))


def _plain(document: bytes) -> web.Response:
    return web.Response(body=document, content_type="application/json")


def _passed(found: tuple[int, bytes]) -> web.Response:
    status, document = found
    return web.Response(body=document, status=status, content_type="application/json")


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


def _error(status: int, sentence: str) -> web.Response:
    headers = {"retry-after": "1"} if status == 503 else {}
    body = msgspec.json.encode({"error": sentence})
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)
