import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from monitors.slot import Counts, decode
from monitors.whole_rows import MOST, WholeRows, smallest, value

HASHES = np.random.default_rng(3).integers(0, 2**64, 2_000, dtype=np.uint64)
VALUES = [HASHES.astype(np.float64).tolist(), [b"a", None] * 1_000]


def of(places: np.ndarray) -> WholeRows:
    return WholeRows.of(7, HASHES[places], [[column[k] for k in places] for column in VALUES])


@settings(deadline=None, max_examples=20)
@given(cuts=st.lists(st.integers(0, 2_000), max_size=5), seed=st.integers(0, 99))
def test_the_same_rows_stay_however_they_are_cut_and_merged(cuts: list[int], seed: int) -> None:
    order = np.random.default_rng(seed).permutation(2_000)
    merged = Counts()
    for places in np.split(order, sorted(cuts)):
        few = places[smallest(HASHES[places], merged.learned.bound if merged.learned else 2**64 - 1)]
        merged.add(Counts(len(places), learned=of(few)))
    assert merged.learned == of(np.arange(2_000))
    assert decode(merged.encode()) == merged


def test_the_rows_of_the_smallest_hashes_stay_whole() -> None:
    found = of(np.arange(2_000))
    lowest = np.argsort(HASHES)[:MOST]
    assert [value(row) for row in found.rows] == [(7, [column[k] for column in VALUES]) for k in lowest.tolist()]
    assert found.bound == HASHES[lowest[-1]]
    assert of(np.arange(5)).bound == 2**64 - 1


def test_a_row_that_comes_twice_is_one() -> None:
    one = of(np.arange(100))
    assert one.merged(one) == one
