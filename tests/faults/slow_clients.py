"""Clients that are slow on purpose: ``python -m tests.faults.slow_clients PORT MODEL CLIENTS``, until its input ends.

A quarter each: `head` and `body` send a byte a second, `stall` stops in the middle of a body, `reader` asks for more
than fits into buffers and never reads. Whoever is closed comes back at once. At the end it prints what happened to
each kind, as JSON.
"""

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from tests.raw_http import request

KINDS = ("head", "body", "stall", "reader")
ROWS = 2000  # of four floats: 32 KB asked, 32 KB answered
READER_REQUESTS = 20


@dataclass
class Seen:
    """Of one kind: connections, by status how they were ended (0: without an answer), the longest life."""

    opened: int = 0
    ended: dict[int, int] = field(default_factory=dict)
    longest_s: float = 0.0


def beginning(kind: str, model: str) -> bytes:
    target = f"/v2/models/{model}/infer"
    if kind == "head":
        return f"POST {target} HTTP/1.1\r\nHost: h\r\nx: ".encode()
    if kind == "reader":
        raw = "Inference-Header-Content-Length: 0"
        return request(target, raw, method="POST", body=bytes(16 * ROWS)) * READER_REQUESTS
    return request(target, "Content-Length: 100000", method="POST") + b"{"


class Client:
    """One of a kind, again and again."""

    def __init__(self, port: int, kind: str, model: str, seen: Seen) -> None:
        self._port, self._kind, self._seen = port, kind, seen
        self._begin = beginning(kind, model)

    async def run(self) -> None:
        while True:
            sock = socket.socket()
            if self._kind == "reader":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # before the window is told
            sock.connect(("127.0.0.1", self._port))
            reader, writer = await asyncio.open_connection(sock=sock)
            self._seen.opened += 1
            start = time.monotonic()
            writer.write(self._begin)
            status = await self._until_closed(reader, writer)
            self._seen.ended[status] = self._seen.ended.get(status, 0) + 1
            self._seen.longest_s = max(self._seen.longest_s, time.monotonic() - start)
            writer.close()

    async def _until_closed(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        if self._kind == "reader":
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            await writer.wait_closed()
            return 0
        answer = asyncio.ensure_future(reader.read())
        while not (await asyncio.wait([answer], timeout=1.0))[0]:
            if self._kind != "stall":
                writer.write(b"a")
        try:
            return int(answer.result()[9:12] or b"0")
        except ConnectionError:
            return 0


async def _run(port: int, model: str, clients: int) -> None:
    seen = {kind: Seen() for kind in KINDS}
    running = [
        asyncio.ensure_future(Client(port, KINDS[k % len(KINDS)], model, seen[KINDS[k % len(KINDS)]]).run())
        for k in range(clients)
    ]
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await asyncio.wait([ended, *running], return_when=asyncio.FIRST_COMPLETED)
    print(json.dumps({kind: asdict(one) for kind, one in seen.items()}), flush=True)
    for client in running:
        client.cancel()


@contextmanager
def slow_clients(port: int, model: str, clients: int) -> Iterator[dict[str, Seen]]:
    """They are there until the block ends; then what they saw is in the dictionary."""
    command = [sys.executable, "-m", "tests.faults.slow_clients", str(port), model, str(clients)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    seen: dict[str, Seen] = {}
    try:
        yield seen
    finally:
        output, _ = process.communicate(timeout=20)
    for kind, one in json.loads(output).items():
        ended = {int(status): count for status, count in one["ended"].items()}
        seen[kind] = Seen(one["opened"], ended, one["longest_s"])


if __name__ == "__main__":
    asyncio.run(_run(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
