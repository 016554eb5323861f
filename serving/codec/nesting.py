"""How deep JSON is nested, without a second parser."""

import re
from collections.abc import Iterable

import numpy as np

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_STEPS = bytes(1 if c in b"[{" else 255 if c in b"]}" else 0 for c in range(256))  # 255 is -1 as int8
_NOT_BRACKETS = bytes(c for c in range(256) if c not in b"[]{}")
_CHUNK_BYTES = 2**20


def deeper_than(limit: int, text: bytes, shallow: Iterable[bytes]) -> bool:
    """Whether well-formed JSON is nested deeper than `limit`; `shallow` are parts of it known not to be.

    It counts before it looks: no more than `limit` brackets outside of the shallow parts is never deeper, and so
    almost every request costs two searches.

    >>> deeper_than(2, b'{"a": [[]]}', ()), deeper_than(2, b'{"a": "[[[[", "b": [1]}', ())
    (True, False)
    """
    return _openings(text) > limit and _openings(text) - sum(map(_openings, shallow)) > limit and _depth(text) > limit


def _openings(text: bytes) -> int:
    return text.count(b"[") + text.count(b"{")


def _depth(text: bytes) -> int:
    brackets = _STRING.sub(b"", text).translate(_STEPS, _NOT_BRACKETS)
    deepest = depth = 0
    for at in range(0, len(brackets), _CHUNK_BYTES):
        steps = np.frombuffer(brackets[at : at + _CHUNK_BYTES], np.int8)
        depths = depth + np.cumsum(steps, dtype=np.int64)
        deepest, depth = max(deepest, int(depths.max())), int(depths[-1])
    return deepest
