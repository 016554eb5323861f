"""`Content-Encoding` and `Accept-Encoding`: gzip and deflate."""

import zlib
from collections.abc import Iterator

from serving.codec.quoting import shown
from serving.errors import BadRequest, PayloadTooLarge, UnsupportedMediaType

_GZIP, _ZLIB, _DEFLATE = 31, 15, -15  # zlib's names for the three wrappings
PIECE_BYTES = 2**18  # of a body that comes in parts: expanded and parsed at a time
_LEVEL = 1  # tensors hardly compress: speed counts


def decompress(body: bytes | memoryview, encoding: str | None, max_bytes: int) -> bytes | memoryview:
    """The body without its `Content-Encoding`; never makes more than `max_bytes` + 1 bytes.

    Raises UnsupportedMediaType, PayloadTooLarge, BadRequest.
    """
    name = _known(encoding)
    if name == "identity":
        return body
    stream = zlib.decompressobj(_GZIP if name == "gzip" else _deflate_wrapping(body))
    try:
        expanded = stream.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise BadRequest(f"the body is not {name}: {error}") from None
    if len(expanded) > max_bytes:
        raise PayloadTooLarge(f"the decompressed body has more than {max_bytes} bytes")
    if not stream.eof or stream.unused_data:
        raise BadRequest(f"the {name} body {'has trailing bytes' if stream.eof else 'is cut short'}")
    return expanded


class Expander:
    """A body that comes in parts, without its `Content-Encoding`, in pieces of at most `PIECE_BYTES`.

    What one part holds may be `max_bytes` long. Raises UnsupportedMediaType, PayloadTooLarge, BadRequest.

    >>> expander, body = Expander("gzip", max_bytes=100), compress(b"abc", "gzip")
    >>> [piece for part in (body[:9], body[9:]) for piece in expander.feed(part)], expander.end()
    ([b'abc'], b'')
    """

    def __init__(self, encoding: str | None, max_bytes: int) -> None:
        self._name, self._max_bytes = _known(encoding), max_bytes
        self._begun, self._stream = False, zlib.decompressobj(_GZIP)

    def feed(self, part: bytes) -> Iterator[bytes]:
        if self._name == "identity":
            yield from (part[at : at + PIECE_BYTES] for at in range(0, len(part), PIECE_BYTES))
            return
        if not self._begun and self._name == "deflate":
            self._stream = zlib.decompressobj(_deflate_wrapping(part))
        self._begun, size, expanded = True, len(part), 0
        while part:
            piece = self._expanded(part)
            part, expanded = self._stream.unconsumed_tail, expanded + len(piece)
            if expanded > self._max_bytes:
                raise PayloadTooLarge(f"{size} bytes of the {self._name} body hold more than {self._max_bytes}")
            if piece:
                yield piece

    def end(self) -> bytes:
        """What is left, which is little."""
        rest = b"" if self._name == "identity" else self._expanded(b"")
        if self._name != "identity" and not self._stream.eof:
            raise BadRequest(f"the {self._name} body is cut short")
        return rest

    def _expanded(self, part: bytes) -> bytes:
        try:
            piece = self._stream.decompress(part, PIECE_BYTES)
        except zlib.error as error:
            raise BadRequest(f"the body is not {self._name}: {error}") from None
        if self._stream.unused_data:
            raise BadRequest(f"the {self._name} body has trailing bytes")
        return piece


def compress(body: bytes, encoding: str) -> bytes:
    """The body in `gzip` or `deflate` (of the zlib kind, as RFC 9110 has it)."""
    stream = zlib.compressobj(_LEVEL, wbits=_GZIP if encoding == "gzip" else _ZLIB)
    return stream.compress(body) + stream.flush()


def accepted_encoding(accept: str | None) -> str | None:
    """Of `Accept-Encoding`: gzip, else deflate, else None. Weights only count as zero or not.

    >>> accepted_encoding("br, gzip;q=0, deflate")
    'deflate'
    """
    if not accept:
        return None
    items = [item.replace(" ", "").lower().partition(";q=") for item in accept.split(",")]
    names = {name for name, _, weight in items if weight.strip("0.") or not weight}
    return next((name for name in ("gzip", "deflate") if name in names), None)


def _known(encoding: str | None) -> str:
    name = (encoding or "identity").strip().lower()
    if name not in ("gzip", "deflate", "identity"):
        raise UnsupportedMediaType(f"content encoding {shown(encoding)}: expected gzip, deflate or identity")
    return name


def _deflate_wrapping(body: bytes | memoryview) -> int:
    """Some clients send raw deflate under this name; a zlib stream starts with a multiple of 31."""
    is_zlib = len(body) < 2 or (body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0)
    return _ZLIB if is_zlib else _DEFLATE
