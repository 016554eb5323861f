"""Records as bytes: `tests/test_record.py` holds that they come back whole."""

import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.packed import REQUEST, BadRecord, Encoder, Request, Unpacker, texts
from serving.record import decode

TEXT = np.array([b"word"], object)


def request(code: int = 0, rows: int = 1) -> Request:
    return (7, math.nan, 1e9, 0.5, 1e-3, 3, rows, 200, code)


def encoder() -> Encoder:
    made = Encoder("m", "1", "d" * 64, "primary", [("x", "FP32"), ("t", "BYTES")], [("p", "FP64")])
    assert made.codes["weight"] == 0
    return made


def columns(rows: int, width: int = 2) -> list[list[Any]]:
    text = np.array([b"a" * k for k in range(rows)], object)
    return [[np.full((1, width), k, np.float32) for k in range(rows)], [text], [np.arange(rows, dtype=np.float64)]]


@given(st.lists(st.tuples(st.sampled_from(["sticky", "weight", "url"]), st.text(max_size=9), st.integers(0, 3))))
def test_requests_and_columns_come_back(found: list[tuple[str, str, int]]) -> None:
    """Also what UTF-8 cannot hold, and reasons that the encoder meets late."""
    subject, unpack = encoder(), Unpacker()
    for reason, id, rows in found:
        data = subject.encode(
            [request(subject.codes[reason], rows), request(subject.codes["url"])],
            [id, "\udcff"],
            rows + 1,
            columns(rows + 1),
            0.25,
        )
        packed, record = unpack(data), decode(data)
        assert packed.requests == 2 and packed.rows == rows + 1 == record.rows
        assert record.ids == [id, "\udcff"] and record.reasons == [reason, "url"]
        assert record.inputs["x"].array().tolist() == [[k, k] for k in range(rows + 1)]
        assert record.inputs["t"].array().tolist() == [b"a" * k for k in range(rows + 1)]
        assert record.outputs["p"].array().tolist() == list(range(rows + 1))
        table = np.frombuffer(packed.table, REQUEST)
        assert list(texts(packed.ids, table["id_bytes"].tolist())) == record.ids
        assert table["key"].tolist() == [7, 7] and record.infer_s == 0.25


def test_batches_of_one_kind_share_a_layout_and_others_do_not() -> None:
    subject, unpack = encoder(), Unpacker()
    layouts = [
        unpack(subject.encode([request(subject.codes["sticky"])], ["a"], 1, columns)).layout
        for columns in (columns(1), columns(1), columns(1, width=3), [])
    ]
    assert layouts[0] is layouts[1]
    assert len({id(layout) for layout in layouts}) == 3
    assert [tensor.shape for tensor in layouts[2].tensors] == [(3,), (), ()]
    assert layouts[3].tensors == ()


def test_shapes_without_end_do_not_fill_the_memory() -> None:
    subject, unpack = Encoder("m", "1", "d", inputs=[("x", "FP32")]), Unpacker()
    assert subject.codes["weight"] == 0
    for width in range(1000):
        unpack(subject.encode([request()], ["a"], 1, [[np.zeros((1, width), np.float32)]]))
    assert len(subject._layouts) <= 256 >= len(unpack._layouts)


@pytest.mark.parametrize("size", range(0, 241, 7))
def test_a_record_cut_short_is_refused(size: int) -> None:
    data = encoder().encode([request()], ["a"], 1, columns(1))
    assert len(data) == 241
    with pytest.raises(BadRecord):
        Unpacker()(data[:size])


@pytest.mark.parametrize("size", [0, 2, 2**31])
def test_texts_that_contradict_themselves_are_refused(size: int) -> None:
    data = bytearray(encoder().encode([request()], ["a"], 1, [[np.zeros((1, 2), np.float32)], [TEXT], [np.zeros(1)]]))
    at = data.index(b"word") - 4
    assert Unpacker()(bytes(data)).rows == 1 and data[at] == 4
    data[at : at + 4] = size.to_bytes(4, "little")
    with pytest.raises(BadRecord, match="tensor 't' has 8 bytes, which are not those of 1 elements"):
        Unpacker()(bytes(data))


def test_bytes_that_are_something_else_are_refused() -> None:
    data, rng = encoder().encode([request()], ["a"], 1, columns(1)), random.Random(3)
    unpack = Unpacker()
    for _ in range(2000):
        damaged = bytearray(data)
        damaged[rng.randrange(200)] ^= 1 << rng.randrange(8)
        try:
            unpack(bytes(damaged))
        except BadRecord:
            continue
    assert unpack(data).rows == 1
