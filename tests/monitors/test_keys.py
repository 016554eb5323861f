import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from monitors.keys import Keys

KEYS = Keys(b"a secret")
rows = st.tuples(st.binary(max_size=40) | st.binary(min_size=1020, max_size=1100), st.integers(0, 2**31))


def one(keys: Keys, id: bytes, row: int, model: str = "m", lane: str = "") -> tuple[int, int]:
    hi, lo = keys.of(model, lane, keys.sums(id, np.array([len(id)])), np.array([row]))
    return int(hi[0]), int(lo[0])


@given(st.lists(rows, max_size=20))
def test_many_at_once_have_the_keys_that_each_has(found: list[tuple[bytes, int]]) -> None:
    ids, row = [id for id, _ in found], np.array([row for _, row in found], np.int64)
    sums = KEYS.sums(b"".join(ids), np.array([len(id) for id in ids], np.int64))
    hi, lo = KEYS.of("m", "", sums, row)
    keys = list(zip(hi.tolist(), lo.tolist(), strict=True))
    assert keys == [one(KEYS, id, row) for id, row in found]
    assert len(set(keys)) == len(set(found))


def test_what_differs_has_another_key() -> None:
    ids = [b"", b"\0", b"\0\0\0\0", b"a", b"a\0", b"b", b"\0a", b"x" * 1024, b"x" * 1025, b"x" * 1026]
    keys = {one(KEYS, id, row, model, lane) for id in ids for row in (0, 1) for model in "mn" for lane in ("", "1")}
    assert len(keys) == len(ids) * 8
    halves = {hi for hi, _ in keys} | {lo for _, lo in keys}
    assert len(halves) == 2 * len(keys)


def test_another_secret_gives_other_keys() -> None:
    assert one(KEYS, b"a", 0) == one(Keys(b"a secret"), b"a", 0) != one(Keys(b"other"), b"a", 0)
