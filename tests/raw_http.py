"""HTTP as bytes: a connection that sends whatever it is given, and reads answers strictly."""

import socket
import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self


@dataclass(frozen=True)
class Answer:
    """Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def closes(self) -> bool:
        return self.headers.get("connection") == "close"


class Wire:
    """One connection. A reset reads as its end."""

    def __init__(self, host: str, port: int, timeout_s: float = 20.0, tls: ssl.SSLContext | None = None) -> None:
        plain = socket.create_connection((host, port), timeout=timeout_s)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # pieces leave as they are given
        self.socket = tls.wrap_socket(plain) if tls else plain
        self._timeout_s, self._read = timeout_s, b""

    def send(self, *pieces: bytes, pause_s: float = 0.0) -> Self:
        """A server may close before all is sent; what it said until then can be read."""
        for piece in pieces:
            try:
                self.socket.sendall(piece)
            except ConnectionError:
                break
            time.sleep(pause_s)
        return self

    def answer(self, to: str = "GET") -> Answer | None:
        """The next answer; None when the server closes before one is whole. Raises TimeoutError."""
        while b"\r\n\r\n" not in self._read:
            if not self._more():
                return None
        head, _, self._read = self._read.partition(b"\r\n\r\n")
        status, headers = _parsed(head)
        length = 0 if to == "HEAD" or status < 200 else int(headers["content-length"])
        while len(self._read) < length:
            if not self._more():
                return None
        body, self._read = self._read[:length], self._read[length:]
        return Answer(status, headers, body)

    def answers(self, to: Iterable[str] = ()) -> list[Answer]:
        """All until the server closes. Raises TimeoutError when it does not."""
        found, methods = list[Answer](), iter(to)
        while answer := self.answer(next(methods, "GET")):
            found.append(answer)
        assert self._read == b"", f"half an answer: {self._read[:200]!r}"
        return found

    def half_close(self) -> Self:
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:  # the server was first
            pass
        return self

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        self.close()

    def _more(self) -> bool:
        try:
            got = self.socket.recv(2**16)
        except ConnectionError:
            return False
        self._read += got
        return bool(got)


def _parsed(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    version, status, _ = first.split(" ", 2)
    assert version == "HTTP/1.1", first
    pairs = [line.split(": ", 1) for line in lines]
    headers = {name.lower(): value for name, value in pairs}
    assert len(headers) == len(pairs), f"a header twice: {head!r}"
    return int(status), headers


def request(
    target: str = "/", *lines: str, method: str = "GET", body: bytes = b"", version: str = "1.1", host: str = "h"
) -> bytes:
    """A request that is right, with these header lines added; of HTTP/1.1, the body's length is among them."""
    named = [f"Host: {host}"] if version == "1.1" else []
    length = [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([f"{method} {target} HTTP/{version}", *named, *length, *lines, "", ""]).encode("latin-1") + body


def chunks(*parts: bytes, trailers: bytes = b"") -> bytes:
    """A body in these chunks."""
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n" + trailers + b"\r\n"
