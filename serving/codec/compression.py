"""`Content-Encoding` and `Accept-Encoding`: gzip and deflate."""

import zlib

from serving.codec.quoting import shown
from serving.errors import BadRequest, PayloadTooLarge, UnsupportedMediaType

_GZIP, _ZLIB, _DEFLATE = 31, 15, -15  # zlib's names for the three wrappings
_LEVEL = 1  # tensors hardly compress: speed counts


def decompress(body: bytes | memoryview, encoding: str | None, max_bytes: int) -> bytes | memoryview:
    """The body without its `Content-Encoding`; never makes more than `max_bytes` + 1 bytes.

    Raises UnsupportedMediaType, PayloadTooLarge, BadRequest.
    """
    name = (encoding or "identity").strip().lower()
    if name == "identity":
        return body
    if name not in ("gzip", "deflate"):
        raise UnsupportedMediaType(f"content encoding {shown(encoding)}: expected gzip, deflate or identity")
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


def _deflate_wrapping(body: bytes | memoryview) -> int:
    """Some clients send raw deflate under this name; a zlib stream starts with a multiple of 31."""
    is_zlib = len(body) < 2 or (body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0)
    return _ZLIB if is_zlib else _DEFLATE
