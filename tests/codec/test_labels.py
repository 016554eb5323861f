import json
import tracemalloc
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.codec import Batch, Label, Lines, Refused, decode_labels, label_batches
from serving.codec.labels import MAX_LINE_BYTES
from serving.errors import BadRequest, GaugewayError
from tests.codec.wire import patient

T = "2013-01-01T01:00:00.5+01:00"
AT = 1356998400.5


def sent(**changes: Any) -> dict[str, Any]:
    item = {"id": "a", "label": 1, "time": T} | changes
    return {key: value for key, value in item.items() if value is not ...}


def test_one_object_an_array_and_lines() -> None:
    one = [Label("a", 1, AT, 0)]
    text = json.dumps(sent()).encode()
    assert decode_labels(text, "application/json") == (one, [])
    assert decode_labels(json.dumps(sent(), indent=2).encode()) == (one, [])
    assert decode_labels(b" [" + text + b"]\n") == (one, [])
    assert decode_labels(b"[]") == ([], [])
    assert decode_labels(text, "application/x-ndjson") == (one, [])
    assert decode_labels(text + b"\r\n\n" + text + b"\n", "application/x-ndjson") == (one * 2, [])
    assert decode_labels(memoryview(text + b"\n" + text)) == (one * 2, [])


@pytest.mark.parametrize("label", [0, 1.5, "late", True, -(2**63), 2**63 - 1, "", 1e308])
def test_labels_keep_their_type(label: bool | int | float | str) -> None:
    (got,), _ = decode_labels(json.dumps(sent(label=label, row=3)).encode())
    assert got == Label("a", label, AT, 3) and type(got.label) is type(label)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"id": ...}, "missing required field `id`"),
        ({"id": ""}, "length >= 1"),
        ({"id": 1}, "Expected `str`, got `int`"),
        ({"label": ...}, "missing required field `label`"),
        ({"label": None}, "got `null`"),
        ({"label": [1]}, "got `array`"),
        ({"label": 2**63}, "<= 9223372036854775807"),
        ({"row": -1}, ">= 0"),
        ({"row": 2**31}, "<= 2147483647"),
        ({"row": 1.5}, "got `float`"),
        ({"time": 5}, "got `int`"),
        ({"time": "yesterday"}, "Invalid RFC3339"),
        ({"time": "2013-01-01T00:00:00"}, "timezone"),
        ({"time": ...}, "missing required field `time`"),
    ],
)
def test_a_wrong_label_is_refused_and_its_neighbours_are_taken(changes: dict[str, Any], reason: str) -> None:
    items = [sent(id="first"), sent(**changes), sent(id="last")]
    for body, kind in [
        (json.dumps(items), "application/json"),
        ("\n".join(map(json.dumps, items)), "application/x-ndjson"),
    ]:
        labels, refused = decode_labels(body.encode(), kind)
        assert [label.id for label in labels] == ["first", "last"]
        assert [item.index for item in refused] == [1] and reason in refused[0].reason


def test_a_kpi_may_come_with_a_label() -> None:
    (got,), refused = decode_labels(json.dumps([sent(kpi=12), sent(kpi="12")]).encode())
    assert got == Label("a", 1, AT, 0, 12.0) and "Expected `float | null`" in refused[0].reason


def test_a_label_without_a_time_arrives_now() -> None:
    assert decode_labels(json.dumps(sent(time=...)).encode(), now=7.0) == ([Label("a", 1, 7.0)], [])
    assert decode_labels(json.dumps([sent(time=None), sent()]).encode(), now=7.0)[0][1].time == AT


def test_lines_that_are_no_json_are_refused_one_by_one() -> None:
    body = json.dumps(sent()).encode() + b'\n{"id": \n{"id": "\xff"}\n' + b"[" * 5000
    labels, refused = decode_labels(body, "application/x-ndjson")
    assert len(labels) == 1
    assert [item.index for item in refused] == [1, 2, 3]


@pytest.mark.parametrize("lines", [1, 4096, 4097, 10_000])
def test_lines_come_in_batches_with_the_places_they_stood_on(lines: int) -> None:
    good, blank = json.dumps(sent()).encode(), b" \r"
    body = b"\n".join([blank, *[good] * (lines - 1), b"{}", blank])
    batches = list(label_batches(body, "application/x-ndjson", None))
    assert [len(batch.labels) + len(batch.refused) for batch in batches[:-1]] == [4096] * (len(batches) - 1)
    places = [place for batch in batches for place in batch.places]
    assert places == [(index, index + 2) for index in range(lines - 1)]
    (refused,) = (one for batch in batches for one in batch.refused)
    assert (refused.index, refused.line) == (lines - 1, lines + 1)


def test_an_array_comes_in_batches_too() -> None:
    items = [sent(id=f"{k}") for k in range(5000)]
    items[7] = sent(label=...)
    batches = list(label_batches(json.dumps(items).encode(), None, None))
    assert [one.index for batch in batches for one in batch.refused] == [7]
    told = [(label.id, place.at) for batch in batches for label, place in zip(batch.labels, batch.places, strict=True)]
    assert told == [(f"{k}", k) for k in range(5000) if k != 7]


@pytest.mark.parametrize("body", [b"", b" ", b"{", b"[1", b"[" * 100_000, b"{} x", b"nan"])
def test_a_body_that_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest, match="malformed body"):
        decode_labels(body)


def test_json_that_is_no_label_is_refused() -> None:
    assert decode_labels(b"1") == ([], [Refused(0, "Expected `object`, got `int`")])


@patient
@given(st.binary(max_size=60) | st.text('[]{}",:\n\\idlabetm01e.-', max_size=60).map(str.encode), st.booleans())
def test_any_bytes_are_decoded_or_refused(body: bytes, lines: bool) -> None:
    try:
        decode_labels(body, "application/x-ndjson" if lines else None)
    except GaugewayError:
        pass


LINE = st.sampled_from(
    [json.dumps(sent()), json.dumps(sent(label=..., id="b")), "", " ", "{", "[1]", '{"id": "\x85\u2028"}']
)


@patient
@given(st.lists(LINE), st.booleans(), st.lists(st.integers(0, 600)))
def test_lines_that_come_in_parts_are_those_of_the_whole(texts: list[str], ended: bool, cuts: list[int]) -> None:
    body = "\n".join([*texts, ""] if ended else texts).encode()
    lines, at = Lines(None), sorted({0, len(body), *(min(cut, len(body)) for cut in cuts)})
    batches = [batch for a, b in pairwise(at) for batch in lines.feed(body[a:b])]
    batches += lines.feed(b"", last=True)
    for name in Batch._fields:
        whole = [one for batch in label_batches(body, "application/x-ndjson", None) for one in getattr(batch, name)]
        assert [one for batch in batches for one in getattr(batch, name)] == whole


@pytest.mark.parametrize("part_bytes", [2**16, 2**30])
def test_a_line_that_is_too_long_is_refused_and_its_memory_bounded(part_bytes: int) -> None:
    one = json.dumps(sent()).encode()
    body = b"\n".join([one, one + b" " * (8 * MAX_LINE_BYTES), one + b" " * (MAX_LINE_BYTES - len(one) - 1), one])
    lines, parts = Lines(None), [body[at : at + part_bytes] for at in range(0, len(body), part_bytes)]
    tracemalloc.start()
    batches = [batch for part in parts for batch in lines.feed(part)]
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    batches += lines.feed(b"", last=True)
    assert [place.line for batch in batches for place in batch.places] == [1, 3, 4]
    ((index, reason, line),) = ((r.index, r.reason, r.line) for batch in batches for r in batch.refused)
    assert (index, line) == (1, 2) and reason == "the line has more than 1048576 bytes"
    assert part_bytes > len(body) or most < 5 * MAX_LINE_BYTES


def test_an_array_is_no_line() -> None:
    ((refused,),) = (batch.refused for batch in label_batches(b"[]", "application/X-NDJSON", None))
    assert refused == Refused(0, "Expected `object`, got `array`", 1)
