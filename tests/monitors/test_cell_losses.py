import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitors import cell_losses
from monitors.cell_losses import LossTally, added, excess, follow, gathered, spread, spread_of_rows
from monitors.loss import LOSS_UNIT

SIZES = (2, 3)
row = st.tuples(st.sampled_from([0, 1, 7, 255]), st.integers(0, 3))
change = st.tuples(row, st.integers(-1, 1), st.integers(-(2**32), 2**32))


def table(changes: list[tuple[tuple[int, int], int, int]]) -> bytes:
    if not changes:
        return b""
    cells, rows, loss = zip(*changes, strict=True)
    return follow(b"", SIZES, gathered(map(bytes, cells), len(SIZES)), rows, loss)


@settings(deadline=None)
@given(st.lists(change), st.lists(change))
def test_a_table_is_the_sum_of_its_rows_however_they_are_cut(
    one: list[tuple[tuple[int, int], int, int]], other: list[tuple[tuple[int, int], int, int]]
) -> None:
    expected = np.zeros((2, sum(SIZES)), np.int64)
    for cells, rows, loss in one + other:
        for first, size, cell in zip((0, 2), SIZES, cells, strict=True):
            if cell < size:
                expected[:, first + cell] += (rows, loss)
    both = added(table(one), table(other))
    assert both == added(table(other), table(one)) == table(one + other)
    assert both == (expected.astype("<i8").tobytes() if one or other else b"")


def test_of_tables_of_two_references_the_same_one_stays_in_any_order() -> None:
    small, large = bytes(16), bytes(80)
    assert added(small, large) == added(large, small) == added(added(large, small), large) == large


def days(blocks: int, *, seed: int = 1, rows: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells, losses and days of rows: a day's weather moves the loss of all of its rows, and of cell 0 more."""
    rng = np.random.default_rng(seed)
    day = np.repeat(np.arange(blocks), rows)
    cells = rng.choice(4, size=len(day), p=[0.4, 0.3, 0.2, 0.1])
    weather = rng.normal(0, 0.05, blocks)[day] + (cells == 0) * rng.normal(0, 0.1, blocks)[day]
    return cells, np.clip(0.3 + weather + rng.normal(0, 0.1, len(day)), 0, 1), day


def sums(cells: np.ndarray, loss: np.ndarray, day: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    place, size = day * 4 + cells, 4 * (int(day.max()) + 1)
    rows, total = np.bincount(place, minlength=size), np.bincount(place, loss, size)
    return rows.reshape(-1, 4).astype(np.float64), total.reshape(-1, 4)


def test_the_spread_says_how_far_the_excess_of_other_days_varies() -> None:
    rows, loss = sums(*days(400))
    found = [excess(r.sum(0), a.sum(0)) for r, a in (sums(*days(10, seed=seed)) for seed in range(2, 302))]
    expected = np.sqrt(spread(rows, loss) / 2000)
    assert np.std(found, axis=0) == pytest.approx(expected, rel=0.2)


def test_the_spread_of_independent_rows_is_that_of_blocks_of_one() -> None:
    rng = np.random.default_rng(3)
    cells, loss = rng.integers(0, 4, 500), rng.random(500).astype(np.float64)
    rows, total = sums(cells, loss, np.arange(500))
    squares = np.bincount(cells, loss**2).astype(np.float64)
    assert spread_of_rows(rows.sum(0), total.sum(0), squares) == pytest.approx(spread(rows, total), rel=0.01)


def test_parts_of_a_reference_add_up_and_unknown_losses_do_not_count() -> None:
    cells, loss, day = days(20)
    loss[::7] = np.nan
    whole, parts = LossTally({"x": 4, "y": 4}), LossTally({"x": 4, "y": 4})
    whole.add({"x": cells, "y": cells[::-1]}, loss, day)
    for some in np.array_split(np.random.default_rng(1).permutation(len(day)), 7):
        parts.add({"x": cells[some], "y": cells[::-1][some]}, loss[some], day[some])
    one, other = whole.losses(86400.0), parts.losses(86400.0)
    assert one is not None and other is not None
    for name in ("x", "y"):
        assert (one.features[name].rows, one.features[name].loss) == (
            other.features[name].rows,
            other.features[name].loss,
        )
        assert one.features[name].spread == pytest.approx(other.features[name].spread)
    known = np.isfinite(loss)
    rows, total = sums(cells[known], loss[known], day[known])
    assert one.features["x"].rows == tuple(rows.sum(0).astype(int).tolist())
    assert np.array(one.features["x"].loss) * LOSS_UNIT == pytest.approx(total.sum(0))
    assert one.features["x"].spread == pytest.approx(spread(rows, total))  # more than that of rows
    assert one.blocks == 20 and one.block_rows == pytest.approx(200 * 6 / 7, rel=0.01)


def test_many_blocks_are_joined_and_what_they_share_is_still_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    cells, loss, day = days(64, rows=100)
    straight = LossTally({"x": 4})
    straight.add({"x": cells}, loss, day // 4)
    monkeypatch.setattr(cell_losses, "MOST_BLOCKS", 16)
    joined = LossTally({"x": 4})
    for part in range(8):
        mine = day % 8 == part
        joined.add({"x": cells[mine]}, loss[mine], day[mine])
    one, other = straight.losses(4 * 86400.0), joined.losses(86400.0)
    assert one is not None and other is not None
    assert (other.blocks, other.block_s, other.block_rows) == (16, one.block_s, one.block_rows)
    assert other.features["x"].spread == pytest.approx(one.features["x"].spread)


def test_without_a_loss_there_is_nothing() -> None:
    tally = LossTally({"x": 4})
    tally.add({"x": np.zeros(3, np.intp)}, np.full(3, np.nan), np.zeros(3, np.int64))
    assert tally.losses(60.0) is None
