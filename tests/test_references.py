"""Tensors that lie in shared memory arrive as they were sent, whatever the cut; what does not add up is an error."""

import os
import struct
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import frames
from serving.arena import Arena, Window
from serving.errors import ChannelError
from serving.frames import Frame, Kind, Layout, Layouts
from serving.protocol import Array, TensorSpec
from serving.references import refer, resolve

X, T = TensorSpec("x", "FP32", (-1, 3)), TensorSpec("t", "BYTES", (-1,))


def _frame(meta: bytes, body: Sequence[memoryview | bytes], references: int) -> Frame:
    return Frame(Kind.INFER, 0, references, 1, 0, meta, memoryview(b"".join(body)))


def _window(arena: Arena) -> Window:
    assert arena.offer is not None
    return Window(arena.offer, os.getpid())


def _shared(arena: Arena, data: bytes) -> memoryview:
    slot = arena.take(len(data))
    assert slot is not None
    slot[:] = data
    return slot


@given(st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=6))
def test_the_inputs_of_each_request_come_back(requests: list[tuple[int, bool]]) -> None:
    """Some in shared memory, some not, beside texts, which never are."""
    arena = Arena(2**16)
    xs: list[Array] = [np.random.default_rng(i).random((rows, 3), np.float32) for i, (rows, _) in enumerate(requests)]
    texts = [np.array([f"{i} {row}".encode() for row in range(rows)], object) for i, (rows, _) in enumerate(requests)]
    parts = [
        *(_shared(arena, x.tobytes()) if shared else x.tobytes() for x, (_, shared) in zip(xs, requests, strict=True)),
        *(frames.to_bytes("BYTES", text) for text in texts),
    ]
    rows, n = sum(rows for rows, _ in requests), len(requests)
    sizes = (sum(map(len, parts[:n])), sum(map(len, parts[n:])))
    meta = Layouts().encode((X, T), ((rows, 3), (rows,)), sizes)
    body, references = refer(parts, arena)
    assert references == (2 * n if any(shared for _, shared in requests) else 0)
    frame = _frame(meta, body, references)
    if not references:
        return
    got = resolve(Layouts().decode(meta), frame, _window(arena))
    for (x, text), sent_x, sent_text in zip(got, xs, texts, strict=True):
        assert np.array_equal(x, sent_x) and not x.flags.writeable and np.array_equal(text, sent_text)


def test_the_only_request_is_not_copied() -> None:
    arena = Arena(2**16)
    slot = _shared(arena, np.arange(6, dtype=np.float32).tobytes())
    meta = Layouts().encode((X,), ((2, 3),), (24,))
    ((x,),) = resolve(Layouts().decode(meta), _frame(meta, *refer([slot], arena)), _window(arena))
    slot[:4] = np.float32(7).tobytes()
    assert x[0, 0] == 7


def test_an_empty_part_has_no_place_of_its_own() -> None:
    arena = Arena(2**16)
    slot = _shared(arena, bytes(24))
    assert refer([slot, b""], arena) == ([slot, b""], 0)


ROWS = Layout((("x", "FP32", (2, 3), 24),))


@pytest.mark.parametrize(
    ("segments", "inline"),
    [
        ([(2**16 - 8, 24)], b""),  # past the end
        ([(64, 2**63)], b""),
        ([(-2, 24)], b""),  # before the start
        ([(-1, 24)], b"short"),
        ([(-1, 24)], bytes(25)),  # left over
        ([(64, 20)], b""),  # not the tensor's size
        ([(64, 28)], b""),
        ([(64, 10), (64, 14)], b""),  # no whole rows
        ([], b""),
    ],
)
def test_segments_that_do_not_add_up_are_an_error(segments: list[tuple[int, int]], inline: bytes) -> None:
    table = b"".join(struct.pack("<qQ", *segment) for segment in segments)
    with pytest.raises(ChannelError):
        resolve(ROWS, _frame(b"", [table, inline], max(1, len(segments))), _window(Arena(2**16)))


def test_a_number_of_segments_that_is_none_of_the_tensors_is_an_error() -> None:
    two = Layout((("x", "FP32", (1, 3), 12), ("y", "FP32", (1, 3), 12)))
    table = struct.pack("<qQqQqQ", 64, 12, 64, 6, 64, 6)
    with pytest.raises(ChannelError):
        resolve(two, _frame(b"", [table], 3), _window(Arena(2**16)))


def test_references_without_memory_are_an_error() -> None:
    with pytest.raises(ChannelError, match="not offered"):
        resolve(ROWS, _frame(b"", [struct.pack("<qQ", 64, 24)], 1), None)


@given(st.binary(max_size=80), st.integers(0, 6))
def test_no_bytes_do_harm(body: bytes, references: int) -> None:
    try:
        requests = resolve(ROWS, _frame(b"", [body], references), _window(Arena(2**12)))
    except ChannelError:
        return
    assert sum(x.size for (x,) in requests) == 6
