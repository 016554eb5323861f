"""Bodies in chunks, however they are cut; sizes and lines that are wrong."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.chunked import Chunked
from serving.errors import GaugewayError
from tests.ambiguous import CHUNKS
from tests.raw_http import chunks

PARTS = st.lists(st.binary(min_size=1, max_size=50), max_size=8)


def read(*pieces: bytes, max_bytes: int = 1000) -> tuple[bytes, bytes | None]:
    """The body, and what follows it once it is whole."""
    body, rest = Chunked(max_bytes), None
    for piece in pieces:
        rest = body.feed(piece) if rest is None else rest + piece
    return bytes(body.data), rest


@given(PARTS, st.binary(max_size=20), st.lists(st.integers(0, 300), max_size=10))
def test_the_body_is_the_same_wherever_it_is_cut(parts: list[bytes], after: bytes, cuts: list[int]) -> None:
    sent = chunks(*parts) + after
    at = sorted({min(cut, len(sent)) for cut in cuts} | {0, len(sent)})
    assert read(*(sent[a:b] for a, b in pairwise(at))) == (b"".join(parts), after)


@given(PARTS)
def test_a_body_comes_byte_by_byte(parts: list[bytes]) -> None:
    sent = chunks(*parts, trailers=b"x-a: 1\r\nx-b: 2\r\n")
    assert read(*(sent[i : i + 1] for i in range(len(sent)))) == (b"".join(parts), b"")


@pytest.mark.parametrize("size", [b"3", b"003", b"3;a=b", b'3 ; a="b c"', b"00000003"])
def test_sizes_as_the_grammar_has_them(size: bytes) -> None:
    assert read(size + b"\r\nabc\r\n0\r\n\r\nrest") == (b"abc", b"rest")


@pytest.mark.parametrize(
    "sent",
    CHUNKS,
    ids=lambda sent: repr(sent)[:40],
)
def test_chunks_that_could_be_read_in_two_ways_are_refused(sent: bytes) -> None:
    with pytest.raises(GaugewayError) as refused:
        read(sent)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    "sent", [b"3e9\r\n", b"258\r\n" + b"a" * 600 + b"\r\n191\r\n", b"1\r\na\r\n" * 1000 + b"1\r\n"]
)
def test_a_body_that_is_too_long_is_refused_as_soon_as_it_says_so(sent: bytes) -> None:
    with pytest.raises(GaugewayError) as refused:
        read(sent)
    assert refused.value.status == 413
    assert read(chunks(b"a" * 1000))[0] == b"a" * 1000


@given(st.binary(max_size=100) | st.text("0123af;= \r\n:x", max_size=60).map(str.encode))
def test_whatever_comes_is_a_body_or_refused(sent: bytes) -> None:
    try:
        body, _ = read(sent)
    except GaugewayError as error:
        assert error.status in (400, 413)
    else:
        assert len(body) <= len(sent)
