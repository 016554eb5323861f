"""HTTP beneath the protocol: one request or a refusal, never two readings; connections kept, closed, sent ahead."""

import json

import pytest

from tests.ambiguous import CHUNKS, HEADS
from tests.conformance.client import Server, outputs, x
from tests.raw_http import Answer, Wire, chunks, request

BODY = json.dumps({"inputs": [x()]}).encode()
SECOND = request("/v2/health/live")  # must never be read as a request


def infer(server: Server, *lines: str, body: bytes = BODY, version: str = "1.1") -> bytes:
    return request(server.path("/infer"), *lines, method="POST", body=body, version=version)


def predicted(server: Server, answer: Answer | None) -> None:
    assert answer is not None and answer.status == 200
    assert outputs(json.loads(answer.body)) == server.predict()


def refused_once(server: Server, wire: Wire, status: int) -> None:
    """One refusal, then the connection is closed; of other servers, without a word or with another status."""
    with wire:
        statuses = [answer.status for answer in wire.answers()]
    if server.name == "gaugeway":
        assert statuses == [status]
    else:
        assert len(statuses) < 2 and all(400 <= said < 600 for said in statuses)


@pytest.mark.parametrize(("status", "text"), HEADS, ids=lambda one: repr(one)[:60])
def test_a_head_that_could_be_read_in_two_ways_is_refused(server: Server, status: int, text: str) -> None:
    """What follows it is never a request of its own: neither as a body in chunks, nor without one."""
    refused_once(server, server.wire().send(text.encode("latin-1") + b"\r\n\r\n0\r\n\r\n" + SECOND), status)


@pytest.mark.parametrize("sent", CHUNKS, ids=lambda one: repr(one)[:40])
def test_chunks_that_could_be_read_in_two_ways_are_refused(server: Server, sent: bytes) -> None:
    head = request(server.path("/infer"), "Transfer-Encoding: chunked", method="POST")
    refused_once(server, server.wire().send(head + sent + SECOND), 400)


@pytest.mark.parametrize(
    "lines",
    [[], [f"x-{i}: {i}" for i in range(90)], ["x-long: " + "a" * 7000], ["X:"], ["Accept: \xfcber"]],
    ids=["plain", "many", "long", "empty", "not ASCII"],
)
def test_plain_http_is_taken(server: Server, lines: list[str]) -> None:
    with server.wire() as wire:
        predicted(server, wire.send(infer(server, *lines)).answer())


def test_a_connection_is_kept_until_somebody_closes_it(server: Server) -> None:
    with server.wire() as wire:
        for _ in range(3):
            predicted(server, wire.send(infer(server)).answer())
        (last,) = wire.send(infer(server, "Connection: close")).answers()
        predicted(server, last)


def test_http_1_0_is_spoken(server: Server) -> None:
    with server.wire() as wire:
        (only,) = wire.send(infer(server, version="1.0")).answers()
    predicted(server, only)


def test_an_error_of_a_whole_request_keeps_the_connection(server: Server) -> None:
    with server.wire() as wire:
        for body, status in ((b"{", 400), (BODY, 200), (b"[]", 400), (BODY, 200)):
            answer = wire.send(infer(server, body=body)).answer()
            assert answer is not None and answer.status == status


def test_requests_sent_ahead_are_answered_in_order(server: Server) -> None:
    rows = [[[float(k), 0, 0, 0]] for k in range(40)]
    asked = [json.dumps({"id": str(k), "inputs": [x(row)]}).encode() for k, row in enumerate(rows)]
    with server.wire() as wire:
        wire.send(b"".join(part for body in asked for part in (infer(server, body=body), SECOND)))
        for k in range(40):
            answer, live = wire.answer(), wire.answer()
            assert answer is not None and json.loads(answer.body)["id"] == str(k)
            assert live is not None and json.loads(live.body) == {"live": True}


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_chunks_of_any_size_are_one_body(server: Server, size: int) -> None:
    head = request(server.path("/infer"), "Transfer-Encoding: chunked", method="POST")
    parts = [BODY[at : at + size] for at in range(0, len(BODY), size)]
    with server.wire() as wire:
        wire.send(head + chunks(*parts, trailers=b"x-checksum: 0\r\n") + SECOND)
        predicted(server, wire.answer())
        live = wire.answer()
        assert live is not None and live.status == 200


def test_who_waits_to_be_told_to_go_on_is_told(server: Server) -> None:
    head = request(server.path("/infer"), "Expect: 100-continue", f"Content-Length: {len(BODY)}", method="POST")
    with server.wire() as wire:
        told = wire.send(head).answer()
        assert told is not None and told.status == 100
        predicted(server, wire.send(BODY).answer())


def test_head_has_the_headers_of_get_and_no_body(server: Server) -> None:
    with server.wire() as wire:
        wire.send(request("/v2", method="HEAD"), request("/v2"))
        headers, whole = wire.answer("HEAD"), wire.answer()
        assert headers is not None and whole is not None and whole.status == 200
        assert headers.headers["content-length"] == str(len(whole.body))
