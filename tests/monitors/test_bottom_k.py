from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from monitors.bottom_k import ABSENT, LARGEST, BottomK, K, decode, hashes, lowest

ROWS = st.lists(st.tuples(st.integers(0, 2**64 - 1) | st.integers(0, 40), st.integers(0, 2), st.integers(0, ABSENT)))


def sample(rows: list[tuple[int, int, int]]) -> BottomK:
    table = np.array(rows, np.uint64).reshape(-1, 3)
    return BottomK.of(table[:, 0], table[:, 1:].astype(np.uint8))


@settings(deadline=None)
@given(rows=ROWS, repeats=st.integers(1, 12), cuts=st.lists(st.integers(0, 3_000), max_size=4), seed=st.integers(0, 9))
def test_cut_and_merged_in_any_way_the_same_rows_stay(
    rows: list[tuple[int, int, int]], repeats: int, cuts: list[int], seed: int
) -> None:
    """As `Ledger` does it: only rows that may come in are looked at. Some hashes, and whole rows, come twice."""
    rows = [(value * (1 + k) % 2**64, a, b) for k in range(repeats) for value, a, b in rows]
    whole = sample(rows)
    assert whole.encode() == b"".join(value.to_bytes(8, "big") + bytes([a, b]) for value, a, b in sorted(set(rows))[:K])
    shuffled = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
    ends = [0, *sorted(cuts), len(rows)]
    merged = sample([])
    for first, last in pairwise(ends):
        part = shuffled[first:last]
        few = lowest(np.array([row[0] for row in part], np.uint64), merged.bound)
        merged = merged.merged(sample([part[i] for i in few.tolist()]))
    assert merged == whole
    assert decode(whole.encode(), len(whole)) == whole if len(whole) else True


def test_a_sample_is_fair() -> None:
    """Rows of a second, a millisecond apart, are drawn as often from each tenth of it."""
    drawn = np.zeros(10)
    for second in range(200):
        at = 1.7e9 + second + np.arange(1000) / 1000
        tenth = (np.arange(1000) // 100).astype(np.uint8)[:, None]
        drawn += np.bincount(BottomK.of(hashes(at, np.zeros(1000, np.int64)), tenth).cells[:, 0], minlength=10)
    assert drawn.sum() == 200 * K
    assert stats.chisquare(drawn).pvalue > 0.001


def test_rows_of_one_request_differ() -> None:
    found = hashes(np.full(10_000, 1.7e9), np.arange(10_000))
    assert len(np.unique(found)) == 10_000


def test_until_it_is_full_any_row_may_come_in() -> None:
    assert sample([(5, 0, 0)]).bound == LARGEST
    assert sample([(k, 0, 0) for k in range(K)]).bound == K - 1
