"""Frames whose tensors lie in shared memory: in place of the bytes a table that says where they are.

The table has a segment for each buffer of the frame: its place in the sender's arena, or -1 for the next bytes of the
frame itself, and its size. The segments of a tensor are those of the requests that were joined to it.
"""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from serving import frames
from serving.arena import Arena, Window
from serving.errors import ChannelError
from serving.frames import Frame, Layout
from serving.protocol import Array

_SEGMENT = struct.Struct("<qQ")
_MAX = 2**16 - 1
_HERE = -1


def refer(buffers: Sequence[memoryview | bytes], arena: Arena) -> tuple[list[memoryview | bytes], int]:
    """The buffers of a frame's body and the number of its segments; 0: nothing lies in the arena.

    A buffer without bytes does not say how many rows it has, so that a frame with one has no segments.
    """
    places = [arena.place(b) if isinstance(b, memoryview) else None for b in buffers]
    if len(buffers) > _MAX or places.count(None) == len(places) or not all(map(len, buffers)):
        return list(buffers), 0
    segments = [(_HERE if at is None else at, len(b)) for b, at in zip(buffers, places, strict=True)]
    table = b"".join([_SEGMENT.pack(*segment) for segment in segments])
    return [table, *(b for b, at in zip(buffers, places, strict=True) if at is None)], len(segments)


def resolve(layout: Layout, frame: Frame, window: Window | None) -> list[list[Array]]:
    """The inputs of each request in the frame, where they lie, read-only. Raises ChannelError."""
    if window is None:
        raise ChannelError("a frame refers to memory that was not offered")
    segments = _segments(frame, window)
    requests, left = divmod(len(segments), max(1, len(layout.parts)))
    if left or any(size != sum(map(len, _of(segments, i, requests))) for i, (*_, size) in enumerate(layout.parts)):
        raise ChannelError(f"a frame's {len(segments)} segments do not fit its layout of {len(layout.parts)} tensors")
    tensors = [
        [_array(dtype, shape, data, requests) for data in _of(segments, i, requests)]
        for i, (dtype, shape, _, _) in enumerate(layout.parts)
    ]
    return [list(inputs) for inputs in zip(*tensors, strict=True)]


def _of(segments: list[memoryview], tensor: int, requests: int) -> list[memoryview]:
    return segments[tensor * requests : (tensor + 1) * requests]


def _segments(frame: Frame, window: Window) -> list[memoryview]:
    at = frame.references * _SEGMENT.size
    if at > len(frame.body):
        raise ChannelError(f"a frame has {len(frame.body)} bytes, not the {at} of its segments")
    segments = []
    for start, size in _SEGMENT.iter_unpack(frame.body[:at]):
        segments.append(frame.body[at : at + size] if start == _HERE else window.bytes_at(start, size))
        at += size if start == _HERE else 0
    if at != len(frame.body):
        raise ChannelError(f"a frame has {len(frame.body)} bytes, its segments take {at}")
    return segments


def _array(dtype: np.dtype[Any], shape: tuple[int, ...], data: memoryview, requests: int) -> Array:
    """The rows of one request; those of the only one are all."""
    return frames.tensor(dtype, shape if requests == 1 else (-1, *shape[1:]), data)
