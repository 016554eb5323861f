"""Label bodies of any length over real sockets: stored in their order while they come, in bounded memory; whatever
breaks, what was taken stays.
"""

import gzip
import json
import resource
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import upload
from serving.errors import NotReady
from serving.limits import Limits
from serving.tls import server_context
from tests import certificates
from tests.edge import Listening
from tests.gateway import until
from tests.label_store import URL, Store, counted, labelling, lines, names
from tests.raw_http import Answer, Wire, chunks, request
from tests.test_server_tls import _anyone

NDJSON = "Content-Type: application/x-ndjson"
PART_BYTES = 2**16  # of these tests
LONG = 1_250  # labels: a part, and half of the next
QUICK = Limits(body_idle_s=0.4, write_s=5.0)
COMPRESSED: dict[str, Callable[[bytes], bytes]] = {  # as long as they were, so that they come in parts
    "identity": bytes,
    "gzip": lambda body: gzip.compress(body, 0),
    "deflate": lambda body: zlib.compress(body, 0),
}


@pytest.fixture(scope="module", autouse=True)
def parts() -> Iterator[None]:
    """Smaller ones than those of a gateway, so that a short body has several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upload, "PART_BYTES", PART_BYTES)
        yield


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Listening, Store]]:
    with labelling(tmp_path) as up:
        yield up


def begun(length: int, *headers: str, url: str = URL) -> bytes:
    """The head of a body that is so long."""
    return request(url, NDJSON, f"Content-Length: {length}", *headers, method="POST")


def document(answer: Answer | None) -> dict[str, Any]:
    assert answer is not None and answer.status == 200, answer
    found: dict[str, Any] = json.loads(answer.body)
    return found


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def is_alive(wire: Wire) -> bool:
    answer = wire.send(request("/v2/health/live")).answer()
    return answer is not None and answer.status == 200


@pytest.mark.parametrize("encoding", list(COMPRESSED))
@pytest.mark.parametrize("chunked", [False, True])
def test_labels_of_a_long_body_are_stored_in_their_order(
    site: tuple[Listening, Store], chunked: bool, encoding: str
) -> None:
    server, store = site
    body, kind = COMPRESSED[encoding](lines(LONG)), f"Content-Encoding: {encoding}"
    if chunked:
        parts = [body[at : at + 100_003] for at in range(0, len(body), 100_003)]
        sent = request(URL, NDJSON, kind, "Transfer-Encoding: chunked", method="POST") + chunks(*parts)
    else:
        sent = begun(len(body), kind) + body
    with server.connect() as wire:
        found = document(wire.send(sent + request("/v2/health/live")).answer())
        assert (found["joined"], found["doubled"], found["refused_total"]) == (LONG, 0, 0)
        assert wire.answer() is not None  # to what was sent ahead
    assert store.ids == names(LONG) and len(store.sizes) > 1
    until(lambda: server.server.buffered_bytes == 0, "the memory of the body", 5)


def test_labels_come_through_tls(tmp_path: Path) -> None:
    tls = server_context(certificates.write(tmp_path))
    with labelling(tmp_path, tls=tls) as (server, store), server.connect(tls=_anyone()) as wire:
        body = lines(3 * LONG)
        assert document(wire.send(begun(len(body)) + body).answer())["joined"] == 3 * LONG
        assert is_alive(wire)
    assert store.ids == names(3 * LONG)


def test_wrong_lines_are_named_by_where_they_stand(site: tuple[Listening, Store]) -> None:
    server, store = site
    sent = lines(LONG).splitlines(keepends=True)
    sent[3] = b" \r\n"
    sent[7], sent[LONG - 2], sent[LONG - 1] = b'{"id": "a", "label": 7}\n', b'{"id": \n', b"[1]"
    with server.connect() as wire:
        found = document(wire.send(begun(len(b"".join(sent))), *sent).answer())
    assert [(one["index"], one["line"]) for one in found["refused"]] == [
        (6, 8), (LONG - 3, LONG - 1), (LONG - 2, LONG)
    ]  # fmt: skip
    reasons = [one["reason"] for one in found["refused"]]
    assert reasons[0] == "label must be 0 or 1" and "got `array`" in reasons[2]
    assert (found["refused_total"], found["joined"], len(store.ids)) == (3, LONG - 4, LONG - 4)


def test_what_came_before_a_connection_broke_stays_and_sending_again_is_harmless(
    tmp_path: Path, site: tuple[Listening, Store], caplog: pytest.LogCaptureFixture
) -> None:
    server, store = site
    body = lines(3 * LONG)
    with server.connect() as wire:
        wire.send(begun(len(body)), body[: 2 * LONG * 79])
        until(lambda: len(store.ids) > LONG / 2, "the first part", 10)
    until(lambda: counted(tmp_path).get("joined"), "the end of what was taken", 10)
    kept = len(store.ids)
    assert PART_BYTES // 79 <= kept <= 2 * LONG and store.ids == names(kept)
    assert counted(tmp_path)["joined"] == kept and caplog.messages == []
    until(lambda: server.server.buffered_bytes == 0, "the memory of the body", 5)
    with server.connect() as wire:
        found = document(wire.send(begun(len(body)), body).answer())
    assert (found["joined"], found["doubled"]) == (3 * LONG, kept)


def test_memory_is_bounded_however_long_the_body_is(
    site: tuple[Listening, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """200,000 labels of 160 bytes: 32 MB."""
    server, store = site
    monkeypatch.setattr(upload, "PART_BYTES", 2**20)
    most = 0

    def before() -> None:
        nonlocal most
        most = max(most, resident_bytes())
        store.ids.clear()

    store.before = before
    piece = lines(1000).replace(b"}\n", b"}" + b" " * 81 + b"\n")
    with server.connect() as wire:
        began = resident_bytes()
        found = document(wire.send(begun(200 * len(piece)), *[piece] * 200).answer())
    assert len(piece) == 160_000 and found["joined"] == 200_000
    assert most - began < 16 * 2**20


def test_a_client_waits_while_the_store_is_behind(site: tuple[Listening, Store]) -> None:
    """It fills what the kernel holds and two parts, then it cannot send; that is not its fault, so it is not cut."""
    server, store = site
    server.server.limits = QUICK
    store.open.clear()
    piece, sent = lines(1000), 0
    with server.connect(timeout_s=1.0) as wire:
        wire.send(begun(1000 * len(piece)))
        with pytest.raises(TimeoutError):
            while sent < 1000:
                wire.socket.sendall(piece)
                sent += 1
        assert 2 * PART_BYTES <= server.server.buffered_bytes < 3 * PART_BYTES and store.ids == []
        assert sent * len(piece) < 2**25
        with server.connect() as other:
            assert is_alive(other)
        store.open.set()
        until(lambda: len(store.ids) > PART_BYTES // 79, "the labels", 10)
    got = list(store.ids)
    assert got == (names(1000) * (len(got) // 1000 + 1))[: len(got)]


def test_others_are_answered_between_any_two_batches(site: tuple[Listening, Store]) -> None:
    """No batch is taken before another client was answered since the last; else the upload would not end."""
    server, store = site
    events, body = list[str](), lines(3 * LONG)

    def before() -> None:
        events.append("batch")
        store.open.clear()

    store.before = before
    store.open.clear()
    with server.connect() as wire, server.connect() as other:
        wire.send(begun(len(body)), body)
        while len(store.ids) < 3 * LONG:
            assert is_alive(other)
            events.append("answer")
            store.waiting.clear()
            store.open.set()
            until(lambda: store.waiting.is_set() or len(store.ids) == 3 * LONG, "the next batch", 10)
        assert document(wire.answer())["joined"] == 3 * LONG
    assert events == ["answer", "batch"] * len(store.sizes) and len(store.sizes) > 3


@pytest.mark.parametrize("before", [0, PART_BYTES + 100], ids=["at once", "behind a part"])
@pytest.mark.parametrize("pause_s", [0.05, 5.0], ids=["drips", "stops"])
def test_who_sends_too_slowly_is_cut(tmp_path: Path, before: int, pause_s: float) -> None:
    with labelling(tmp_path, QUICK) as (server, store), server.connect(timeout_s=pause_s) as wire:
        body, start = lines(LONG), time.monotonic()
        wire.send(begun(2 * len(body)), body[:before])
        while time.monotonic() - start < 10:
            try:
                (only,) = wire.send(b" ").answers()
                break
            except TimeoutError:
                continue
    assert only.status == 408 and only.closes
    assert before // PART_BYTES * PART_BYTES // 79 <= len(store.ids) <= before // PART_BYTES * before // 79
    assert server.refused == {408: 1}


def test_a_body_that_goes_on_has_all_the_time_it_takes(tmp_path: Path) -> None:
    """Every part comes within what a whole body may take, all of them do not."""
    limits = Limits(body_idle_s=1.0, min_bytes_per_s=2.0**40)
    with labelling(tmp_path, limits) as (server, store), server.connect() as wire:
        body = lines(4 * LONG)
        wire.send(begun(len(body)))
        for at in range(0, len(body), PART_BYTES):
            wire.send(body[at : at + PART_BYTES], pause_s=0.25)
        assert document(wire.answer())["joined"] == 4 * LONG
    assert store.ids == names(4 * LONG)


def test_a_part_expands_to_what_a_body_may_have_and_no_more(tmp_path: Path) -> None:
    bomb = gzip.compress(lines(1000) + bytes(2**25))
    with labelling(tmp_path, max_body_bytes=2**19) as (server, store), server.connect() as wire:
        tracemalloc.start()
        answer = wire.send(begun(len(bomb), "Content-Encoding: gzip"), bomb).answer()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert answer is not None and answer.status == 413 and b"hold more than 524288" in answer.body
        assert most < 2**23 and store.ids == names(1000)
        assert is_alive(wire)  # the body was whole
        body = gzip.compress(lines(8 * LONG), 0)  # in all it has more than a part may
        assert document(wire.send(begun(len(body), "Content-Encoding: gzip"), body).answer())["joined"] == 8 * LONG


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda body: gzip.compress(body, 0)[:-4], b"cut short"),
        (lambda body: gzip.compress(body, 0) + b"a", b"trailing bytes"),
        (bytes, b"is not gzip"),
    ],
    ids=["cut", "longer", "plain"],
)
def test_a_broken_encoding_is_told(
    site: tuple[Listening, Store], broken: Callable[[bytes], bytes], said: bytes
) -> None:
    server, _ = site
    body = broken(lines(LONG))
    with server.connect() as wire:
        answer = wire.send(begun(len(body), "Content-Encoding: gzip"), body).answer()
    assert answer is not None and answer.status == 400 and said in answer.body


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (begun(2**40, url="/v1/models/unknown/labels"), 404),
        (begun(2**40, url="/v1/nothing/labels"), 404),
        (begun(2**40, "Content-Encoding: br"), 415),
    ],
    ids=["model", "path", "encoding"],
)
def test_what_is_refused_is_told_within_the_body_and_closed(
    site: tuple[Listening, Store], head: bytes, status: int
) -> None:
    server, store = site
    with server.connect() as wire:
        (only,) = wire.send(head, lines(LONG)).answers()
    assert only.status == status and only.closes and store.ids == []
    until(lambda: server.server.buffered_bytes == 0, "the memory of the body", 5)


def test_a_store_that_goes_away_is_told_within_the_body(tmp_path: Path, site: tuple[Listening, Store]) -> None:
    """While a part waits for it, and the client goes on to send."""
    server, store = site

    def before() -> None:
        if store.sizes:
            raise NotReady("the monitors are away")
        store.open.clear()

    store.before = before
    with server.connect() as wire:
        wire.send(begun(2**40), lines(4 * LONG))
        until(lambda: server.server.buffered_bytes >= 3 * PART_BYTES, "a part that waits", 5)
        store.open.set()
        wire.socket.sendall(bytes(2**24))
        (only,) = wire.answers()
    assert only.status == 503 and "retry-after" in only.headers
    assert store.ids == names(sum(store.sizes)) and counted(tmp_path)["joined"] == len(store.ids)


@pytest.mark.parametrize("bad", [b"xyz\r\n", b"3\r\nabcde"])
def test_framing_that_breaks_in_the_middle_ends_the_request(
    tmp_path: Path, site: tuple[Listening, Store], bad: bytes
) -> None:
    server, store = site
    body = lines(LONG)
    whole = chunks(body).removesuffix(b"0\r\n\r\n")
    with server.connect() as wire:
        wire.send(request(URL, NDJSON, "Transfer-Encoding: chunked", method="POST"), whole)
        until(lambda: len(store.ids) > 0, "the first part", 10)
        (only,) = wire.send(bad).answers()
    assert only.status == 400 and only.closes
    until(lambda: counted(tmp_path).get("joined"), "the end of what was taken", 5)
    assert counted(tmp_path)["joined"] == len(store.ids) and store.ids == names(len(store.ids))


def test_a_client_that_waits_to_be_told_is_told_to_go_on(site: tuple[Listening, Store]) -> None:
    server, _ = site
    body = lines(LONG)
    with server.connect() as wire:
        go_on = wire.send(begun(len(body), "Expect: 100-continue")).answer()
        assert go_on is not None and go_on.status == 100
        assert document(wire.send(body).answer())["joined"] == LONG


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Listening, Store]]:
    """Parts of some hundred bytes, so that few bytes make many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upload, "PART_BYTES", 300)
        with labelling(tmp_path_factory.mktemp("small")) as up:
            yield up


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.booleans()), min_size=1, max_size=4),
    st.lists(st.integers(0, 8000), max_size=12),
)
def test_bodies_are_taken_alike_wherever_they_are_cut(
    small: tuple[Listening, Store], asked: list[tuple[int, bool]], cuts: list[int]
) -> None:
    server, store = small
    store.ids.clear()
    sent = [
        request(URL, NDJSON, "Transfer-Encoding: chunked", method="POST") + chunks(lines(n))
        if chunked
        else begun(79 * n) + lines(n)
        for n, chunked in asked
    ]
    stream = b"".join(sent)
    at = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    with server.connect() as wire:
        wire.send(*(stream[a:b] for a, b in pairwise(at)), pause_s=0.001)
        assert [document(wire.answer())["joined"] for _ in asked] == [n for n, _ in asked]
        assert is_alive(wire)
    assert store.ids == [name for n, _ in asked for name in names(n)]
