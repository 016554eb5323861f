"""The cache against a model of it: what is kept, what leaves, how much it takes."""

import sys
import tracemalloc
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from serving.cache import ENTRY_BYTES, Cache
from serving.protocol import Array

DIGEST = "4f2a" * 16
SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6)
NUMBERS = st.sampled_from([np.float32, np.float64, np.int64, np.uint8, np.bool_]).flatmap(
    lambda dtype: arrays.arrays(dtype, SHAPES)
)
TEXTS = arrays.arrays(object, SHAPES, elements=st.binary(max_size=20), fill=st.nothing())
TENSORS = NUMBERS | TEXTS


def f32(values: object) -> Array:
    return np.array(values, np.float32)


def size(outputs: Sequence[Array]) -> int:
    """What an entry should count for, from the copies that Python itself measures."""
    copies = [np.array(output, order="C") for output in outputs]
    return ENTRY_BYTES + sum(
        sys.getsizeof(copy) + (sum(map(sys.getsizeof, copy.ravel())) if copy.dtype == object else 0) for copy in copies
    )


def same(one: Sequence[Array], other: Sequence[Array]) -> bool:
    return len(one) == len(other) and all(
        a.dtype == b.dtype and a.shape == b.shape and a.tolist() == b.tolist()
        if a.dtype == object
        else (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
        for a, b in zip(one, other, strict=True)
    )


@given(
    st.lists(st.tuples(st.integers(0, 7), st.none() | st.lists(TENSORS, max_size=2)), max_size=60),
    st.integers(0, 6000),
)
def test_it_keeps_what_a_plain_list_in_order_of_use_would(
    steps: list[tuple[int, list[Array] | None]], max_bytes: int
) -> None:
    """A step puts outputs under a key, or asks for it; the oracle's list has the least recently used first."""
    cache, oracle = Cache(DIGEST, max_bytes=max_bytes), list[tuple[bytes, list[Array]]]()
    for name, outputs in steps:
        key = cache.key([np.array([name])], "")
        known = [kept for k, kept in oracle if k == key]
        if outputs is None:
            found = cache.get(key, now=0.0)
            assert (found is None) == (not known)
            if found is not None:
                assert same(found, known[0])
                oracle = [*((k, kept) for k, kept in oracle if k != key), (key, known[0])]
        else:
            cache.put(key, outputs, now=0.0)
            oracle = [(k, kept) for k, kept in oracle if k != key]
            if size(outputs) <= max_bytes:
                oracle.append((key, outputs))
                while sum(size(kept) for _, kept in oracle) > max_bytes:
                    oracle.pop(0)
        assert cache.bytes == sum(size(kept) for _, kept in oracle) <= max_bytes
        assert len(cache) == len(oracle)


@given(st.lists(TENSORS, min_size=1, max_size=3), st.lists(TENSORS, min_size=1, max_size=3))
def test_a_key_is_that_of_the_same_bytes_only(one: list[Array], other: list[Array]) -> None:
    cache = Cache(DIGEST, max_bytes=0)
    equal = same(one, other)
    assert (cache.key(one, "ann") == cache.key(other, "ann")) == equal
    assert cache.key(one, "ann") == cache.key([array.copy() for array in one], "ann")
    assert cache.key(one, "ann") != cache.key(one, "bob")
    assert cache.key(one, "ann") != Cache("5" + DIGEST[1:], max_bytes=0).key(one, "ann")


def test_keys_that_look_alike_differ() -> None:
    key = Cache(DIGEST, max_bytes=0).key
    texts = [np.array(parts, object) for parts in ([b"ab", b"c"], [b"a", b"bc"], [b"abc", b""])]
    zeros = [f32([0.0]), f32([-0.0]), np.array([0], np.int32), f32([[0.0]])]
    keys = [*(key([array], "") for array in (*texts, *zeros)), key(zeros[:1] * 2, ""), key([], ""), key([], "a")]
    assert len(set(keys)) == len(keys)
    turned = np.arange(6, dtype=np.float32).reshape(2, 3).T
    assert key([turned], "") == key([turned.copy()], "")  # the layout in memory is no part of the input


def test_what_comes_back_is_a_copy_that_nobody_can_write_to() -> None:
    cache, batch = Cache(DIGEST, max_bytes=10_000), np.arange(8, dtype=np.float32).reshape(8, 1)
    cache.put(b"key", [batch[2:4]], now=0.0)
    batch[:] = -1
    found = cache.get(b"key", now=0.0)
    assert found is not None and found[0].tolist() == [[2.0], [3.0]]
    assert not found[0].flags.writeable and found[0].base is None  # the batch is not kept alive by two of its rows


def test_an_answer_is_given_until_it_is_too_old() -> None:
    cache = Cache(DIGEST, max_bytes=10_000, ttl_s=5.0)
    cache.put(b"key", [f32([1])], now=100.0)
    assert cache.get(b"key", now=104.9) is not None  # and that does not make it younger
    assert cache.get(b"key", now=105.0) is None
    assert (cache.bytes, len(cache)) == (0, 0)


def probabilities(rng: np.random.Generator) -> Array:
    return rng.random((1, 2), np.float32)


def texts(rng: np.random.Generator) -> Array:
    return np.array([rng.bytes(40), rng.bytes(100)], object)


@pytest.mark.parametrize("output", [probabilities, texts])
def test_it_takes_no_more_memory_than_it_says(output: Callable[[np.random.Generator], Array]) -> None:
    """Python's own count of what was allocated, over thousands of small entries."""
    rng, max_bytes = np.random.default_rng(0), 4 * 2**20
    cache = Cache(DIGEST, max_bytes=max_bytes)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    while cache.bytes < max_bytes - 2 * ENTRY_BYTES:
        cache.put(rng.bytes(32), [output(rng)], now=0.0)
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert 0.5 * cache.bytes < taken <= cache.bytes, f"{taken} bytes for {len(cache)} entries, it says {cache.bytes}"
