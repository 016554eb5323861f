"""Heads that are refused, each with its status; heads that are odd and right."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import GaugewayError
from serving.head import CHUNKED, MAX_HEAD_BYTES, MAX_HEADERS, MAX_LINE_BYTES, check_start, parse
from tests.ambiguous import HEADS, POST


@pytest.mark.parametrize(("status", "text"), [(400, ""), (400, "\r\n" + POST), *HEADS], ids=lambda one: repr(one)[:60])
def test_what_two_servers_could_read_in_two_ways_is_refused(status: int, text: str) -> None:
    with pytest.raises(GaugewayError) as refused:
        parse(text.encode("latin-1"))
    assert refused.value.status == status
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("lines", "length"),
    [
        ("Content-Length: 007", 7),
        ("content-LENGTH:5", 5),
        ("Content-Length: \t 5 \t", 5),
        ("Transfer-Encoding: CHUNKED", CHUNKED),
        ("transfer-encoding:chunked \t", CHUNKED),
        ("TE: trailers, chunked", 0),
        ("X-Content-Length: 5", 0),
        ("X: \xfcber\r\nx: two", 0),
        ("X:", 0),
        ("Cookie: a=1\r\nCookie: b=2", 0),
    ],
)
def test_what_is_odd_and_right_is_taken(lines: str, length: int) -> None:
    assert parse((POST + lines).encode("latin-1")).length == length


def test_headers_that_come_twice_are_joined() -> None:
    headers = parse((POST + "A: 1\r\na: 2\r\nCookie: a=1\r\ncookie: b=2").encode()).headers
    assert headers == {b"host": b"h", b"a": b"1, 2", b"cookie": b"a=1; b=2"}


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/a/b?x=/c", "/a/b"),
        ("/a%2Fb%20c", "/a/b c"),
        ("http://other:80/a?b", "/a"),
        ("/..%2f%2e%2e/a", "/../../a"),  # names nothing: paths are matched, never opened
        ("*", "*"),
    ],
)
def test_the_path_is_decoded_and_its_query_is_dropped(target: str, path: str) -> None:
    assert parse(f"GET {target} HTTP/1.1\r\nHost: h".encode()).path == path


@pytest.mark.parametrize("text", ["\x16\x03\x01\x02\x00\x01", "GET / HTTP/1.1\nHost: h\n\n", " GET /", "X" * 9000])
def test_a_beginning_that_nothing_makes_right_is_refused_at_once(text: str) -> None:
    with pytest.raises(GaugewayError):
        check_start(text.encode("latin-1"))


@given(st.integers(0, len(POST) - 1))
def test_every_beginning_of_a_right_head_may_go_on(size: int) -> None:
    check_start(POST[:size].encode())


@given(st.binary(max_size=200) | st.text("GET /HP.1:\r\n a\0", max_size=60).map(str.encode))
def test_whatever_comes_is_a_head_or_refused(raw: bytes) -> None:
    try:
        parse(raw)
    except GaugewayError as error:
        assert error.status in (400, 431, 501, 505)


@given(
    st.dictionaries(
        st.from_regex(r"x-[a-z0-9!#$%&'*+.^_`|~-]{1,20}", fullmatch=True),
        st.from_regex(rb"[!-~]{0,50}", fullmatch=True),
    )
)
def test_what_was_written_is_read(headers: dict[str, bytes]) -> None:
    lines = b"".join(b"\r\n%s: %s" % (name.encode(), value.strip()) for name, value in headers.items())
    read = parse(b"GET / HTTP/1.1\r\nHost: h" + lines).headers
    assert {name: read[name.encode()] for name in headers} == {n: v.strip() for n, v in headers.items()}


def test_the_bounds_are_those_of_the_documents() -> None:
    assert (MAX_LINE_BYTES, MAX_HEAD_BYTES, MAX_HEADERS) == (8 * 1024, 64 * 1024, 100)
