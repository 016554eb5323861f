from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from monitors.backtest.past import Past, Ruler, Sums
from monitors.loss import losses
from monitors.reference import PREDICTION, Part, build
from monitors.slot import LOSS_UNIT, Counts, LabelCounts
from serving.config import Monitors
from serving.errors import BadRequest
from serving.protocol import Array

RNG = np.random.default_rng(1)
P = RNG.random(2000)
PROFILE = build(
    {"x": RNG.normal(size=2000), "kind": RNG.choice(np.array(["a", "b"], object), size=2000)},
    {},
    prediction=P,
    labels=(RNG.random(2000) < P) * 1.0,
    task="classification",
)
HOUR = Ruler(block_s=3600.0, slot_s=60.0)

# Unsorted, with ties, gaps and times before 1970.
seconds = st.lists(st.sampled_from([-1.0, 0.0, 1.0, 59.9, 3599.0, 3600.0, 7199.5, 1e6]), min_size=1, max_size=40)


def rows(times: Sequence[float], seed: int = 2) -> Part:
    rng, n = np.random.default_rng(seed), len(times)
    labels = np.where(rng.random(n) < 0.2, np.nan, rng.integers(0, 2, n))
    kinds = rng.choice(np.array(["a", "b", "new", ""], object), size=n)
    return Part({"x": rng.normal(size=n), "kind": kinds}, rng.random(n), labels, np.array(times))


def some(part: Part, where: slice | NDArray[np.int64]) -> Part:
    def of(column: Array | None) -> Array | None:
        return None if column is None else column[where]

    values = {name: column[where] for name, column in part.values.items()}
    return Part(values, of(part.prediction), of(part.labels), of(part.time))


def counted(parts: Sequence[Part], ruler: Ruler = HOUR) -> Past:
    past = Past(PROFILE, ruler, Monitors(block_s=3600.0))
    for part in parts:
        past.add(part)
    return past


def same(a: Sums, b: Sums) -> bool:
    """But for the sample of rows, which is drawn by their places in the file."""
    cells = [Counts(sums.counts.rows, sums.counts.cells) for sums in (a, b)]
    return cells[0] == cells[1] and (a.labels, a.squares, a.late) == (b.labels, b.squares, b.late)


@given(times=seconds, rows_of_a_block=st.none() | st.integers(1, 7))
def test_every_row_is_in_exactly_one_block(times: list[float], rows_of_a_block: int | None) -> None:
    past = counted([rows(times)], Ruler(3600.0, 60.0, rows_of_a_block))
    blocks = past.blocks
    assert sum(sums.counts.rows for sums in blocks.values()) == len(times) == past.rows
    for name in ("x", "kind", PREDICTION):
        assert sum(int(sums.counts.cells[name].sum()) for sums in blocks.values()) == len(times)
    if rows_of_a_block is None:
        expected: dict[int, int] = {}
        for time in sorted(times):
            expected[int(time // 3600)] = expected.get(int(time // 3600), 0) + 1
        assert {block: sums.counts.rows for block, sums in blocks.items()} == expected
    else:
        assert [sums.counts.rows for sums in blocks.values()][:-1] == [rows_of_a_block] * (len(blocks) - 1)


@given(times=seconds, data=st.data())
def test_neither_order_nor_parts_change_a_count(times: list[float], data: st.DataObject) -> None:
    whole = rows(times)
    at = data.draw(st.integers(0, len(times)))
    order = np.array(data.draw(st.permutations(range(len(times)))))
    cut = [some(whole, slice(0, at)), some(whole, slice(at, None))]
    for parts, ruler in ((cut, HOUR), ([some(whole, order)], HOUR), (cut, Ruler(3600.0, 60.0, rows=3))):
        once, other = counted([whole], ruler).blocks, counted(parts, ruler).blocks
        assert other.keys() == once.keys()
        assert all(same(other[block], once[block]) for block in once)


def test_labels_add_up_to_what_the_ledger_adds_row_by_row() -> None:
    part = rows([0.0] * 500)
    assert part.prediction is not None and part.labels is not None and PROFILE.risk is not None
    expected = LabelCounts(500)
    lows = [bin.low for bin in PROFILE.risk.calibration]
    for p, y in zip(part.prediction.tolist(), part.labels.tolist(), strict=True):
        if y == y:
            loss = losses("classification", 1.0, np.array([p]), np.array([y]))[0]
            expected.labelled += 1
            expected.loss += int(np.rint(loss / LOSS_UNIT))
            expected.follow(lows, p, None, y)
    assert counted([part]).blocks[0].labels == expected


def test_a_label_that_comes_after_its_slot_was_sealed_is_in_no_evidence() -> None:
    """The slot of 60 s ends at 60, the horizon is a day."""
    part = Part({"x": np.zeros(3), "kind": np.array(["a"] * 3, object)}, np.full(3, 0.5), np.ones(3), np.full(3, 30.0))
    past = Past(PROFILE, HOUR, Monitors(block_s=3600.0, label_horizon_s=86400.0))
    past.add(part, np.array([30.0, 86459.9, 86460.0]))
    (sums,) = past.blocks.values()
    assert (sums.labels.predictions, sums.labels.labelled, sums.late) == (3, 2, 1)


@pytest.mark.parametrize(
    ("label_times", "said"),
    [
        ([90.0, 99.0], "2 labels came before their prediction, the first in row 0: label time 90, prediction 100"),
        ([100.0, np.nan], "1 labels have no label time"),
    ],
)
def test_a_label_has_a_time_after_its_prediction(label_times: list[float], said: str) -> None:
    part = Part({"x": np.zeros(2), "kind": np.array(["a"] * 2, object)}, np.zeros(2), np.ones(2), np.full(2, 100.0))
    with pytest.raises(BadRequest, match=said):
        Past(PROFILE, HOUR, Monitors()).add(part, np.array(label_times))


def test_a_label_without_a_time_counts_where_there_is_no_label() -> None:
    part = Part({"x": np.zeros(1), "kind": np.array(["a"], object)}, np.zeros(1), np.array([np.nan]), np.zeros(1))
    past = Past(PROFILE, HOUR, Monitors())
    past.add(part, np.array([np.nan]))
    assert past.blocks[0].labels == LabelCounts(1)


def test_marks_are_times_or_rows() -> None:
    assert (HOUR.mark(1), Ruler(86400.0, 86400.0, rows=500).mark(3)) == ("1970-01-01T01:00:00Z", 1500)
    odd = Ruler(block_s=100.0, slot_s=60.0)  # blocks hold the slots that begin in them
    assert [odd.slot(block) for block in range(4)] == [0, 2, 4, 5]
    assert odd.blocks(np.arange(0.0, 360.0, 60.0), 0, 6).tolist() == [0, 0, 1, 1, 2, 3]
