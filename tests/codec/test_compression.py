import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.codec import accepted_encoding, compress, decompress
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
