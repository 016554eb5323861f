"""Labels: the truth that arrives after the prediction."""

import io
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import islice
from typing import Annotated, NamedTuple

import msgspec

from serving.errors import BadRequest


class Label(msgspec.Struct, frozen=True):
    """The truth about one row of an earlier request; `time` is seconds since 1970 UTC."""

    id: str
    label: bool | int | float | str
    time: float
    row: int = 0
    kpi: float | msgspec.UnsetType = msgspec.UNSET


class Refused(msgspec.Struct, frozen=True, omit_defaults=True):
    """A label that was not taken: its index among those sent, why, and the line it stood on, counted from 1."""

    index: int
    reason: str
    line: int | None = None


class Place(NamedTuple):
    """Of a label in a body; no line where it is no NDJSON."""

    at: int  # index among those sent
    line: int | None = None


class Batch(NamedTuple):
    """Some labels of a body with their places, and what cannot be one."""

    labels: list[Label]
    places: list[Place]
    refused: list[Refused]


class _Label(msgspec.Struct):
    id: Annotated[str, msgspec.Meta(min_length=1)]
    label: bool | Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | float | str
    time: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    row: Annotated[int, msgspec.Meta(ge=0, lt=2**31)] = 0
    kpi: float | None = None


_label, _labels = msgspec.json.Decoder(_Label), msgspec.json.Decoder(list[_Label])
_one, _array = msgspec.json.Decoder(msgspec.Raw), msgspec.json.Decoder(list[msgspec.Raw])
BATCH_LABELS = 4096
MAX_LINE_BYTES = 2**20
_UNFIT = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, BadRequest)


def decode_labels(
    body: bytes | memoryview, content_type: str | None = None, now: float | None = None
) -> tuple[list[Label], list[Refused]]:
    """Labels from an array, from one object, or from one object a line (`application/x-ndjson` when there is one line).

    `now` is the time of those that carry none; where it is None too, such a label is refused. BadRequest when the
    body as a whole is no JSON.

    >>> labels, refused = decode_labels(b'[{"id": "a", "label": 1, "time": "1970-01-01T00:00:09Z"}, {"id": "b"}]')
    >>> [(label.id, label.label, label.time) for label in labels], refused[0].index, refused[0].reason
    ([('a', 1, 9.0)], 1, 'Object missing required field `label`')
    """
    text = bytes(body).strip()
    try:
        if text.startswith(b"[") and not is_ndjson(content_type):
            return _all(text, now)
        if is_ndjson(content_type) or b"\n{" in text:
            return _each(text.splitlines(), now)
        return _each([bytes(_one.decode(text))], now)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRequest(f"malformed body: {error}") from None


class Lines:
    """Labels of NDJSON that comes in parts, at most 4096 at a time; a part and a line are in memory, and no more.

    >>> lines = Lines(now=0.0)
    >>> [batch.places for part in (b'{"id": "a", ', b'"label": 1}\\n\\n{') for batch in lines.feed(part)]
    [[Place(at=0, line=1)]]
    >>> [batch.refused[0].line for batch in lines.feed(b"", last=True)]
    [3]
    """

    def __init__(self, now: float | None) -> None:
        self._now, self._rest = now, b""
        self._at = self._number = 0  # labels and lines so far

    def feed(self, part: bytes, last: bool = False) -> Iterator[Batch]:
        lines = self._lines(self._rest + part, last)
        while some := list(islice(lines, BATCH_LABELS)):
            yield self._batch(some)

    def _lines(self, text: bytes, last: bool) -> Iterator[tuple[Place, bytes]]:
        end = len(text) if last else text.rfind(b"\n") + 1
        self._rest = text[end : end + MAX_LINE_BYTES + 1]  # more of one that is too long need not be kept
        for line in io.BytesIO(text[:end]):
            self._number += 1
            if line.strip():
                yield Place(self._at, self._number), line
                self._at += 1

    def _batch(self, lines: Iterable[tuple[Place, bytes]]) -> Batch:
        batch = Batch([], [], [])
        for place, line in lines:
            try:
                if len(line) > MAX_LINE_BYTES:
                    raise BadRequest(f"the line has more than {MAX_LINE_BYTES} bytes")
                batch.labels.append(_timed(_label.decode(line), self._now))
                batch.places.append(place)
            except _UNFIT as error:
                batch.refused.append(Refused(place.at, str(error), place.line))
        return batch


def is_ndjson(content_type: str | None) -> bool:
    return content_type is not None and "ndjson" in content_type.lower()


def label_batches(body: bytes | memoryview, content_type: str | None, now: float | None) -> Iterator[Batch]:
    """As `decode_labels`, at most 4096 at a time; of NDJSON no more than these are in memory beside the body.

    >>> [batch.places for batch in label_batches(b'{"id": "a", "label": 1}\\n\\n{', "application/x-ndjson", now=0.0)]
    [[Place(at=0, line=1)]]
    """
    text = bytes(body)
    if is_ndjson(content_type) or (b"\n{" in text and not text[:64].lstrip().startswith(b"[")):
        yield from Lines(now).feed(text, last=True)
    else:
        yield from _parts(*decode_labels(text, content_type, now))


def _parts(labels: list[Label], refused: list[Refused]) -> Iterator[Batch]:
    unfit = {one.index for one in refused}
    places = [Place(index) for index in range(len(labels) + len(refused)) if index not in unfit]
    yield Batch([], [], refused)
    for at in range(0, len(labels), BATCH_LABELS):
        yield Batch(labels[at : at + BATCH_LABELS], places[at : at + BATCH_LABELS], [])


def _all(text: bytes, now: float | None) -> tuple[list[Label], list[Refused]]:
    """At once when all are right, which takes a fraction of the time."""
    try:
        return [_timed(label, now) for label in _labels.decode(text)], []
    except _UNFIT:
        return _each(map(bytes, _array.decode(text)), now)


def _each(texts: Iterable[bytes], now: float | None) -> tuple[list[Label], list[Refused]]:
    labels, refused = [], []
    for index, text in enumerate(text for text in texts if text.strip()):
        try:
            labels.append(_timed(_label.decode(text), now))
        except _UNFIT as error:
            refused.append(Refused(index, str(error)))
    return labels, refused


def _timed(label: _Label, now: float | None) -> Label:
    time = label.time.timestamp() if label.time else now
    if time is None:
        raise BadRequest("Object missing required field `time`")
    return Label(label.id, label.label, time, label.row, msgspec.UNSET if label.kpi is None else label.kpi)
