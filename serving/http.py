"""HTTP requests and responses of the data plane, apart from the connection that carries them."""

import math
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime
from secrets import token_hex
from typing import Any

import msgspec

from serving import codec
from serving.errors import BadRequest, GaugewayError, MethodNotAllowed, Unavailable
from serving.head import Head
from serving.upload import Upload

# Header lines of a response, each with its end.
JSON = b"content-type: application/json\r\n"
BINARY = b"content-type: application/octet-stream\r\n"
_PRINTABLE = re.compile(rb"[\x21-\x7e]{1,128}")
_COMPRESS_BYTES = 1024


class Response:
    """`headers` are whole lines; `request_id` leaves as `x-request-id`: empty, and the request's own does, or one is
    made.
    """

    __slots__ = ("body", "headers", "request_id", "status")

    def __init__(self, body: bytes, status: int = 200, headers: bytes = JSON, request_id: bytes = b"") -> None:
        self.body, self.status, self.headers, self.request_id = body, status, headers, request_id


class Request:
    """A whole request. Whoever takes it calls `answer` once, unless `gone` was called: the client left.

    `names` are the parts of the path that vary; `started` is on the clock of durations, `arrived` since 1970.
    """

    __slots__ = ("_send", "arrived", "body", "gone", "headers", "method", "names", "path", "peer", "started")

    def __init__(self, head: Head, body: bytes | memoryview, peer: str, send: Callable[[Response], None]) -> None:
        self.method, self.path, self.headers = head.method, head.path, head.headers
        self.body, self.peer, self._send = body, peer, send
        self.names: Mapping[str, str] = {}
        self.gone: Callable[[], None] | None = None
        self.started, self.arrived = time.perf_counter(), time.time()

    def answer(self, response: Response) -> None:
        if not response.request_id:
            response.request_id = identity(self.headers) or token_hex(8).encode()
        self._send(response)

    def text(self, name: bytes) -> str | None:
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    def content(self, max_bytes: int) -> bytes | memoryview:
        """The body, decompressed. Raises PayloadTooLarge, BadRequest, UnsupportedMediaType."""
        encoding = self.text(b"content-encoding")
        return codec.decompress(self.body, encoding, max_bytes) if encoding else self.body

    async def parts(self) -> AsyncIterator[bytes]:
        """The body as it comes, not decompressed; here it is whole.

        Raises ConnectionAbortedError when the rest will not come: then nobody waits for an answer.
        """
        yield bytes(self.body)

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


class Streamed(Request):
    """A request whose body still comes. An answer before its end is the last one of the connection."""

    __slots__ = ("_upload",)

    def __init__(self, head: Head, upload: Upload, peer: str, send: Callable[[Response], None]) -> None:
        super().__init__(head, b"", peer, send)
        self._upload = upload

    def parts(self) -> AsyncIterator[bytes]:
        return self._upload


def identity(headers: Mapping[bytes, bytes]) -> bytes | None:
    """`x-request-id` where it is one that can be given back."""
    given = headers.get(b"x-request-id")
    return given if given is not None and _PRINTABLE.fullmatch(given) else None


# An answer, or None: it comes later, through the request's `answer`.
Handler = Callable[[Request], Response | None]


def answer(document: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(document), status)


def refusal(error: GaugewayError) -> Response:
    """The error's status, its sentence as JSON, `Retry-After` where asking again makes sense."""
    headers = JSON
    if isinstance(error, Unavailable):
        headers += b"retry-after: %d\r\n" % max(1, round(error.retry_after_s))
    if isinstance(error, MethodNotAllowed):
        headers += b"allow: %s\r\n" % ", ".join(error.allowed).encode()
    return Response(codec.error_body(str(error)), error.status, headers)


def compressed(response: Response, accepted: bytes | None) -> Response:
    """gzip or deflate, if the client asked for it and the body is large enough to gain."""
    if not accepted or len(response.body) < _COMPRESS_BYTES:
        return response
    if encoding := codec.accepted_encoding(accepted.decode("latin-1")):
        response.body = codec.compress(response.body, encoding)
        response.headers += b"content-encoding: %s\r\nvary: accept-encoding\r\n" % encoding.encode()
    return response
