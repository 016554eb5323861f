from collections.abc import Sequence
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from monitors.backtest.past import Past, Ruler, Sums
from monitors.backtest.replay import Replay
from monitors.loss import losses
from monitors.reference import PREDICTION, Part, build
from monitors.slot import HALF, LOSS_UNIT, Counts, LabelCounts
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


def alike(a: Sums, b: Sums) -> bool:
    """But for what is drawn at random, by the rows' places in the file."""
    cells = [{name: cells for name, cells in sums.counts.cells.items() if name != HALF} for sums in (a, b)]
    counts = [Counts(sums.counts.rows, known) for sums, known in zip((a, b), cells, strict=True)]
    return counts[0] == counts[1] and (a.labels, a.squares, a.late) == (b.labels, b.squares, b.late)


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


@settings(max_examples=40)
@given(times=seconds, data=st.data())
def test_neither_order_nor_parts_change_a_count(times: list[float], data: st.DataObject) -> None:
    whole = rows(times)
    at = data.draw(st.integers(0, len(times)))
    order = np.array(data.draw(st.permutations(range(len(times)))))
    cut = [some(whole, slice(0, at)), some(whole, slice(at, None))]
    for ruler in (HOUR, Ruler(3600.0, 60.0, rows=3)):
        assert counted(cut, ruler).blocks == counted([whole], ruler).blocks
    once, other = counted([whole]).blocks, counted([some(whole, order)]).blocks
    assert other.keys() == once.keys() and all(alike(other[block], once[block]) for block in once)


@settings(max_examples=40)
@given(
    times=seconds,
    block_s=st.sampled_from([3.3, 90.0, 100.0, 3600.0, 86400.0]),
    slot_s=st.sampled_from([3.3, 7.0, 60.0]),
    fewest=st.integers(1, 5),
)
def test_every_block_is_in_exactly_one_that_is_judged_or_too_small(
    times: list[float], block_s: float, slot_s: float, fewest: int
) -> None:
    ruler, part = Ruler(block_s, min(slot_s, block_s)), rows(times)
    settings = Monitors(block_s=block_s, slot_s=ruler.slot_s, block_rows=fewest)
    past, replay = Past(PROFILE, ruler, settings), Replay(PROFILE, ruler, settings, labels=True)
    past.add(part)
    spans, own = [], ruler.blocks(part.time, 0, len(times))
    for folded in replay.blocks(past.blocks):
        spans.append((folded.first, folded.last))
        mine = (own >= folded.first) & (own <= folded.last)
        assert folded.sums.counts.rows == mine.sum() and (folded.counted is None) == (mine.sum() < fewest)
        judged = len(spans) - (folded.counted is None)
        assert folded.verdicts.drift["x"].blocks == folded.verdicts.checks.quality.blocks == judged
    assert [first > last for (_, last), (first, _) in pairwise(spans)] == [True] * (len(spans) - 1)
    within = np.array([(own >= first) & (own <= last) for first, last in spans])
    assert within.sum(0).tolist() == [1] * len(times)


def test_a_prediction_that_is_no_number_waits_for_no_label() -> None:
    values: dict[str, Array] = {"x": np.zeros(4), "kind": np.array(["a"] * 4, object)}
    part = Part(values, np.array([0.5, np.nan, np.inf, -np.inf]), np.array([1.0, 1.0, 1.0, 0.0]), np.zeros(4))
    assert (counted([part]).blocks[0].labels.predictions, counted([part]).blocks[0].labels.labelled) == (1, 1)
    part.labels[0] = np.inf  # type: ignore[index]
    assert (counted([part]).blocks[0].labels.predictions, counted([part]).blocks[0].labels.labelled) == (1, 0)


def test_labels_of_a_reference_without_labels_are_watched_as_those_of_a_version_without_risk() -> None:
    known = build({"x": RNG.normal(size=2000)}, {}, prediction=P, task="classification")
    part, settings = rows([0.0] * 200), Monitors(block_s=3600.0)
    for task, labels in (("classification", True), ("regression", False)):
        past = Past(known, HOUR, settings, task=task)  # type: ignore[arg-type]
        past.add(Part({"x": part.values["x"]}, part.prediction, part.labels, part.time))
        assert bool(past.blocks[0].labels.labelled) == labels == (past.task is not None)
        assert ("brier" in past.metrics.scorecard(1).metrics) == labels


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
    found = counted([part]).blocks[0].labels
    assert msgspec.structs.replace(found, cells=b"") == expected


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


def test_blocks_that_are_far_too_short_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitors.backtest.past.MAX_BLOCKS", 3)
    assert len(counted([rows([0.0, 3600.0, 7200.0])]).blocks) == 3
    with pytest.raises(BadRequest, match="more than 3 blocks of 3600 s, expected fewer: take longer ones"):
        counted([rows([0.0, 3600.0, 7200.0, 10800.0])])
