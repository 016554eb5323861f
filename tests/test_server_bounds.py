"""What a client may take: time, memory, connections; past a bound it gets its status and is closed."""

import resource
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from serving.limits import Limits
from serving.server import LINGER_S
from tests.edge import Listening, listening
from tests.gateway import until
from tests.raw_http import Wire, chunks, request

QUICK = Limits(head_s=0.5, body_idle_s=0.5, keep_alive_s=0.5, write_s=0.5, max_body_bytes=2**20)
SLACK_S = 1.0  # a sweep, and a machine that has other work
POST = request("/a", "Content-Length: 100", method="POST")
CHUNKED = request("/a", "Transfer-Encoding: chunked", method="POST")


@pytest.fixture(scope="module")
def server() -> Iterator[Listening]:
    with listening(QUICK) as up:
        yield up


def ended(wire: Wire) -> tuple[list[int], float]:
    """The statuses until the server closes, and when that was."""
    start = time.monotonic()
    return [answer.status for answer in wire.answers()], time.monotonic() - start


@pytest.mark.parametrize(
    "part",
    [b"G", request()[:20], request()[:-2], POST, POST + b"abc", CHUNKED, CHUNKED + b"5\r\nab", CHUNKED + b"0\r\n"],
    ids=repr,
)
def test_who_stops_in_the_middle_is_timed_out(server: Listening, part: bytes) -> None:
    with server.connect() as wire:
        statuses, took_s = ended(wire.send(part))
    assert statuses == [408] and 0.4 < took_s < 0.5 + SLACK_S


@pytest.mark.parametrize("begin", [b"GET / HTTP/1.1\r\nx: ", POST, CHUNKED], ids=["head", "body", "chunks"])
def test_who_sends_a_byte_now_and_then_is_timed_out(server: Listening, begin: bytes) -> None:
    """Each byte comes in time, the whole does not."""
    piece = b"1\r\na\r\n" if begin is CHUNKED else b"a"
    with server.connect(timeout_s=0.05) as wire:
        start = time.monotonic()
        wire.send(begin)
        while time.monotonic() - start < 5:
            try:
                (only,) = wire.send(piece).answers()
                break
            except TimeoutError:
                continue
    assert only.status == 408 and only.closes
    assert time.monotonic() - start < 0.5 + SLACK_S


def test_a_slow_body_that_keeps_a_rate_is_taken() -> None:
    with listening(replace(QUICK, min_bytes_per_s=100)) as server, server.connect() as wire:
        wire.send(POST, *[b"12345"] * 20, pause_s=0.05)  # 100 bytes/s, for twice the idle time
        answer = wire.answer()
        assert answer is not None and answer.status == 200


def test_an_idle_connection_is_closed_without_a_word(server: Listening) -> None:
    with server.connect() as fresh, server.connect() as used:
        assert used.send(request("/a")).answer()
        statuses, took_s = ended(used)
        assert statuses == [] and 0.2 < took_s < 0.5 + SLACK_S
        assert ended(fresh)[0] == []


@pytest.mark.parametrize("over", [0, 1])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_ends_at_its_bound(server: Listening, over: int, chunked: bool) -> None:
    body = bytes(QUICK.max_body_bytes + over)
    sent = CHUNKED + chunks(body[:1000], body[1000:]) if chunked else request("/a", method="POST", body=body)
    with server.connect() as wire:
        statuses, _ = ended(wire.send(sent, request("/b", "Connection: close")))
    assert statuses == ([413] if over else [200, 200])


def test_a_declared_length_is_refused_before_the_body_comes(server: Listening) -> None:
    with server.connect() as wire:
        statuses, took_s = ended(wire.send(request("/a", f"Content-Length: {2**40}", method="POST")))
    assert statuses == [413] and took_s < 0.5 + SLACK_S


def test_chunks_without_end_are_refused_and_dropped(server: Listening) -> None:
    """The client never reads and never stops until it is closed."""
    with server.connect() as wire:
        wire.send(CHUNKED)
        start = time.monotonic()
        with pytest.raises(ConnectionError):
            while time.monotonic() - start < 10:
                wire.socket.sendall(b"8000\r\n" + bytes(0x8000) + b"\r\n")
    until(lambda: server.server.buffered_bytes == 0, "the memory", 5)


def test_memory_of_all_bodies_is_bounded_and_given_back() -> None:
    with listening(replace(QUICK, max_buffered_bytes=2**20, body_idle_s=2.0)) as server:
        half = request("/a", method="POST", body=bytes(600_000))[:-1]
        with server.connect() as first, server.connect() as second:
            first.send(half)
            until(lambda: server.server.buffered_bytes > 500_000, "the first body", 5)
            assert ended(second.send(half))[0] == [503]
            answer = first.send(b"\0").answer()
            assert answer is not None and answer.status == 200
        until(lambda: server.server.buffered_bytes == 0, "the memory", 5)


def test_lengths_that_are_only_declared_take_no_memory_from_others() -> None:
    """Whoever declares much and sends nothing must not use up what is there for those who send."""
    with listening(replace(QUICK, max_buffered_bytes=2**21, body_idle_s=5.0)) as server:
        empty = [server.connect().send(request("/a", f"Content-Length: {2**20}", method="POST")) for _ in range(20)]
        until(lambda: len(server.server.connections) == 20, "the connections", 5)
        with server.connect() as wire:
            whole = request("/a", method="POST", body=bytes(600_000))
            answer = wire.send(whole[:-1], whole[-1:]).answer()
            assert answer is not None and answer.status == 200
        for one in empty:
            one.close()


def test_connections_beyond_the_bound_are_refused_and_those_within_live_on() -> None:
    with listening(replace(QUICK, keep_alive_s=60, max_connections=5)) as server:
        within = [server.connect() for _ in range(5)]
        until(lambda: len(server.server.connections) == 5, "the connections", 5)
        for _ in range(30):
            with server.connect() as beyond:
                statuses, took_s = ended(beyond)
            assert statuses in ([503], []) and took_s < SLACK_S
        for wire in within:
            answer = wire.send(request("/a")).answer()
            assert answer is not None and answer.status == 200
        within.pop().close()
        until(lambda: len(server.server.connections) == 4, "room", 5)
        with server.connect() as wire:
            answer = wire.send(request("/a")).answer()
            assert answer is not None and answer.status == 200
        for wire in within:
            wire.close()


@pytest.mark.parametrize(("head_s", "let_in"), [(0.5, True), (60.0, False)])
def test_slow_clients_keep_others_out_only_where_time_has_no_bound(head_s: float, let_in: bool) -> None:
    """The second is the control: the same clients, and heads may take a minute."""
    with listening(replace(QUICK, head_s=head_s, max_connections=5)) as server:
        slow = [server.connect().send(b"GET / HTTP/1.1\r\nx: ") for _ in range(5)]
        until(lambda: len(server.server.connections) == 5, "the connections", 5)
        time.sleep(QUICK.head_s + LINGER_S + SLACK_S)
        with server.connect() as wire:
            answer = wire.send(request("/a")).answer()
        for one in slow:
            one.close()
    assert (answer is not None and answer.status == 200) == let_in


def test_refused_connections_hold_no_descriptor() -> None:
    """Clients that do not close either: or a flood of them would use up what the bound keeps back."""
    with listening(replace(QUICK, max_connections=5)) as server:
        flood = [server.connect() for _ in range(100)]
        until(lambda: server.refused[503] >= 95, "refusals", 5)
        until(lambda: len(server.server.connections) <= 5, "their end", 0.5)
        for wire in flood:
            wire.close()


def test_who_does_not_read_is_written_no_more_than_one_answer_and_closed() -> None:
    size = 2**20
    with listening(replace(QUICK, write_s=1.5)) as server, server.connect() as wire:
        wire.send(request(f"/large/{size}") * 200)
        until(lambda: len(server.echo.asked) > 1, "answers", 5)
        most = 0
        while server.server.connections:
            for connection in list(server.server.connections):
                if connection._transport is not None:
                    most = max(most, connection._transport.get_write_buffer_size())
            time.sleep(0.01)
        assert 0 < most < size + 2**18
        assert len(server.echo.asked) < 20  # what the kernel's buffers take


def test_who_leaves_a_little_unread_is_closed_all_the_same() -> None:
    """Too little for the transport to call it full, so that nobody is told."""
    with listening(QUICK) as server, server.connect() as wire:
        until(lambda: server.server.connections, "the connection", 5)
        (connection,) = server.server.connections
        while connection._transport is not None and not connection._transport.get_write_buffer_size():
            asked = len(server.echo.asked)
            wire.send(request("/large/30000"))
            until(lambda: len(server.echo.asked) > asked, "the request", 5)  # noqa: B023
        until(lambda: not server.server.connections, "the end", 3)


def test_who_reads_slowly_gets_all_of_it() -> None:
    with listening(QUICK) as server, server.connect() as wire:
        wire.send(request(f"/large/{2**22}") * 3)
        for _ in range(3):
            time.sleep(0.1)
            answer = wire.answer()
            assert answer is not None and len(answer.body) == 2**22


def test_what_never_became_a_request_is_counted_by_its_status() -> None:
    with listening(QUICK) as server:
        for data in (b"nonsense\r\n\r\n", request("/a", "x: " + "a" * 9000), request("/a", version="3.0"), POST):
            with server.connect() as wire:
                wire.send(data).answers()
        assert server.refused == Counter({400: 1, 431: 1, 505: 1, 408: 1})
        assert server.echo.asked == []


def test_a_flood_of_empty_lines_costs_little() -> None:
    with listening(QUICK) as server, server.connect() as flood, server.connect() as other:
        start = time.thread_time()
        flood.send(b"\r\n" * 2**20)
        answer = other.send(request("/a")).answer()
        assert answer is not None and answer.status == 200
        assert time.thread_time() - start < 1.0
        assert [one.status for one in flood.answers()] == [400]


def test_the_defaults_are_those_of_the_documents() -> None:
    defaults = Limits()
    assert (defaults.head_s, defaults.body_idle_s, defaults.keep_alive_s, defaults.write_s) == (5, 5, 75, 30)
    assert (defaults.max_body_bytes, defaults.max_buffered_bytes, defaults.min_bytes_per_s) == (2**26, 2**30, 2**10)
    assert defaults.connections == resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
