"""R21 depth, R22 size, R29 a client that leaves, R30 deadlines."""

import gzip
import json
from select import select

import pytest

from tests.conformance.client import Server, ok, refused, x

LIMIT_BYTES = 64 * 2**20  # the default of Gaugeway and of Triton


@pytest.mark.parametrize("depth", [101, 1_000, 100_000])
@pytest.mark.parametrize("brackets", ["[]", "{}"])
def test_r21_deep_json_is_refused(server: Server, brackets: str, depth: int) -> None:
    opening = "[" if brackets == "[]" else '{"a":'
    deep = opening * depth + "1" + brackets[1] * depth
    refused(server.post(json.dumps({"inputs": [x()], "extra": "@"}).replace('"@"', deep).encode()), 400)
    refused(server.post(json.dumps({"inputs": [x(data="@")]}).replace('"@"', deep).encode()), 400)


def test_r21_json_that_is_not_deep_is_taken(server: Server) -> None:
    deep = "[" * 90 + "]" * 90
    ok(server.post(json.dumps({"inputs": [x()], "extra": "@"}).replace('"@"', deep).encode()))
    ok(server.infer(x(), id="[" * 1000))


def test_r22_a_long_body_is_refused_before_it_is_sent(server: Server) -> None:
    head = f"POST {server.path('/infer')} HTTP/1.1\r\nHost: h\r\nContent-Length: {LIMIT_BYTES + 1}\r\n\r\n"
    assert server.send(head.encode()).split(b" ", 2)[1] == b"413"


def test_r22_a_body_that_expands_beyond_the_limit_is_refused(server: Server) -> None:
    bomb = gzip.compress(bytes(LIMIT_BYTES + 1), 9)
    assert len(bomb) < 100_000
    refused(server.post(bomb, content_encoding="gzip"), 413)


def test_r22_a_body_without_end_is_refused(server: Server) -> None:
    """Chunks are sent until the server has had enough, which must be soon after the limit."""
    head = f"POST {server.path('/infer')} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk, sent_bytes, answer = b"100000\r\n" + b" " * 2**20 + b"\r\n", 0, b""
    with server.connect() as connection:
        connection.sendall(head.encode())
        while not answer and sent_bytes < 2 * LIMIT_BYTES:
            try:
                connection.sendall(chunk)
            except ConnectionError:
                break
            sent_bytes += 2**20
            if select([connection], [], [], 0)[0]:
                answer = connection.recv(65536)
    assert sent_bytes <= LIMIT_BYTES + 2**24  # what the buffers on the way hold
    assert not answer or answer.split(b" ", 2)[1] == b"413"


def test_r22_too_many_tensors_are_refused(server: Server) -> None:
    refused(server.infer(*(x(name=f"x{i}") for i in range(1000))), 400)
    refused(server.infer(x(), outputs=[{"name": f"y{i}"} for i in range(1000)]), 400)


def test_r29_clients_that_leave_harm_nobody(server: Server) -> None:
    body = json.dumps({"inputs": [x()]}).encode()
    head = f"POST {server.path('/infer')} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for part in (head[:20], head, head + body[:10], head + body):
        for _ in range(20):
            server.send(part, read=False)
    assert server.predict()["label"]


def test_r30_deadlines(server: Server) -> None:
    if server.name != "gaugeway":
        pytest.skip("the protocol has no deadline; this header is Gaugeway's")
    body = json.dumps({"inputs": [x()]}).encode()
    refused(server.post(body, x_gaugeway_deadline_s="0.0000001"), 504)
    ok(server.post(body, x_gaugeway_deadline_s="10"))
    for wrong in ("-1", "0", "soon", "nan", "inf", ""):
        refused(server.post(body, x_gaugeway_deadline_s=wrong), 400)
