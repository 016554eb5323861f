"""The ceilings: onnxruntime behind HTTP in one process, with nothing else. ``python -m loadtests.ceiling --help``.

They trust the request, run each alone and answer; no routing, no limits, no metrics, no second process. What a gateway
loses against them is what its features cost. `uvicorn` is an ASGI application; `protocol` is uvloop and httptools and
a class that answers in the call that brought the last bytes.
"""

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, cast

import httptools
import orjson
import uvicorn
import uvloop

from loadtests.peers.apps import tensors
from loadtests.peers.apps.onnx_session import OnnxSession

Message = MutableMapping[str, Any]
LENGTH = b"inference-header-content-length"


def respond(
    sessions: Mapping[str, OnnxSession], path: str, body: bytes, json_length: int | None
) -> tuple[bytes, bytes]:
    """The response's own headers and its body; `path` is /v2/models/NAME/infer."""
    name = path.split("/")[3]
    session = sessions[name]
    if json_length is None:
        text = tensors.answer(name, session.run(tensors.from_json(orjson.loads(body))))
        return b"content-type: application/json\r\n", text
    text, length = tensors.to_bytes(name, session.run(tensors.from_bytes(body, json_length)))
    return b"content-type: application/octet-stream\r\ninference-header-content-length: %d\r\n" % length, text


def application(sessions: Mapping[str, OnnxSession]) -> Callable[..., Awaitable[None]]:
    """For uvicorn."""

    async def answer(scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Any]) -> None:
        message = await receive()
        parts = [message["body"]]
        while message["more_body"]:
            message = await receive()
            parts.append(message["body"])
        length = dict(scope["headers"]).get(LENGTH)
        head, body = respond(sessions, scope["path"], b"".join(parts), int(length) if length else None)
        headers = [tuple(line.split(b": ")) for line in head.splitlines()]
        headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return answer


class Bare(asyncio.Protocol):
    """One connection; the names of the callbacks are httptools'."""

    def __init__(self, sessions: Mapping[str, OnnxSession]) -> None:
        self._sessions = sessions
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._path = b""
        self._json_length: int | None = None
        self._parts: list[bytes] = []

    def on_url(self, url: bytes) -> None:
        self._path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == LENGTH:
            self._json_length = int(value)

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        head, text = respond(self._sessions, self._path.decode(), body, self._json_length)
        self._transport.write(b"HTTP/1.1 200 OK\r\n%bcontent-length: %d\r\n\r\n%b" % (head, len(text), text))


def serve_uvicorn(sessions: Mapping[str, OnnxSession], port: int) -> None:
    silent: dict[str, Any] = {"lifespan": "off", "access_log": False, "log_level": "warning"}
    uvicorn.run(application(sessions), port=port, http="httptools", loop="uvloop", **silent)


def serve_protocol(sessions: Mapping[str, OnnxSession], port: int) -> None:
    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(lambda: Bare(sessions), "127.0.0.1", port)
        await server.serve_forever()

    uvloop.run(serve())


SERVERS = {"uvicorn": serve_uvicorn, "protocol": serve_protocol}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="Example: python -m loadtests.ceiling protocol --port 9000 m=model.onnx"
    )
    parser.add_argument("server", choices=SERVERS)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("models", nargs="+", metavar="NAME=FILE")
    arguments = parser.parse_args()
    sessions = {name: OnnxSession(path) for name, path in (one.split("=", 1) for one in arguments.models)}
    SERVERS[arguments.server](sessions, arguments.port)


if __name__ == "__main__":
    main()
