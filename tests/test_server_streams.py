"""Streams of requests: cut anywhere they are answered alike, changed anywhere they are answered or refused."""

import time
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.limits import Limits
from tests.edge import Listening, listening
from tests.raw_http import chunks, request

LIMITS = Limits(head_s=0.3, body_idle_s=0.3, keep_alive_s=0.3, write_s=1.0)
ALLOWED = {200, 400, 408, 413, 431, 501, 505}


@pytest.fixture(scope="module")
def server() -> Iterator[Listening]:
    with listening(LIMITS) as up:
        yield up


@st.composite
def exchanges(draw: st.DrawFn) -> tuple[bytes, str, bytes]:
    """A request as bytes, its method, and the body of its answer."""
    target = draw(st.sampled_from(["/", "/a", "/later", "/a/b"]))
    method = draw(st.sampled_from(["GET", "POST", "PUT", "HEAD"]))
    parts = draw(st.lists(st.binary(min_size=1, max_size=300), max_size=3))
    extra = draw(st.lists(st.sampled_from(["X: y", "Cookie: a=b", "Accept: */*"]), max_size=3))
    if draw(st.booleans()):
        sent = request(target, "Transfer-Encoding: chunked", *extra, method=method) + chunks(*parts)
    else:
        sent = request(target, *extra, method=method, body=b"".join(parts))
    return sent, method, f"{method} {target}\n".encode() + b"".join(parts)


@settings(max_examples=60, deadline=None)
@given(st.lists(exchanges(), min_size=1, max_size=6), st.lists(st.integers(0, 3000), max_size=12))
def test_a_stream_is_answered_alike_wherever_it_is_cut(
    server: Listening, asked: list[tuple[bytes, str, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(sent for sent, _, _ in asked)
    at = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    with server.connect() as wire:
        wire.send(*(stream[a:b] for a, b in pairwise(at)), pause_s=0.001)
        for _, method, expected in asked:
            answer = wire.answer(method)
            assert answer is not None and answer.status == 200
            assert answer.headers["content-length"] == str(len(expected))
            assert answer.body == (b"" if method == "HEAD" else expected)


SPLICED = st.binary(max_size=6) | st.sampled_from(
    [b"\r\n", b"\n", b"\r", b"\0", b" ", b"Content-Length: 9\r\n", b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n"]
)


@st.composite
def changed(draw: st.DrawFn) -> bytes:
    """A stream some of whose bytes are gone, others put in."""
    sent = [one for one, method, _ in draw(st.lists(exchanges(), min_size=1, max_size=3)) if method != "HEAD"]
    stream = b"".join(sent) or request()
    for _ in range(draw(st.integers(1, 3))):
        at, size = draw(st.integers(0, len(stream))), draw(st.integers(0, 5))
        stream = stream[:at] + draw(SPLICED) + stream[at + size :]
    return stream


@settings(max_examples=12, deadline=None)
@given(st.lists(changed(), min_size=20, max_size=20))
def test_a_stream_that_was_changed_is_answered_or_refused_in_time(server: Listening, streams: list[bytes]) -> None:
    wires = [server.connect(timeout_s=5).send(stream) for stream in streams]
    start = time.monotonic()
    for wire, stream in zip(wires, streams, strict=True):
        with wire:
            statuses = [answer.status for answer in wire.answers()]
        assert set(statuses) <= ALLOWED, stream
        assert all(status == 200 for status in statuses[:-1]), stream  # the first refusal is the last answer
    assert time.monotonic() - start < 5
    with server.connect() as wire:
        (alive,) = wire.send(request("/a", "Connection: close")).answers()
        assert alive.status == 200
