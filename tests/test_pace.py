"""The limit follows the rate while something waits, and the shortest run before anything did."""

import math

import pytest

from serving.pace import DEPTH, GROWTH, RATES, Pace


def busy(pace: Pace, rate: float, start: float, end: float, queued_rows: int = 1) -> None:
    """Runs of one row, `rate` a second."""
    runs = int((end - start) * rate)
    for n in range(runs):
        pace.ran(1, 0.02, queued_rows, start + (n + 1) / rate)


def test_before_the_first_run_nothing_is_known() -> None:
    pace = Pace(0.5, 0.5)
    pace.resize(4, 32)
    assert pace.limit_rows == math.inf and pace.row_s == 0.0


def test_the_shortest_run_bounds_the_limit_before_anything_waited() -> None:
    pace = Pace(0.5, 0.5)
    pace.resize(2, 1)
    pace.ran(1, 0.02, 0, 1.0)
    assert pace.limit_rows == pytest.approx(2 * (DEPTH * 0.02 + 0.5) / 0.01)
    pace.resize(1, 1)
    assert pace.limit_rows == pytest.approx((DEPTH * 0.02 + 0.5) / 0.01)


def test_the_limit_is_what_is_answered_in_the_time_that_may_be_waited() -> None:
    """Batches of 256 could be 25,600 rows a second; 80 are."""
    pace = Pace(0.5, 0.5)
    pace.resize(2, 256)
    busy(pace, 80, 0, 5)
    assert pace.limit_rows == pytest.approx(80 * (DEPTH * 0.02 + 0.5) / 0.5, rel=0.02)
    assert pace.row_s == pytest.approx(1 / 80, rel=0.02)
    busy(pace, 40, 5, 6)
    assert pace.limit_rows == pytest.approx(40 * (DEPTH * 0.02 + 0.5) / 0.5, rel=0.3)


def test_one_slow_window_changes_nothing_and_as_many_as_count_do() -> None:
    pace = Pace(0.5, 0.5)
    pace.resize(2, 1)
    busy(pace, 100, 0, 2)
    before = pace.limit_rows
    busy(pace, 40, 2, 2.2)
    assert pace.limit_rows == pytest.approx(before, rel=0.01)
    busy(pace, 40, 2.2, 2.2 + 0.3 * RATES)
    assert pace.limit_rows < 0.5 * before


def test_a_rate_at_which_nothing_waits_says_nothing_but_that_there_is_room() -> None:
    pace = Pace(0.5, 0.5)
    pace.resize(2, 256)
    busy(pace, 80, 0, 3)
    before = pace.limit_rows
    busy(pace, 10, 3, 3.4, queued_rows=0)
    assert pace.limit_rows == pytest.approx(before, rel=0.01)  # no window is over yet: eight batches make one
    busy(pace, 10, 3.4, 5, queued_rows=0)
    assert pace.limit_rows >= before * GROWTH
    for n in range(100):
        assert pace.idle(6.0 + 0.2 * n)
    assert pace.limit_rows == pytest.approx(2 * 256 / 0.02 * (DEPTH * 0.02 + 0.5) / 0.5)
