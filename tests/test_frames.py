"""Any cut of a stream gives the same frames; what is no frame is refused; tensors come back to the bit."""

from collections.abc import Sequence
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import frames
from serving.errors import ChannelError
from serving.frames import Frame, Kind, Layout, Layouts, Splitter
from serving.protocol import DATATYPES, Array, TensorSpec

Parts = tuple[int, int, int, int, bytes, bytes]
PARTS = st.tuples(
    st.sampled_from(list(Kind)),
    st.integers(0, 255),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.binary(max_size=40),
    st.one_of(st.binary(max_size=200), st.integers(1, 40_000).map(lambda n: bytes(i % 251 for i in range(n)))),
)


def _wire(kind: int, priority: int, id: int, deadline_us: int, meta: bytes, body: bytes) -> bytes:
    return frames.head(Kind(kind), id, len(meta), len(body), priority, deadline_us) + meta + body


def _pour(splitter: Splitter, chunk: bytes) -> list[Frame]:
    """As a socket does: no more than there is space for."""
    got: list[Frame] = []
    while chunk:
        space = splitter.space()
        size = min(len(space), len(chunk))
        space[:size], chunk = chunk[:size], chunk[size:]
        got += splitter.received(size)
    return got


def _chunks(stream: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    return [stream[a:b] for a, b in pairwise(places)]


@given(st.lists(PARTS, max_size=6), st.lists(st.integers(0, 50_000), max_size=30))
def test_any_cut_gives_the_same_frames(sent: list[Parts], cuts: list[int]) -> None:
    splitter = Splitter()
    got = [frame for chunk in _chunks(b"".join(_wire(*p) for p in sent), cuts) for frame in _pour(splitter, chunk)]
    assert [(f.kind, f.priority, f.id, f.deadline_us, f.meta, bytes(f.body)) for f in got] == sent


def test_a_byte_at_a_time() -> None:
    splitter = Splitter()
    stream = _wire(Kind.INFER, 0, 7, 0, b"meta", b"body") + frames.head(Kind.PING, 8)
    got = [frame.id for byte in stream for frame in _pour(splitter, bytes([byte]))]
    assert got == [7, 8]


@given(st.binary(min_size=40, max_size=80).filter(lambda data: data[:3] != b"GW\x02"))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(ChannelError, match="not a frame"):
        _pour(Splitter(), data)


@pytest.mark.parametrize("sizes", [(0, 2**31 + 1), (2**20 + 1, 0)])
def test_sizes_beyond_all_bounds_are_refused_before_they_are_waited_for(sizes: tuple[int, int]) -> None:
    with pytest.raises(ChannelError):
        _pour(Splitter(), frames.head(Kind.INFER, 1, *sizes))


@pytest.mark.parametrize("meta_bytes", [0, 7, 20_000])
def test_the_tensors_of_a_large_frame_are_aligned_and_cannot_be_written(meta_bytes: int) -> None:
    (frame,) = _pour(Splitter(), _wire(Kind.INFER, 0, 1, 0, b"m" * meta_bytes, bytes(100_000)))
    x = np.frombuffer(frame.body, np.float32)
    assert len(frame.meta) == meta_bytes and len(x) == 25_000
    assert x.__array_interface__["data"][0] % 64 == 0 and not x.flags.writeable


def test_garbage_after_a_frame_is_refused_too() -> None:
    with pytest.raises(ChannelError):
        _pour(Splitter(), frames.head(Kind.PING, 1) + b"x" * 40)


def _there_and_back(arrays: list[Array], datatypes: list[str]) -> list[Array]:
    specs = [TensorSpec(f"t{i}", datatype, ()) for i, datatype in enumerate(datatypes)]
    parts = [frames.to_bytes(datatype, array) for datatype, array in zip(datatypes, arrays, strict=True)]
    layout = Layouts().encode(specs, tuple(a.shape for a in arrays), tuple(map(len, parts)))
    body = b"".join(parts)
    return frames.from_bytes(Layouts().decode(layout), memoryview(body))


@pytest.mark.parametrize("shape", [(), (0,), (5, 0), (3,), (2, 3, 4), (300, 100)])
@pytest.mark.parametrize("datatype", sorted(DATATYPES.keys() - {"BYTES"}))
def test_tensors_come_back_to_the_bit(datatype: str, shape: tuple[int, ...]) -> None:
    dtype = DATATYPES[datatype]
    size = int(np.prod(shape)) * dtype.itemsize
    bits = np.random.default_rng(1).integers(0, 2 if datatype == "BOOL" else 256, size, np.uint8)
    sent = bits.view(dtype).reshape(shape)
    (got,) = _there_and_back([sent], [datatype])
    assert (got.dtype, got.shape, got.tobytes()) == (dtype, shape, sent.tobytes())


def test_rows_in_another_order_in_memory_are_sent_row_by_row() -> None:
    for sent in (np.arange(6.0).reshape(2, 3).T, np.arange(90_000.0).reshape(300, 300).T):
        (got,) = _there_and_back([sent], ["FP64"])
        assert np.array_equal(got, sent)


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_bytes_come_back(elements: list[bytes]) -> None:
    sent = np.empty((len(elements), 1), object)
    sent[:, 0] = elements
    after = np.array([[1.5]], np.float32)
    texts, number = _there_and_back([sent, after], ["BYTES", "FP32"])
    assert texts.shape == (len(elements), 1) and texts.ravel().tolist() == elements
    assert number.tolist() == [[1.5]]


def test_parts_of_requests_join_to_one_tensor() -> None:
    a, b = np.array([[1, 2]], np.float32), np.array([[3, 4], [5, 6]], np.float32)
    body = b"".join([frames.to_bytes("FP32", a), frames.to_bytes("FP32", b)])
    layout = Layout((("x", "FP32", (3, 2), 24),))
    assert frames.from_bytes(layout, memoryview(body))[0].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert layout.rows == 3


@pytest.mark.parametrize(
    ("layout", "body"),
    [
        ((("x", "FP32", (2, 1), 8),), b"1234"),  # too little
        ((("x", "FP32", (1, 1), 4),), b"12345678"),  # left over
        ((("x", "FP32", (3,), 4),), b"1234"),  # a shape of another size
        ((("x", "FP33", (1,), 4),), b"1234"),  # no datatype
        ((("x", "FP32", (-1, -1), 4),), b"1234"),  # no shape
        ((("x", "FP32", (0, 2**70), 0),), b""),  # no array
        ((("x", "FP32", (1,), -4),), b"1234"),  # no size
        ((("x", "BYTES", (2,), 5),), b"\1\0\0\0a"),  # fewer elements
    ],
)
def test_a_body_that_is_not_its_layout(layout: tuple[tuple[str, str, tuple[int, ...], int], ...], body: bytes) -> None:
    with pytest.raises(ChannelError, match="layout"):
        frames.from_bytes(Layout(layout), memoryview(body))


def test_documents() -> None:
    (frame,) = _pour(Splitter(), frames.document(Kind.HELLO, [1], 9))
    assert (frame.kind, frame.id, msgspec.msgpack.decode(frame.meta)) == (Kind.HELLO, 9, [1])
    for bad in (b"", b"\xc1", msgspec.msgpack.encode("text")):
        with pytest.raises(ChannelError, match="meta cannot be read"):
            Layouts().decode(bad)


def test_layouts_are_remembered_within_a_bound() -> None:
    layouts = Layouts(bound=3)
    for n in range(1, 20):
        meta = layouts.encode([TensorSpec("x", "FP32", (-1,))], ((n,),), (4 * n,))
        assert layouts.decode(meta).rows == n
        assert len(layouts._encoded) <= 3 and len(layouts._decoded) <= 3


def test_timing() -> None:
    (frame,) = _pour(Splitter(), frames.result(3, b"rest", 4, 0.25, 1.5, 7) + b"body")
    assert (frame.kind, frame.id, bytes(frame.body)) == (Kind.RESULT, 3, b"body")
    assert frames.unpack_timing(frame.meta) == (0.25, 1.5, 7, b"rest")
    with pytest.raises(ChannelError):
        frames.unpack_timing(b"short")
