import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from monitors.counting import Rows, learn
from monitors.slot import Counts, decode
from monitors.whole_rows import MOST, MOST_BYTES, MOST_TEXT, Value, WholeRows, smallest, value

HASHES = np.random.default_rng(3).integers(0, 2**64, 2_000, dtype=np.uint64)
VALUES: list[list[Value]] = [HASHES.astype(np.float64).tolist(), [b"a", None] * 1_000]


WIDE: list[list[Value]] = [*VALUES, [b"x" * (37 * k % 2_000) for k in range(2_000)]]  # up to 2 KB a row


def of(places: np.ndarray, values: list[list[Value]] = VALUES) -> WholeRows:
    return WholeRows.of(7, HASHES[places], [[column[k] for k in places] for column in values])


@settings(deadline=None, max_examples=20)
@given(
    cuts=st.lists(st.integers(0, 2_000), max_size=5), seed=st.integers(0, 99), values=st.sampled_from([VALUES, WIDE])
)
def test_the_same_rows_stay_however_they_are_cut_and_merged(
    cuts: list[int], seed: int, values: list[list[Value]]
) -> None:
    order = np.random.default_rng(seed).permutation(2_000)
    merged = Counts()
    for places in np.split(order, sorted(cuts)):
        few = places[smallest(HASHES[places], merged.learned.bound if merged.learned else 2**64 - 1)]
        merged.add(Counts(len(places), learned=of(few, values)))
    assert merged.learned == of(np.arange(2_000), values)
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


def test_of_large_rows_fewer_stay() -> None:
    found = of(np.arange(2_000), WIDE)
    assert 200 < len(found) < MOST
    assert sum(map(len, found.rows[:-1])) < MOST_BYTES <= sum(map(len, found.rows))
    assert found.bound == np.sort(HASHES)[len(found) - 1]


def test_a_long_text_is_a_category_that_no_other_row_has() -> None:
    texts, slot = np.array([b"a" * MOST_TEXT, *[b"b" * 2**20] * 70], object), Counts()
    learn(lambda _: slot, [texts], Rows({}, np.full(71, 7), HASHES[:71]))
    assert slot.learned and len(slot.encode()) < 2**16
    found = {value(row)[1][0] for row in slot.learned.rows}
    assert len(found) == 71 and b"a" * MOST_TEXT in found and b"longer than 256 bytes: %016x" % HASHES[1] in found
