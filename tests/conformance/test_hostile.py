"""Requests that mean harm: each gets its status, the server lives on, and its memory does not grow with them."""

import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conformance.client import Server, x
from tests.gateway import Gateway, until
from tests.integration.calls import sample
from tests.raw_http import Wire, chunks, request

MIB = 2**20
Build = Callable[[Server], bytes]


def body(text: bytes | str, *lines: str) -> Build:
    sent = text.encode() if isinstance(text, str) else text
    return lambda server: request(server.path("/infer"), *lines, method="POST", body=sent)


def tensor(**changes: object) -> Build:
    return body(json.dumps({"inputs": [x(**changes)]}))


def data(text: bytes) -> Build:
    """An input whose data are these bytes."""
    whole = json.dumps({"inputs": [x(data="@")]}).encode()
    return body(whole.replace(b'"@"', text))


def identified(text: bytes) -> Build:
    return body(json.dumps({"id": "@", "inputs": [x()]}).encode().replace(b"@", text))


def binary(length: str, text: bytes) -> Build:
    return body(text, f"Inference-Header-Content-Length: {length}")


def head(*lines: str, after: bytes = b"") -> Build:
    return lambda server: request(server.path("/infer"), *lines, method="POST") + after


def name(target: str) -> Build:
    return lambda server: request(target)


FLOAT = "1" + "0" * 5000
BINARY = json.dumps({"inputs": [x(data=..., parameters={"binary_data_size": 32})]}).encode()
ENDLESS = b"".join(b"100000\r\n" + bytes(MIB) + b"\r\n" for _ in range(65))

TABLE: dict[str, tuple[int, Build]] = {
    "header too long": (431, head("x: " + "a" * 9000)),
    "headers too many": (431, head(*(f"x-{i}: y" for i in range(200)))),
    "headers too large": (431, head(*(f"x-{i}: " + "a" * 4000 for i in range(50)))),
    "header without end": (431, lambda server: b"GET / HTTP/1.1\r\nx: " + b"a" * 100_000),
    "body too long": (413, head(f"Content-Length: {64 * MIB + 1}")),
    "chunks without end": (413, head("Transfer-Encoding: chunked", after=ENDLESS)),
    "compressed bomb": (413, body(gzip.compress(bytes(65 * MIB), 9), "Content-Encoding: gzip")),
    "deep": (400, data(b"[" * 100_000 + b"]" * 100_000)),
    "deep and open": (400, body(b'{"inputs":' + b"[" * 100_000)),
    "NaN": (400, data(b"[[NaN, 1, 1, 1], [1, 1, 1, 1]]")),
    "1e999": (400, data(b"[[1e999, 1, 1, 1], [1, 1, 1, 1]]")),
    "5,000 digits": (400, data(b"[[" + FLOAT.encode() + b", 1, 1, 1], [1, 1, 1, 1]]")),
    "invalid UTF-8": (400, identified(b"\xff\xfe")),
    "lone surrogate": (400, identified(b"\\ud800")),
    "trailing bytes": (400, body(json.dumps({"inputs": [x()]}) + "x")),
    "wrong datatype": (400, tensor(datatype="FP23")),
    "negative shape": (400, tensor(shape=[-2, -4])),
    "overflowing shape": (400, tensor(shape=[2**32, 2**32])),
    "huge shape": (400, tensor(shape=[2**62, 4])),
    "count that does not match": (400, tensor(shape=[3, 4])),
    "input twice": (400, body(json.dumps({"inputs": [x(), x()]}))),
    "key twice": (400, body(json.dumps({"inputs": [x()]})[:-1] + ', "inputs": 1}')),
    "binary header past the end": (400, binary("9999", BINARY + bytes(32))),
    "binary header negative": (400, binary("-1", BINARY + bytes(32))),
    "binary data short": (400, binary(str(len(BINARY)), BINARY + bytes(31))),
    "binary data left over": (400, binary(str(len(BINARY)), BINARY + bytes(33))),
    "two lengths": (400, head("Content-Length: 1", "Content-Length: 2", after=b"ab")),
    "both lengths": (400, head("Content-Length: 5", "Transfer-Encoding: chunked", after=b"0\r\n\r\n")),
    "two hosts": (400, head("Host: other")),
    "chunk size": (400, head("Transfer-Encoding: chunked", after=b"z\r\n")),
    "..": (404, name("/v2/models/../../etc/passwd")),
    "%2e%2e": (404, name("/v2/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd/ready")),
    "%00": (404, name("/v2/models/a%00b/ready")),
    "control characters": (404, name("/v2/models/a%0d%0ab%1b/ready")),
    "raw control characters": (400, name("/v2/models/a\x01b/ready")),
    "id with CR and LF": (400, head("x-request-id: a\r\n b")),
}
SLOW = {
    "head": b"POST / HTTP/1.1\r\nHost: h\r\nx: ",
    "body": request("/", "Content-Length: 100", method="POST") + b"abc",
    "chunks": request("/", "Transfer-Encoding: chunked", method="POST") + b"5\r\nab",
}


@pytest.mark.parametrize("what", TABLE)
def test_each_gets_its_status(server: Server, what: str) -> None:
    status, build = TABLE[what]
    with server.wire() as wire:
        answer = wire.send(build(server)).answer()
    assert answer is not None and answer.status == status, answer
    assert answer.headers["content-type"] == "application/json" and json.loads(answer.body)["error"]
    assert len(answer.body) < 2000 and b"Traceback" not in answer.body


def test_the_slow_are_timed_out(server: Server) -> None:
    start = time.monotonic()
    wires = {what: server.wire().send(sent) for what, sent in SLOW.items()}
    for what, wire in wires.items():
        with wire:
            assert [answer.status for answer in wire.answers()] == [408], what
        assert 4 < time.monotonic() - start < 8, what


@pytest.fixture
def worker(request: pytest.FixtureRequest) -> int:
    """The process that answers; known only of the session's own gateway."""
    if request.config.getoption("--base-url", None):
        pytest.skip("whose memory is whose is known only of our own gateway")
    gateway: Gateway = request.getfixturevalue("gateway")
    return gateway.process_id("worker-0")


def memory_bytes(process: int) -> int:
    """Private memory; the pages and rings that it maps are files."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024


EXPENSIVE = {"chunks without end", "compressed bomb"}


@pytest.mark.parametrize("what", sorted(TABLE, key=lambda what: what in EXPENSIVE))
def test_memory_does_not_grow_with_them(server: Server, worker: int, what: str) -> None:
    sent, repeats = TABLE[what][1](server), 10 if what in EXPENSIVE else 100
    _settles(worker, lambda: _repeat(server, sent, repeats))


def test_memory_does_not_grow_with_the_slow(server: Server, worker: int) -> None:
    _settles(worker, lambda: _slow(server))


def _settles(worker: int, send: Callable[[], None]) -> None:
    """A leak grows in every round; buffers, caches and the allocator's own pools grow in the first ones only."""
    grown: list[int] = []
    while len(grown) < 6 and (not grown or grown[-1] >= MIB):
        before = memory_bytes(worker)
        send()
        grown.append(memory_bytes(worker) - before)
    assert grown[-1] < MIB, grown


def _repeat(server: Server, sent: bytes, times: int) -> None:
    for _ in range(times):
        with server.wire() as wire:
            assert wire.send(sent).answer() is not None


def _slow(server: Server) -> None:
    wires = [server.wire().send(sent) for sent in SLOW.values() for _ in range(100)]
    for wire in wires:
        with wire:
            assert [answer.status for answer in wire.answers()] == [408]


def test_an_id_of_many_lines_is_one_line_in_header_and_log(server: Server, worker: int, gateway: Gateway) -> None:
    forged = "1970-01-01 00:00:00,000 INFO forged"
    sent = json.dumps({"id": f"a\r\nx-forged: 1\r\n\r\n{forged}", "inputs": [x()]}).encode()
    with server.wire() as wire:
        answer = wire.send(request(server.path("/infer"), method="POST", body=sent)).answer()
    assert answer is not None and answer.status == 200 and "x-forged" not in answer.headers
    logs = [line for path in gateway.data.rglob("*.log") for line in path.read_text(errors="replace").splitlines()]
    assert [line for line in logs if line.startswith(forged)] == []


def test_models_that_do_not_exist_are_one_label(server: Server, worker: int, gateway: Gateway) -> None:
    for k in range(20):
        assert server.http.post(f"/v2/models/no-such-{k}/infer", content=b"{}").status_code == 404
    metrics = gateway.metrics()
    assert "no-such" not in metrics and 'model="_unknown"' in metrics


def test_what_never_became_a_request_is_counted(server: Server, worker: int, gateway: Gateway) -> None:
    before = _counted(gateway, 431)
    _repeat(server, TABLE["header too long"][1](server), 3)
    until(lambda: _counted(gateway, 431) == before + 3, "the count", 5)


def _counted(gateway: Gateway, status: int) -> float:
    return sample(gateway.metrics(), "gaugeway_requests_total", model="_unknown", code=str(status))


VALID: list[Build] = [
    lambda server: request(server.path("/infer"), method="POST", body=json.dumps({"inputs": [x()]}).encode()),
    lambda server: (
        request(server.path("/infer"), "Transfer-Encoding: chunked", method="POST")
        + chunks(json.dumps({"inputs": [x()]}).encode())
    ),
    lambda server: request("/v2/health/live"),
]
EDITS = st.lists(st.tuples(st.integers(0, 600), st.integers(0, 8), st.binary(max_size=8)), min_size=1, max_size=4)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(VALID), min_size=1, max_size=3), EDITS)
def test_no_change_of_bytes_makes_an_internal_error(
    server: Server, asked: list[Build], edits: list[tuple[int, int, bytes]]
) -> None:
    stream = b"".join(build(server) for build in asked)
    for at, gone, put in edits:
        stream = stream[:at] + put + stream[at + gone :]
    with server.wire(timeout_s=0.1) as wire:
        statuses = _until_quiet(wire.send(stream))
        wire.socket.settimeout(5)
        wire.half_close().answers()  # it ends
    assert set(statuses) <= {200, 400, 404, 405, 408, 413, 415, 431, 501, 505}, stream


def _until_quiet(wire: Wire) -> list[int]:
    found = list[int]()
    try:
        while answer := wire.answer():
            found.append(answer.status)
    except TimeoutError:  # it waits for more of the request
        pass
    return found
