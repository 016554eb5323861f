"""Labels: the truth that arrives after the prediction."""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated

import msgspec

from serving.errors import BadRequest


class Label(msgspec.Struct, frozen=True):
    """The truth about one row of an earlier request; `time` is seconds since 1970 UTC."""

    id: str
    label: bool | int | float | str
    time: float
    row: int = 0


class Refused(msgspec.Struct, frozen=True):
    """A label that was not taken: its index among those sent, and why."""

    index: int
    reason: str


class _Label(msgspec.Struct):
    id: Annotated[str, msgspec.Meta(min_length=1)]
    label: bool | Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | float | str
    time: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    row: Annotated[int, msgspec.Meta(ge=0, lt=2**31)] = 0


_label, _labels = msgspec.json.Decoder(_Label), msgspec.json.Decoder(list[_Label])
_one, _array = msgspec.json.Decoder(msgspec.Raw), msgspec.json.Decoder(list[msgspec.Raw])
_UNFIT = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, BadRequest)


def decode_labels(
    body: bytes | memoryview, content_type: str | None = None, now: float | None = None
) -> tuple[list[Label], list[Refused]]:
    """Labels from an array, from one object, or from one object a line (`application/x-ndjson` when there is one line).

    `now` is the time of those that carry none; where it is None too, such a label is refused. BadRequest when the
    body as a whole is no JSON.

    >>> decode_labels(b'[{"id": "a", "label": 1, "time": "1970-01-01T00:00:09Z"}, {"id": "b"}]')
    ([Label(id='a', label=1, time=9.0, row=0)], [Refused(index=1, reason='Object missing required field `label`')])
    """
    text = bytes(body).strip()
    try:
        if text.startswith(b"["):
            return _all(text, now)
        if (content_type and "ndjson" in content_type) or b"\n{" in text:
            return _each(text.splitlines(), now)
        return _each([bytes(_one.decode(text))], now)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRequest(f"malformed body: {error}") from None


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
    return Label(label.id, label.label, time, label.row)
