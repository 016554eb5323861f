"""Labels of a file on their way to a gateway: pieces of whole lines, each answered before the next is sent.

A piece whose answer does not come is sent again, which is harmless: what was taken before is doubled. So whatever
breaks, one piece is in doubt and those before it are stored. Of NDJSON one piece is in memory.
"""

import gzip
import io
import json
import math
import time
import urllib.error
import urllib.request
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from http.client import HTTPException
from typing import Any, NamedTuple

from serving import listeners
from serving.errors import BadRequest, GaugewayError, NotReady, Unavailable

PIECE_BYTES, MAX_LINE_BYTES = 2**20, 2**20
PATIENCE_S, LONGEST_PAUSE_S, ANSWER_S = 60.0, 5.0, 60.0
MAX_REFUSED = 1000  # that are named
_ARRAY_LABELS = 10_000  # of a piece
_AGAIN = (408, 502, 503, 504)  # statuses after which the same may be taken

Progress = Callable[[int, str], None]  # labels that were answered, what is waited for


class Piece(NamedTuple):
    """NDJSON, and how many lines of the file stand before it; None where it was no NDJSON."""

    body: bytes
    line: int | None


def pieces(file: io.BufferedReader) -> Iterator[Piece]:
    """NDJSON or a JSON array, plain or as gzip. Raises BadRequest when it is neither, or cannot be read.

    >>> list(pieces(io.BufferedReader(io.BytesIO(b'[{"id": "a"}, 1]'))))
    [Piece(body=b'{"id": "a"}\\n1', line=None)]
    """
    stream = gzip.GzipFile(fileobj=file) if file.peek(1)[:1] == b"\x1f" else file
    try:
        yield from _of_array(stream.read()) if stream.peek(64)[:64].lstrip().startswith(b"[") else _of_lines(stream)
    except (OSError, EOFError, zlib.error) as error:
        raise BadRequest(f"cannot read the labels: {error}") from None


def send(
    file: io.BufferedReader,
    url: Callable[[], str],
    certificate: str,
    progress: Progress,
    patience_s: float = PATIENCE_S,
) -> dict[str, Any]:
    """The sum of each outcome, and the first refused labels by their place in the file.

    `url` may change when the gateway is started again. Raises BadRequest for a file that holds no labels, NotReady
    when the gateway takes nothing for `patience_s`, GaugewayError for what it refuses as a whole; each says how many
    labels are stored.
    """
    sums, refused, labels = Counter[str](joined=0, parked=0, unknown=0, refused_total=0), list[dict[str, Any]](), 0

    def waiting(why: str) -> None:
        progress(labels, why)

    try:
        for piece in pieces(file):
            answer = _answered(piece.body, url, certificate, patience_s, waiting)
            named = [_placed(one, labels, piece.line) for one in answer.pop("refused")]
            refused += named[: MAX_REFUSED - len(refused)]
            labels += sum(answer[part] for part in ("joined", "parked", "unknown", "refused_total"))
            sums.update(answer)
            progress(labels, "")
    except GaugewayError as error:
        kind = type(error) if isinstance(error, BadRequest | NotReady) else GaugewayError
        raise kind(f"{error}; {labels} labels before were answered, to send all again is harmless") from None
    return {**sums, "refused": refused}


def _of_lines(stream: io.BufferedReader | gzip.GzipFile) -> Iterator[Piece]:
    line = 0
    while body := stream.read(PIECE_BYTES):
        body += b"" if body.endswith(b"\n") else _rest(stream)
        yield Piece(body, line)
        line += body.count(b"\n") + (not body.endswith(b"\n"))


def _rest(stream: io.BufferedReader | gzip.GzipFile) -> bytes:
    """Of a line that is begun; of one that is too long as much as the gateway needs to refuse it."""
    rest = part = stream.readline(MAX_LINE_BYTES)
    while len(part) == MAX_LINE_BYTES and not part.endswith(b"\n"):
        part = stream.readline(MAX_LINE_BYTES)
    return rest


def _of_array(text: bytes) -> Iterator[Piece]:
    try:
        lines = [json.dumps(one) for one in json.loads(text)]
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the labels are not JSON: {error}") from None
    for at in range(0, len(lines), _ARRAY_LABELS):
        yield Piece("\n".join(lines[at : at + _ARRAY_LABELS]).encode(), None)


def _answered(
    body: bytes, url: Callable[[], str], certificate: str, patience_s: float, waiting: Callable[[str], None]
) -> dict[str, Any]:
    """Raises NotReady once nothing was taken for `patience_s` after the first failure, which may take `ANSWER_S`."""
    until, pause_s = math.inf, 0.1
    while True:
        try:
            return _posted(body, url(), certificate)
        except Unavailable as error:
            pause_s, now = min(2 * pause_s, LONGEST_PAUSE_S), time.monotonic()
            until = min(until, now + patience_s)
            if now + pause_s > until:
                raise
            waiting(str(error))
        time.sleep(pause_s)


def _posted(body: bytes, url: str, certificate: str) -> dict[str, Any]:
    request = urllib.request.Request(url, body, {"content-type": "application/x-ndjson"}, method="POST")
    try:
        with listeners.ask(request, ANSWER_S, certificate) as response:
            answer: dict[str, Any] = json.load(response)
            return answer
    except urllib.error.HTTPError as error:
        named = listeners.named(error)
        raise NotReady(str(named)) if error.code in _AGAIN else named from None
    except (OSError, HTTPException) as error:
        raise NotReady(f"no answer from {url}: {getattr(error, 'reason', error)}") from None


def _placed(refused: dict[str, Any], labels: int, line: int | None) -> dict[str, Any]:
    """By its place in the file."""
    placed = {**refused, "index": refused["index"] + labels}
    if line is None:
        placed.pop("line", None)
    else:
        placed["line"] = refused["line"] + line
    return placed
