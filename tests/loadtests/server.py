"""A server that answers as it is told to: twice the number that was asked, or something worse.

As a process of its own it answers every request at once: ``python -m tests.loadtests.server`` prints its port.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import uvloop

METADATA = b'{"name":"m","versions":["1"],"inputs":[{"name":"x","datatype":"FP32","shape":[-1,1]}],"outputs":[]}'


@dataclass(frozen=True)
class Asked:
    """One request: the number it carries, its id, its whole head."""

    k: float
    id: str
    head: str
    client: str  # its address


@dataclass(frozen=True)
class Answer:
    """What to say; `value` None: twice k; `id` None: that of the request; `times` 0: nothing at all."""

    status: int = 200
    value: float | None = None
    id: str | None = None
    after_s: float = 0.0
    times: int = 1
    error: str = ""
    head: str = ""


@dataclass
class Server:
    answer: Callable[[Asked], Answer] = lambda asked: Answer()
    asked: list[Asked] = field(default_factory=list)
    closed: int = 0  # connections that clients closed
    url: str = ""


class _Connection(asyncio.Protocol):
    def __init__(self, server: Server) -> None:
        self._server, self._received = server, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._client: str = transport.get_extra_info("peername")[0]

    def connection_lost(self, error: Exception | None) -> None:
        self._server.closed += 1

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:end].decode()
            length = int(found[1]) if (found := re.search(r"content-length: (\d+)", head, re.I)) else 0
            if len(self._received) < end + 4 + length:
                return
            body, self._received = self._received[end + 4 : end + 4 + length], self._received[end + 4 + length :]
            if head.startswith("GET"):
                self._write(200, METADATA, "")
            else:
                self._respond(head, body)

    def _respond(self, head: str, body: bytes) -> None:
        document = json.loads(body)
        asked = Asked(document["inputs"][0]["data"][0], document.get("id", ""), head, self._client)
        self._server.asked.append(asked)
        answer = self._server.answer(asked)
        if answer.after_s:
            asyncio.get_running_loop().call_later(answer.after_s, self._send, asked, answer)
        else:
            self._send(asked, answer)

    def _send(self, asked: Asked, answer: Answer) -> None:
        value = 2.0 * asked.k if answer.value is None else answer.value
        outputs = f'{{"outputs":[{{"name":"y","datatype":"FP32","shape":[1,1],"data":[{value}]}}]}}'
        body = json.dumps({"error": answer.error}, separators=(",", ":")) if answer.error else outputs
        id = asked.id if answer.id is None else answer.id
        for _ in range(answer.times):
            self._write(answer.status, body.encode(), f"X-Request-Id: {id}\r\n{answer.head}")

    def _write(self, status: int, body: bytes, more: str) -> None:
        head = f"HTTP/1.1 {status} x\r\nContent-Type: application/json\r\n{more}Content-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[Server]:
    listening = await asyncio.get_running_loop().create_server(lambda: _Connection(server), "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listening.close()


async def _main() -> None:
    async with serving(Server()) as server:
        print(server.url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_main())
