import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from monitors.index import Index

hashes = st.lists(st.integers(0, 30), max_size=12)


@settings(deadline=None)
@given(st.lists(hashes, max_size=12), st.integers(0, 60))
def test_an_index_is_a_dictionary_of_lists(batches: list[list[int]], least: int) -> None:
    index, known, place = Index(), dict[int, list[int]](), 0
    for batch in batches:
        index.add(np.array(batch, np.uint64), np.arange(place, place + len(batch)))
        for hash in batch:
            known.setdefault(hash, []).append(place)
            place += 1
    asked = np.arange(32, dtype=np.uint64)
    assert index.contains(asked).tolist() == [hash in known for hash in range(32)]
    assert [index.find(hash) for hash in asked] == [known.get(hash, [])[::-1] for hash in range(32)]
    assert index.newest(asked).tolist() == [known.get(hash, [-1])[-1] for hash in range(32)]
    assert len(index) == place
    if known:
        assert index.latest().tolist() == sorted(max(places) for places in known.values())
    index.keep(least)
    assert [index.find(hash) for hash in asked] == [
        [place for place in known.get(hash, [])[::-1] if place >= least] for hash in range(32)
    ]


def test_its_runs_stay_few() -> None:
    index = Index()
    for k in range(1000):
        index.add(np.array([k * 7919 % 1000], np.uint64), np.array([k]))
    assert len(index._runs) <= 10
    assert index.contains(np.arange(1001, dtype=np.uint64)).tolist() == [True] * 1000 + [False]


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), max_size=40), st.lists(st.integers(0, 2**64 - 1), max_size=40))
def test_what_was_put_is_known_whatever_its_bits(put: list[int], others: list[int]) -> None:
    index = Index()
    index.add(np.array(put, np.uint64), np.arange(len(put)))
    asked = np.array(put + others + [hash ^ 1 for hash in put], np.uint64)
    assert index.contains(asked).tolist() == [hash in put for hash in asked.tolist()]
    index.keep(len(put) // 2 + 1)
    assert index.contains(asked).tolist() == [hash in put[len(put) // 2 + 1 :] for hash in asked.tolist()]
