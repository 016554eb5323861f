import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.codec import nesting
from serving.codec.nesting import deeper_than, occurrences
from tests.codec.wire import patient

documents = st.recursive(
    st.none() | st.text('[]{}"\\n', max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('[{"\\', max_size=3), inner, max_size=3),
)


def depth(document: Any) -> int:
    if isinstance(document, dict | list):
        return 1 + max(map(depth, document.values() if isinstance(document, dict) else document), default=0)
    return 0


@patient
@given(documents, st.integers(0, 12))
def test_it_is_deeper_than_a_limit_when_a_walk_finds_it_so(document: Any, limit: int) -> None:
    assert deeper_than(limit, json.dumps(document).encode(), ()) == (depth(document) > limit)


def test_what_is_counted_in_pieces_adds_up() -> None:
    half = nesting._CHUNK_BYTES // 2
    strings = json.dumps(["[" * 3] * half).encode()
    for filling in (b"[]," * (half + 7), strings[1:-1] + b",", b'"",' * 3 + strings[1:-1] + b","):
        text = b"[" + filling + b"[[]]]"
        assert deeper_than(2, text, ()) and not deeper_than(3, text, ())


def test_shallow_parts_need_no_look() -> None:
    assert not deeper_than(5, b"[[[[[[]]]]]]", [b"[[[[[]]]]]"])  # as it was told
    assert deeper_than(5, b"[[[[[[]]]]]]", [b"1"])


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 10_000])
def test_occurrences_are_counted_in_short_and_long_texts(size: int) -> None:
    assert occurrences(b"[a" * (size // 2) + b"[", b"[") == size // 2 + 1
