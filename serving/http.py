"""HTTP requests and responses of the data plane, on plain ASGI: bodies within bounds, headers checked."""

import math
import re
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from serving import codec
from serving.errors import BadRequest, GaugewayError, PayloadTooLarge, Unavailable

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

JSON = (b"content-type", b"application/json")
BINARY = (b"content-type", b"application/octet-stream")
_PRINTABLE = re.compile(rb"[\x21-\x7e]{1,128}")
_COMPRESS_BYTES = 1024


class ClientGone(Exception):
    """The client left before its request was whole; nobody reads an answer."""


@dataclass(slots=True)
class Request:
    """A request whose path was matched; `names` are the parts of the path that vary."""

    method: str
    path: str
    names: Mapping[str, str]
    headers: Mapping[bytes, bytes]
    receive: Receive
    started: float = field(default_factory=time.perf_counter)
    arrived: float = field(default_factory=time.time)

    def text(self, name: bytes) -> str | None:
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    async def body(self, max_bytes: int) -> bytes:
        """The whole body, decompressed. Raises PayloadTooLarge, BadRequest, ClientGone."""
        declared = self.headers.get(b"content-length")
        if declared is not None and declared.isdigit() and int(declared) > max_bytes:
            raise PayloadTooLarge(f"got a body of {int(declared)} bytes, at most {max_bytes} are taken")
        data = await self._read(max_bytes)
        encoding = self.text(b"content-encoding")
        return codec.decompress(data, encoding, max_bytes) if encoding else data

    async def _read(self, max_bytes: int) -> bytes:
        chunks: list[bytes] = []
        size, more = 0, True
        while more:
            message = await self.receive()
            if message["type"] != "http.request":
                raise ClientGone
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > max_bytes:
                raise PayloadTooLarge(f"got a body of more than {max_bytes} bytes")
            more = message.get("more_body", False)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def identity(self) -> bytes | None:
        """`x-request-id` as given. Raises BadRequest when it is not 1 to 128 printable characters."""
        given = identity(self.headers)
        if given is None and (raw := self.headers.get(b"x-request-id")) is not None:
            raise BadRequest(f"x-request-id must be 1 to 128 printable ASCII characters, got {raw[:140]!r}")
        return given

    def deadline_s(self, longest_s: float) -> float:
        """What the client allows, at most what the gateway does."""
        text = self.text(b"x-gaugeway-deadline-s")
        if text is None:
            return longest_s
        try:
            seconds = float(text)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds < float("inf"):
            raise BadRequest(f"x-gaugeway-deadline-s must be seconds above 0, got {text[:40]!r}")
        return min(seconds, longest_s)

    def event_time(self) -> float:
        """Seconds since 1970 of `x-gaugeway-event-time`; NaN where there is none: served, but not evidence.

        The arrival in its place would move the clock of a replayed past to today, and seal all that is open.
        """
        text = self.text(b"x-gaugeway-event-time")
        if text is None:
            return math.nan
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise BadRequest(f"x-gaugeway-event-time must be RFC 3339, got {text[:40]!r}") from None
        if moment.tzinfo is None:
            raise BadRequest(f"x-gaugeway-event-time must name its offset from UTC, got {text[:40]!r}")
        return moment.timestamp()


@dataclass(slots=True)
class Response:
    """`request_id` leaves as `x-request-id`; empty: the one of the request, or one is made."""

    body: bytes
    status: int = 200
    headers: list[tuple[bytes, bytes]] = field(default_factory=lambda: [JSON])
    request_id: bytes = b""


def identity(headers: Mapping[bytes, bytes]) -> bytes | None:
    """`x-request-id` where it is one that can be given back."""
    given = headers.get(b"x-request-id")
    return given if given is not None and _PRINTABLE.fullmatch(given) else None


Handler = Callable[[Request], Awaitable[Response]]


def answer(document: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(document), status)


def refusal(error: GaugewayError) -> Response:
    """The error's status, its sentence as JSON, `Retry-After` where asking again makes sense."""
    headers = [JSON]
    if isinstance(error, Unavailable):
        headers.append((b"retry-after", b"%d" % max(1, round(error.retry_after_s))))
    if isinstance(error, PayloadTooLarge):
        headers.append((b"connection", b"close"))  # the rest of the body is not worth reading
    return Response(codec.error_body(str(error)), error.status, headers)


def compressed(response: Response, accepted: bytes | None) -> Response:
    """gzip or deflate, if the client asked for it and the body is large enough to gain."""
    if not accepted or len(response.body) < _COMPRESS_BYTES:
        return response
    if encoding := codec.accepted_encoding(accepted.decode("latin-1")):
        response.body = codec.compress(response.body, encoding)
        response.headers += [(b"content-encoding", encoding.encode()), (b"vary", b"accept-encoding")]
    return response
