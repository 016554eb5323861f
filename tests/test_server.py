"""What a connection does with requests that are right: answers in order, kept alive or closed, bodies whole."""

import time
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256

import pytest

from serving.limits import Limits
from tests.edge import Listening, listening
from tests.gateway import until
from tests.raw_http import Answer, chunks, request

QUICK = Limits(head_s=0.5, body_idle_s=0.5, keep_alive_s=0.5, write_s=0.5, max_body_bytes=2**20)


@pytest.fixture(scope="module")
def server() -> Iterator[Listening]:
    with listening() as up:
        yield up


def echoed(answer: Answer | None) -> bytes:
    assert answer is not None and answer.status == 200
    return answer.body


@pytest.mark.parametrize("target", ["/a", "/later"])
def test_a_connection_carries_one_request_after_another(server: Listening, target: str) -> None:
    with server.connect() as wire:
        for k in range(5):
            body = b"%d" % k
            wire.send(request(target, method="POST", body=body))
            assert echoed(wire.answer()) == f"POST {target}\n".encode() + body


@pytest.mark.parametrize("option", ["close", "Close", "keep-alive, close", "x , CLOSE"])
def test_a_client_that_wants_to_close_is_told_so_and_closed(server: Listening, option: str) -> None:
    with server.connect() as wire:
        wire.send(request("/a", f"Connection: {option}"), request("/b"))
        (only,) = wire.answers()
    assert only.status == 200 and only.closes


def test_http_1_0_closes_unless_it_asks_to_be_kept(server: Listening) -> None:
    with server.connect() as wire:
        (only,) = wire.send(request("/a", version="1.0")).answers()
    assert only.closes and only.body == b"GET /a\n"
    with server.connect() as wire:
        wire.send(request("/a", "Connection: Keep-Alive", version="1.0"))
        kept = wire.answer()
        assert kept is not None and kept.headers["connection"] == "keep-alive"
        assert echoed(wire.send(request("/b")).answer()) == b"GET /b\n"


def test_head_is_get_without_the_body(server: Listening) -> None:
    with server.connect() as wire:
        wire.send(request("/a", method="HEAD"), request("/b"))
        headers = wire.answer("HEAD")
        assert headers is not None and headers.headers["content-length"] == str(len("HEAD /a\n"))
        assert echoed(wire.answer()) == b"GET /b\n"


def test_a_client_that_waits_is_told_to_go_on(server: Listening) -> None:
    with server.connect() as wire:
        head, body = request("/a", "Expect: 100-continue", "Content-Length: 3", method="POST"), b"abc"
        go_on = wire.send(head).answer()
        assert go_on is not None and go_on.status == 100
        assert echoed(wire.send(body).answer()) == b"POST /a\nabc"
        assert echoed(wire.send(head + body).answer()) == b"POST /a\nabc"  # it did not wait


def test_who_waits_with_too_long_a_body_is_refused_instead(server: Listening) -> None:
    length = server.server.limits.max_body_bytes + 1
    with server.connect() as wire:
        wire.send(request("/a", "Expect: 100-continue", f"Content-Length: {length}", method="POST"))
        assert [answer.status for answer in wire.answers()] == [413]


def test_requests_sent_ahead_are_answered_in_their_order(server: Listening) -> None:
    sent = [(f"/later/{k}" if k % 3 else f"/{k}", b"x" * (k % 7) * 1000) for k in range(60)]
    with server.connect() as wire:
        wire.send(b"".join(request(target, method="POST", body=body) for target, body in sent))
        got = [echoed(wire.answer()) for _ in sent]
    assert got == [f"POST {target}\n".encode() + body for target, body in sent]


def test_thousands_of_requests_in_one_piece_are_all_answered(server: Listening) -> None:
    with server.connect() as wire:
        wire.send(b"".join(request(f"/{k}") for k in range(5000)))
        assert [echoed(wire.answer()) for _ in range(5000)] == [f"GET /{k}\n".encode() for k in range(5000)]


@pytest.mark.parametrize("size", [0, 1, 65_536, 262_144, 8 * 2**20])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_comes_whole_however_long_it_is(server: Listening, size: int, chunked: bool) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    plain = request("/a", method="POST", body=body)
    parts = [body[at : at + 100_003] for at in range(0, size, 100_003)]
    in_chunks = request("/a", "Transfer-Encoding: Chunked", method="POST") + chunks(*parts, trailers=b"x-sum: 1\r\n")
    with server.connect() as wire:
        wire.send(in_chunks if chunked else plain, request("/b"))
        assert sha256(echoed(wire.answer())).digest() == sha256(b"POST /a\n" + body).digest()
        assert echoed(wire.answer()) == b"GET /b\n"
    until(lambda: server.server.buffered_bytes == 0, "the memory of the body", 5)


def test_a_line_before_a_request_is_no_harm(server: Listening) -> None:
    with server.connect() as wire:
        wire.send(b"\r\n" + request("/a"), b"\r\n" + request("/b"))
        assert [echoed(wire.answer()), echoed(wire.answer())] == [b"GET /a\n", b"GET /b\n"]


def test_every_answer_has_a_date_an_id_and_its_length(server: Listening) -> None:
    with server.connect() as wire:
        answer = wire.send(request("/a")).answer()
        assert answer is not None and {"date", "x-request-id", "content-length", "content-type"} == set(answer.headers)


def test_a_client_that_leaves_is_not_computed_for(server: Listening) -> None:
    before = server.echo.left
    with server.connect() as wire:
        wire.send(request("/never"))
        until(lambda: server.echo.asked[-1:] == [("GET", "/never", b"")], "the request", 5)
    until(lambda: server.echo.left == before + 1, "the news", 5)


def test_a_connection_in_use_is_not_idle() -> None:
    """Short requests, between which nobody looks."""
    with listening(QUICK) as server, server.connect() as wire:
        end = time.monotonic() + 4 * QUICK.keep_alive_s
        while time.monotonic() < end:
            assert echoed(wire.send(request("/a")).answer()) == b"GET /a\n"
            time.sleep(0.02)


def test_a_head_that_begins_behind_an_answer_has_its_time() -> None:
    """It came with the request before it, on a connection that is older than a head may be."""
    with listening(replace(QUICK, keep_alive_s=60, head_s=2.0)) as server, server.connect() as wire:
        time.sleep(2.2)
        begun = request("/c")[:10]
        for _ in range(20):  # a sweep finds it in some of them
            wire.send(request("/b") + begun)
            assert echoed(wire.answer()) == b"GET /b\n"
            time.sleep(0.03)
            wire.send(request("/c")[10:])
            assert echoed(wire.answer()) == b"GET /c\n"


def test_a_drain_answers_what_was_asked_and_takes_nothing_new() -> None:
    with listening() as server, server.connect() as asking, server.connect() as sending, server.connect() as idle:
        asking.send(request("/held"), request("/b"))
        until(lambda: bool(server.echo.held), "the request", 5)
        whole = request("/a", method="POST", body=bytes(2**20))
        sending.send(whole[:-5])
        until(lambda: server.server.buffered_bytes > 0, "the beginning of a body", 5)
        server.drain(5.0)
        assert idle.answers() == []
        server.let_go()
        (only,) = asking.answers()
        assert only.body == b"GET /held\n" and only.closes
        with pytest.raises(ConnectionRefusedError):
            server.connect()
        (only,) = sending.send(whole[-5:]).answers()
        assert only.status == 200 and only.closes


def test_a_client_that_asks_during_a_drain_is_answered_and_told_that_it_was_the_last_time() -> None:
    with listening(replace(QUICK, keep_alive_s=60, farewell_s=1.0)) as server:
        with server.connect() as kept, server.connect() as silent:
            for wire in (kept, silent):
                assert echoed(wire.send(request("/a")).answer()) == b"GET /a\n"
            began = time.monotonic()
            server.drain(20.0)
            until(lambda: server.server.draining, "the drain", 5)
            answer = kept.send(request("/b")).answer()
            assert echoed(answer) == b"GET /b\n" and answer is not None and answer.closes
            assert silent.answers() == [] and 0.7 < time.monotonic() - began < 5.0  # its clock is coarse
