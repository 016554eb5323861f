import gzip
import tracemalloc
import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.codec import Expander, accepted_encoding, compress, decompress
from serving.codec.compression import PIECE_BYTES
from serving.errors import BadRequest, GaugewayError, PayloadTooLarge, UnsupportedMediaType
from tests.codec.wire import patient


def raw_deflate(body: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(body) + stream.flush()


@patient
@given(st.binary(max_size=300), st.sampled_from(["gzip", "deflate"]))
def test_what_was_compressed_comes_back(body: bytes, encoding: str) -> None:
    assert decompress(compress(body, encoding), encoding, 300) == body


@patient
@given(st.binary(min_size=1, max_size=300))
def test_other_compressors_are_understood(body: bytes) -> None:
    assert decompress(gzip.compress(body), "GZIP ", 300) == body
    assert decompress(zlib.compress(body), "deflate", 300) == body
    assert decompress(raw_deflate(body), "deflate", 300) == body


def test_other_decompressors_understand_ours() -> None:
    assert gzip.decompress(compress(b"a" * 99, "gzip")) == b"a" * 99
    assert zlib.decompress(compress(b"a" * 99, "deflate")) == b"a" * 99


def test_no_encoding_is_no_change() -> None:
    assert decompress(b"a", None, 0) == decompress(b"a", "identity", 0) == decompress(b"a", "", 0) == b"a"


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "compress", "x" * 5000])
def test_unknown_encodings_are_refused(encoding: str) -> None:
    with pytest.raises(UnsupportedMediaType, match="expected gzip, deflate or identity"):
        decompress(b"", encoding, 10)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_is_refused_before_it_is_large(encoding: str) -> None:
    limit = 2**16
    assert len(decompress(compress(bytes(limit), encoding), encoding, limit)) == limit
    bomb = compress(bytes(2**26), encoding)
    tracemalloc.start()
    with pytest.raises(PayloadTooLarge, match="more than 65536 bytes"):
        decompress(bomb, encoding, limit)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_damaged_bodies_are_refused(encoding: str) -> None:
    whole = compress(b"some body", encoding)
    for body in (b"", b"some body", whole[:-1], whole + b"x", whole + whole):
        with pytest.raises(BadRequest):
            decompress(body, encoding, 100)


@patient
@given(st.binary(max_size=100), st.sampled_from(["gzip", "deflate"]))
def test_any_bytes_are_expanded_or_refused(body: bytes, encoding: str) -> None:
    try:
        decompress(body, encoding, 100)
    except GaugewayError:
        pass


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, None),
        ("", None),
        ("br", None),
        ("gzip, deflate, br", "gzip"),
        ("deflate", "deflate"),
        ("GZIP;q=0.5", "gzip"),
        ("gzip; q=0.0, deflate;q=1.0", "deflate"),
        ("identity", None),
    ],
)
def test_the_encoding_of_an_answer(accept: str | None, chosen: str | None) -> None:
    assert accepted_encoding(accept) == chosen


def expanded(body: bytes, encoding: str, cuts: list[int], max_bytes: int = 10**9) -> list[bytes]:
    """The pieces of a body that comes in parts."""
    expander, at = Expander(encoding, max_bytes), sorted({0, len(body), *(min(cut, len(body)) for cut in cuts)})
    found = [piece for a, b in pairwise(at) for piece in expander.feed(body[a:b])]
    return [*found, expander.end()]


@patient
@given(st.binary(max_size=300), st.sampled_from(["gzip", "deflate", "identity"]), st.lists(st.integers(2, 300)))
def test_a_body_in_parts_comes_back_wherever_it_is_cut(body: bytes, encoding: str, cuts: list[int]) -> None:
    sent = body if encoding == "identity" else compress(body, encoding)
    assert b"".join(expanded(sent, encoding, cuts)) == body
    if encoding == "deflate":
        assert b"".join(expanded(raw_deflate(body), encoding, cuts)) == body


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "identity"])
def test_a_part_that_expands_comes_in_pieces(encoding: str) -> None:
    body = bytes(3 * PIECE_BYTES + 7)
    sent = body if encoding == "identity" else compress(body, encoding)
    pieces = expanded(sent, encoding, [])
    assert b"".join(pieces) == body and max(map(len, pieces)) == PIECE_BYTES


def test_the_bound_is_that_of_a_part() -> None:
    sent = gzip.compress(bytes(2**20), 0)
    cuts = list(range(0, len(sent), 2**16))
    assert len(b"".join(expanded(sent, "gzip", cuts, max_bytes=2**16))) == 2**20
    with pytest.raises(PayloadTooLarge, match="hold more than 65536"):
        expanded(sent, "gzip", [], max_bytes=2**16)


@pytest.mark.parametrize(
    ("sent", "said"),
    [(b"", "cut short"), (compress(b"abc", "gzip")[:-1], "cut short"), (compress(b"abc", "gzip") + b"a", "trailing"),
     (b"abc", "is not gzip")],
)  # fmt: skip
def test_parts_that_are_broken_are_refused_wherever_they_are_cut(sent: bytes, said: str) -> None:
    for cut in range(2, len(sent) + 1):
        with pytest.raises(BadRequest, match=said):
            expanded(sent, "gzip", [cut])
