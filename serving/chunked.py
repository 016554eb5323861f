"""A body in chunks (RFC 9112, 7.1), taken strictly: sizes are hexadecimal digits, lines end with CR LF."""

import re

from serving.errors import BadRequest, PayloadTooLarge
from serving.head import HEADER

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})(?:[ \t]*;[\t\x20-\x7e]*)?")
_MAX_LINE_BYTES, _MAX_TRAILER_BYTES = 256, 2**13


class Chunked:
    """Bytes in, the body out; trailers are read and dropped.

    >>> body = Chunked(100)
    >>> body.feed(b"3\\r\\nabc\\r\\n0\\r\\n\\r\\nGET")
    b'GET'
    >>> bytes(body.data)
    b'abc'
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.data = bytearray()
        self._buffer = b""
        self._left = 0  # bytes of the chunk under way, with the CR LF behind it
        self._trailer_bytes = -1  # -1: the last chunk is still to come

    def feed(self, data: bytes) -> bytes | None:
        """What follows the body, once it is whole. Raises BadRequest, PayloadTooLarge."""
        buffer, at = self._buffer + data, 0
        while True:
            if self._left:
                at = self._take(buffer, at)
                if self._left:
                    break
            end = buffer.find(b"\r\n", at)
            if end < 0:
                self._check_line(buffer[at:])
                break
            line, at = buffer[at:end], end + 2
            self._check_line(line)
            if self._trailer_bytes < 0:
                self._begin(line)
            elif not line:
                return buffer[at:]
            elif HEADER.fullmatch(line):
                self._trailer_bytes += len(line)
            else:
                raise BadRequest(f"malformed trailer: {line[:100]!r}")
        self._buffer = buffer[at:]
        return None

    def _take(self, buffer: bytes, at: int) -> int:
        """Data of the chunk, up to what there is."""
        data = min(self._left - 2, len(buffer) - at)
        if data > 0:
            self.data += memoryview(buffer)[at : at + data]
            self._left -= data
            at += data
        if self._left == 2 and len(buffer) - at >= 2:
            if buffer[at : at + 2] != b"\r\n":
                raise BadRequest(f"a chunk is longer than its size says: {buffer[at : at + 2]!r} follows it")
            self._left = 0
            at += 2
        return at

    def _begin(self, line: bytes) -> None:
        found = _SIZE.fullmatch(line)
        if found is None:
            raise BadRequest(f"malformed size of a chunk: {line[:40]!r}")
        size = int(found[1], 16)
        if len(self.data) + size > self._max_bytes:
            raise PayloadTooLarge(f"got a body of more than {self._max_bytes} bytes")
        if size:
            self._left = size + 2
        else:
            self._trailer_bytes = 0

    def _check_line(self, line: bytes) -> None:
        bound = _MAX_LINE_BYTES if self._trailer_bytes < 0 else _MAX_TRAILER_BYTES - self._trailer_bytes
        if len(line) > bound:
            raise BadRequest(f"a line between the chunks has more than {bound} bytes")
