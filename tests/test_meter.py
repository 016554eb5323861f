"""How loaded a replica is: busy time also of a run that goes on, the queue without the next run's work."""

import pytest

from serving.meter import Meter


def test_a_replica_without_requests_is_idle_since_it_began() -> None:
    meter = Meter(10.0)
    load = meter.read(0, 15.0)
    assert (load.busy_ratio, load.queue_s, load.idle_s) == (0.0, 0.0, 5.0)


def test_each_reading_tells_of_the_time_since_the_one_before() -> None:
    meter = Meter(0.0)
    for _ in range(5):
        meter.began(0.0)
        meter.ended(rows=1, run_s=0.1)
    assert meter.read(0, 1.0).busy_ratio == pytest.approx(0.5)
    assert meter.read(0, 2.0).busy_ratio == 0.0


def test_a_run_that_goes_on_is_busy_time_and_counts_once() -> None:
    meter = Meter(0.0)
    meter.began(0.0)
    assert [meter.read(0, now).busy_ratio for now in (1.0, 2.0)] == [1.0, 1.0]
    meter.ended(rows=1, run_s=2.5)
    assert meter.read(0, 3.0).busy_ratio == pytest.approx(0.5)


def test_a_queue_is_what_is_left_after_the_next_run() -> None:
    meter = Meter(0.0)
    for _ in range(4):
        meter.began(0.0)
        meter.ended(rows=1, run_s=0.02)
    assert meter.read(1, 1.0).queue_s == pytest.approx(0.0)
    assert meter.read(11, 2.0).queue_s == pytest.approx(0.2)  # by the runs before: none since


def test_rows_that_share_a_run_are_no_queue() -> None:
    meter = Meter(0.0)
    meter.began(0.0)
    meter.ended(rows=8, run_s=0.02)
    assert meter.read(8, 1.0).queue_s == pytest.approx(0.0)
    assert meter.read(16, 1.5).queue_s == pytest.approx(0.02)


def test_the_last_request_ends_the_idle_time() -> None:
    meter = Meter(0.0)
    meter.asked = 7.0
    assert meter.read(0, 9.0).idle_s == 2.0
    assert meter.read(0, 6.0).idle_s == 0.0  # a request that came in between
