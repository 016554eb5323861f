"""The head of an HTTP/1.1 request, taken strictly (RFC 9112): what two servers could read in two ways is refused.

Methods, header names and values are matched whole against what the grammar allows, so a bare CR or LF, a folded
line, or a space before the colon never gets through. One way to give the length of the body, one `Host`.
"""

import re
from dataclasses import dataclass
from urllib.parse import unquote

from serving.errors import BadRequest, HeaderTooLarge, UnknownHttpVersion, UnknownTransferCoding

MAX_LINE_BYTES, MAX_HEAD_BYTES, MAX_HEADERS = 2**13, 2**16, 100
CHUNKED = -1  # as length of a body

_REQUEST = re.compile(rb"([A-Za-z]{1,20}) (?:https?://[^/?#\s]+)?([/*][\x21-\x7e\x80-\xff]*) HTTP/(\d\.\d)")
HEADER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([\t\x20-\x7e\x80-\xff]*)")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_ONCE = (b"host", b"content-length", b"transfer-encoding", b"content-type", b"authorization", b"x-request-id")


@dataclass(frozen=True, slots=True)
class Head:
    """Method, path (decoded, without its query), headers in lower case, and how the message goes on."""

    method: str
    path: str
    headers: dict[bytes, bytes]
    length: int  # bytes of the body, or CHUNKED
    keep_alive: bool
    reply: bytes  # the line that an older client needs to believe it
    expects: bool  # the client waits for "100 Continue"


def parse(raw: bytes) -> Head:
    """The head without its empty line. Raises BadRequest, HeaderTooLarge, UnknownHttpVersion, UnknownTransferCoding.

    >>> head = parse(b"POST /v2/models/m/infer?x=1 HTTP/1.1" + bytes([13, 10]) + b"Host: a")
    >>> head.method, head.path, head.length, head.keep_alive
    ('POST', '/v2/models/m/infer', 0, True)
    """
    lines = raw.split(b"\r\n")
    _measure(raw, lines)
    found = _REQUEST.fullmatch(lines[0])
    if found is None:
        raise BadRequest(f"malformed request line: {lines[0][:100]!r}")
    method, target, version = found.groups()
    if version not in (b"1.0", b"1.1"):
        raise UnknownHttpVersion(f"got HTTP/{version.decode()}, expected 1.1 or 1.0")
    headers = _headers(lines[1:])
    current = version == b"1.1"
    if current and b"host" not in headers:
        raise BadRequest("the header `host` is missing")
    options = {option.strip().lower() for option in headers.get(b"connection", b"").split(b",")}
    path = target.partition(b"?")[0].partition(b"#")[0].decode("latin-1")
    return Head(
        method.decode(),
        unquote(path) if "%" in path else path,
        headers,
        _length(headers, current),
        b"close" not in options and (current or b"keep-alive" in options),
        b"" if current else b"connection: keep-alive\r\n",
        current and headers.get(b"expect", b"").lower() == b"100-continue",
    )


def check_start(part: bytes) -> None:
    """Raises HeaderTooLarge or BadRequest for the beginning of a head that nothing can make right any more."""
    if part.strip(b"\r\n") and not part[:1].isalpha():
        raise BadRequest(f"expected a request, got {part[:40]!r}")
    if part.count(b"\n") != part.count(b"\r\n"):
        raise BadRequest("a line of the request's head ends without CR")
    _measure(part, part.split(b"\r\n"))


def _measure(raw: bytes, lines: list[bytes]) -> None:
    if len(raw) > MAX_HEAD_BYTES:
        raise HeaderTooLarge(f"the head of the request has more than {MAX_HEAD_BYTES} bytes")
    if len(lines) > MAX_HEADERS + 1:
        raise HeaderTooLarge(f"the request has more than {MAX_HEADERS} headers")
    if max(map(len, lines)) > MAX_LINE_BYTES:
        raise HeaderTooLarge(f"a line of the request's head has more than {MAX_LINE_BYTES} bytes")


def _headers(lines: list[bytes]) -> dict[bytes, bytes]:
    """Names in lower case; what may be given several times is joined as RFC 9110 (5.3) has it."""
    headers: dict[bytes, bytes] = {}
    for line in lines:
        found = HEADER.fullmatch(line)
        if found is None:
            raise BadRequest(f"malformed header line: {line[:100]!r}")
        name, value = found[1].lower(), found[2].strip(b" \t")
        if name in headers:
            if name in _ONCE:
                raise BadRequest(f"the header `{name.decode()}` is given more than once")
            value = headers[name] + (b"; " if name == b"cookie" else b", ") + value
        headers[name] = value
    return headers


def _length(headers: dict[bytes, bytes], current: bool) -> int:
    coding, length = headers.get(b"transfer-encoding"), headers.get(b"content-length")
    if coding is not None:
        if length is not None or not current:
            raise BadRequest("the length of the body is given in two ways, or by a coding that HTTP/1.0 lacks")
        if coding.lower() != b"chunked":
            raise UnknownTransferCoding(f"transfer coding {coding[:100]!r}: expected chunked")
        return CHUNKED
    if length is None:
        return 0
    if not _LENGTH.fullmatch(length):
        raise BadRequest(f"content-length must be a number of bytes, got {length[:100]!r}")
    return int(length)


def binary_at(known: Head) -> int:
    """Where in a body its binary tensors begin, as far as the head says."""
    given = known.headers.get(b"inference-header-content-length", b"")
    return int(given) if given.isdigit() and len(given) < 20 else 0
