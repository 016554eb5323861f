import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from monitors.memo import Memo

keys = st.lists(st.integers(0, 2**64 - 1), max_size=20, unique=True).map(lambda found: np.array(found, np.uint64))


@given(st.lists(keys, max_size=6))
def test_what_it_knows_is_what_was_noted_last(batches: list[np.ndarray]) -> None:
    memo, noted = Memo(bits=3), dict[int, int]()
    for number, batch in enumerate(batches):
        cells, known = memo.find(batch)
        for key, cell in zip(batch[known].tolist(), cells[known].tolist(), strict=True):
            assert noted[key] == cell
        memo.note(batch, np.full(len(batch), number, np.uint8))
        noted |= dict.fromkeys(batch.tolist(), number)


def test_nothing_is_known_that_was_not_noted() -> None:
    memo = Memo(bits=2)
    memo.note(np.array([2**63], np.uint64), np.array([5], np.uint8))
    every = np.array([0, 1, 2**62, 2**63, 2**63 + 1, 2**64 - 1], np.uint64)
    assert every[memo.find(every)[1]].tolist() == [2**63]


def test_features_have_salts_of_their_own() -> None:
    memo = Memo()
    assert len({int(memo.salt()) for _ in range(1_000)}) == 1_000
