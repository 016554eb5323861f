"""Files of labels on their way to a gateway: what they may be, and what becomes of them when it does not answer."""

import gzip
import io
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serving import sending, upload
from serving.errors import BadRequest, GaugewayError, NotReady, PayloadTooLarge
from serving.sending import MAX_LINE_BYTES, MAX_REFUSED, Progress, pieces, send
from tests.edge import Listening
from tests.label_store import URL, Store, labelling, lines, names

PIECE_BYTES = 2**16  # of these tests
LABELS = 1_250  # of 79 bytes: two pieces
READ = 830  # of them in the first piece, whose last line was begun in its last bytes


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """Shorter pieces, each of which has several parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sending, "PIECE_BYTES", PIECE_BYTES)
        patch.setattr(upload, "PART_BYTES", 2**14)
        yield


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Listening, Store]]:
    with labelling(tmp_path) as up:
        yield up


def stream(text: bytes) -> io.BufferedReader:
    return io.BufferedReader(io.BytesIO(text))


def sent(
    server: Listening, text: bytes, progress: Progress = lambda answered, waiting: None, patience_s: float = 5.0
) -> dict[str, Any]:
    return send(stream(text), lambda: f"http://127.0.0.1:{server.port}{URL}", "", progress, patience_s)


def test_a_file_goes_in_pieces_of_whole_lines() -> None:
    text = lines(3 * LABELS)
    found = list(pieces(stream(text)))
    assert b"".join(body for body, _ in found) == text and len(found) == 5
    assert all(body.endswith(b"\n") and len(body) < PIECE_BYTES + 80 for body, _ in found)
    assert [line for _, line in found[:2]] == [0, READ]
    assert list(pieces(stream(gzip.compress(text)))) == found
    assert list(pieces(stream(b""))) == []


def test_a_line_ends_where_json_says_so() -> None:
    odd = {"id": "a\u2028b\x85c", "label": 1}  # both are line ends to `str.splitlines`, and may stand in a string
    text = json.dumps(odd, ensure_ascii=False).encode()
    ((body, line),) = pieces(stream(text + b"\r\n\n  \n" + text))
    assert [json.loads(one) for one in body.split(b"\n") if one.strip()] == [odd, odd] and line == 0
    ((body, none),) = pieces(stream(b" [" + text + b", " + text + b"]"))
    assert [json.loads(one) for one in body.split(b"\n")] == [odd, odd] and none is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'[{"id": "a"', "the labels are not JSON"),
        (b"[" * 100_000, "the labels are not JSON"),
        (gzip.compress(lines(10))[:-9], "cannot read the labels"),
        (b"\x1f\x8b\x08 no gzip at all", "cannot read the labels"),
    ],
    ids=["half", "deep", "cut", "other"],
)
def test_what_cannot_be_read_is_refused_with_the_reason(text: bytes, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        list(pieces(stream(text)))


@pytest.mark.parametrize("change", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_refused_labels_are_named_by_their_place_in_the_file(
    site: tuple[Listening, Store], change: Callable[[bytes], bytes]
) -> None:
    server, store = site
    given, answered = lines(LABELS).splitlines(keepends=True), list[int]()
    given[2], given[LABELS - 2] = b"\n", b'{"id": "a", "label": 9}\n'
    found = sent(server, change(b"".join(given)), lambda n, waiting: answered.append(n))
    assert (found["joined"], found["refused_total"], found["doubled"]) == (LABELS - 2, 1, 0)
    assert found["refused"] == [{"index": LABELS - 3, "line": LABELS - 1, "reason": "label must be 0 or 1"}]
    assert len(answered) == 2 and answered[-1] == LABELS - 1
    assert store.ids == [name for k, name in enumerate(names(LABELS)) if k not in (2, LABELS - 2)]


@pytest.mark.parametrize("long", [1, 3])
@pytest.mark.parametrize("change", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_line_that_is_too_long_is_refused_alone(
    site: tuple[Listening, Store], long: int, change: Callable[[bytes], bytes]
) -> None:
    """However long it is, what stands behind it keeps its place."""
    server, store = site
    given = lines(LABELS).splitlines(keepends=True)
    given[2] = b'{"id": "' + b"x" * (long * MAX_LINE_BYTES) + b'"}\n'
    given[LABELS - 2] = b'{"id": "a", "label": 9}\n'
    found = sent(server, change(b"".join(given)))
    assert [(one["line"], one["index"]) for one in found["refused"]] == [(3, 2), (LABELS - 1, LABELS - 2)]
    assert found["refused"][0]["reason"] == f"the line has more than {MAX_LINE_BYTES} bytes"
    assert found["refused_total"] == 2
    assert store.ids == [name for k, name in enumerate(names(LABELS)) if k not in (2, LABELS - 2)]


def test_an_array_is_sent_too_and_no_more_than_the_first_refused_are_named(site: tuple[Listening, Store]) -> None:
    server, _ = site
    given = [{"id": f"{k}", "label": 7 * (k < MAX_REFUSED + 3)} for k in range(12_000)]
    found = sent(server, json.dumps(given).encode())
    assert (found["joined"], found["refused_total"]) == (12_000 - MAX_REFUSED - 3, MAX_REFUSED + 3)
    assert [one["index"] for one in found["refused"]] == list(range(MAX_REFUSED)) and "line" not in found["refused"][0]


def test_a_connection_that_breaks_goes_on_from_the_last_answer(site: tuple[Listening, Store]) -> None:
    """The second piece breaks off twice, the first time with labels of it stored."""
    server, store = site
    waited, breaks = list[tuple[int, str]](), 2

    def before() -> None:
        nonlocal breaks
        if breaks and len(store.ids) > READ and server.server.connections:
            breaks -= 1
            for connection in list(server.server.connections):
                connection.abort()

    store.before = before
    found = sent(server, lines(LABELS), lambda answered, why: waited.append((answered, why)))
    assert breaks == 0 and found["joined"] == LABELS and found["doubled"] > 0
    assert store.ids[:READ] == names(READ) and set(store.ids) == set(names(LABELS))
    assert [n for n, _ in waited] == [READ, READ, READ, LABELS]
    assert all(f":{server.port}" in why for _, why in waited[1:3])


def test_a_store_that_is_away_is_waited_for_and_not_for_ever(site: tuple[Listening, Store]) -> None:
    server, store = site
    away = 2

    def before() -> None:
        nonlocal away
        away -= 1
        if away >= 0 or len(store.ids) >= READ:
            raise NotReady("the monitors are away")

    store.before = before
    waited = list[str]()
    with pytest.raises(NotReady, match=f"the monitors are away; {READ} labels before were answered"):
        sent(server, lines(LABELS), lambda n, waiting: waited.append(waiting), patience_s=1.0)
    assert waited[:3] == ["the monitors are away", "the monitors are away", ""] and len(waited) > 3


def test_what_waiting_does_not_mend_is_told_at_once(site: tuple[Listening, Store]) -> None:
    server, _ = site
    other = f"http://127.0.0.1:{server.port}/v1/models/other/labels"
    with pytest.raises(GaugewayError, match=r"unknown model 'other'.*; 0 labels before were answered"):
        send(stream(lines(LABELS)), lambda: other, "", lambda *_: None, 5.0)


def test_a_piece_that_is_refused_as_a_whole_does_not_hide_what_was_stored(site: tuple[Listening, Store]) -> None:
    server, store = site

    def before() -> None:
        if len(store.ids) >= READ:
            raise PayloadTooLarge("too much")

    store.before = before
    with pytest.raises(GaugewayError, match=f"too much; {READ} labels before were answered, to send all again"):
        sent(server, lines(LABELS))


def test_a_gateway_that_is_gone_is_told_with_its_address() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(NotReady, match=f"no answer from http://127.0.0.1:{port}.*; 0 labels before"):
            send(stream(b"{}"), lambda: f"http://127.0.0.1:{port}{URL}", "", lambda *_: None, 0.3)


def test_a_gateway_that_hangs_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first answer alone is waited for as long as there is patience."""
    monkeypatch.setattr(sending, "ANSWER_S", 0.3)
    waited = list[str]()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}{URL}"
        with pytest.raises(NotReady, match=r"no answer from .*timed out; 0 labels before"):
            send(stream(b"{}"), lambda: url, "", lambda _, why: waited.append(why), 0.3)
    assert len(waited) == 1 and "timed out" in waited[0]


def test_a_pipe_is_read_to_its_end(site: tuple[Listening, Store]) -> None:
    server, store = site
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as file, os.fdopen(writing, "wb") as pipe:
        pipe.write(lines(10))
        pipe.close()
        found = send(file, lambda: f"http://127.0.0.1:{server.port}{URL}", "", lambda *_: None)
    assert found["joined"] == 10 and store.ids == names(10)
