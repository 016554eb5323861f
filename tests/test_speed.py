"""The faster replica gets the work until waiting for it takes longer than the slower one, whatever the load."""

import heapq
import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.speed import JUMP, UNKNOWN, Line, Seat, Speed, Timed, batch_rows, choose, line, timed

SECONDS = st.floats(0, 100)
SEATS = st.lists(st.builds(Seat, st.booleans(), SECONDS), max_size=8)


class Machine:
    """Time that passes only while something runs."""

    def __init__(self, run: Line) -> None:
        self.now, self._run, self.runs = 0.0, run, list[int]()

    def clock(self) -> float:
        return self.now

    def run(self, rows: int) -> None:
        self.runs.append(rows)
        self.now += self._run.run_s(rows)


def test_batches_are_timed_in_powers_of_two_up_to_the_bound_or_the_end_of_the_budget() -> None:
    machine = Machine(Line(0.001, 0.0001))
    points = timed(machine.run, 12, 1.0, machine.clock)
    assert [point.rows for point in points] == [1, 2, 4, 8, 12]
    assert line(points) == pytest.approx((0.001, 0.0001))
    slow = Machine(Line(0.0, 0.1))
    assert [point.rows for point in timed(slow.run, 256, 2.0, slow.clock)] == [1, 2]
    assert slow.now <= 2.0
    endless = Machine(Line(10.0, 0.0))
    assert timed(endless.run, 256, 0.5, endless.clock) == (Timed(1, 10.0),)


@given(fixed_s=st.floats(0, 0.1), row_s=st.floats(1e-7, 0.1))
def test_the_batch_that_is_chosen_is_nearly_as_fast_as_the_best_and_none_smaller_is(
    fixed_s: float, row_s: float
) -> None:
    run = Line(fixed_s, row_s)
    points = [Timed(2**n, run.run_s(2**n)) for n in range(9)]
    chosen = batch_rows(points)
    rates = {point.rows: point.rows / (point.run_s + 1e-4) for point in points}
    assert rates[chosen] >= 0.9 * max(rates.values())
    assert chosen == 1 or rates[chosen // 2] < 0.9 * max(rates.values())


def test_a_model_that_takes_as_long_for_each_row_needs_no_batches_and_one_that_does_not_large_ones() -> None:
    assert batch_rows([Timed(2**n, 0.02 * 2**n) for n in range(9)]) == 1
    assert batch_rows([Timed(2**n, 0.02) for n in range(9)]) == 256


def test_a_pools_speed_follows_its_runs_and_one_pause_changes_little() -> None:
    speed = Speed(Line(0.001, 0.0001))
    for _ in range(40):
        speed.took(10, 0.004)
    assert speed.run_s(10) == pytest.approx(0.004, rel=0.01)
    assert speed.run_s(20) == pytest.approx(0.006, rel=0.01)
    speed.took(10, 30.0)
    assert speed.run_s(10) < (1 + 0.2 * JUMP) * 0.004
    assert Speed(Line(0.0, 0.0)).run_s(8) == UNKNOWN.run_s(8)


@given(SEATS, SECONDS, SECONDS)
def test_what_is_chosen_is_free_and_the_first_to_answer(seats: list[Seat], waited_s: float, patience_s: float) -> None:
    at = choose(seats, waited_s, patience_s)
    free = [seat for seat in seats if seat.free]
    full_s = [seat.done_s for seat in seats if not seat.free]
    if at is not None:
        assert seats[at].free and seats[at].done_s == min(seat.done_s for seat in free)
    elif free:  # waited for, because it pays
        assert waited_s + min(full_s) < min(*(seat.done_s for seat in free), patience_s)


@given(SEATS, SECONDS, SECONDS, SECONDS)
def test_who_has_waited_longer_waits_no_more_readily(
    seats: list[Seat], waited_s: float, more_s: float, patience_s: float
) -> None:
    if choose(seats, waited_s, patience_s) is not None:
        assert choose(seats, waited_s + more_s, patience_s) is not None


def test_without_patience_nothing_waits_beside_a_free_replica() -> None:
    assert choose([Seat(False, 0.0), Seat(True, 9.0)], 0.0, 0.0) == 1
    assert choose([Seat(False, 0.0)], 0.0, 0.0) is None and choose([], 0.0, 0.1) is None


FAST_S, SLOW_S, DEPTH = 0.005, 0.040, 2  # runs of two replicas, and what each may hold
FULL_PER_S = 1 / FAST_S + 1 / SLOW_S


def served(load: float, patience_s: float, n: int = 10_000) -> tuple[list[float], list[int]]:
    """Latencies of `n` requests that come at random at `load` times what both replicas can do; runs of each."""
    rng = random.Random(1)
    arrivals = _arrivals(rng, load * FULL_PER_S, n)
    run_s, busy_until, held = (FAST_S, SLOW_S), [0.0, 0.0], [0, 0]
    queue: list[float] = []
    latencies, runs = [], [0, 0]
    events: list[tuple[float, int]] = []  # when a replica ends a run
    coming = next(arrivals, None)
    while coming is not None or events or queue:
        if events and (coming is None or events[0][0] <= coming):
            now, at = heapq.heappop(events)
            held[at] -= 1
        else:
            assert coming is not None
            now = coming
            queue.append(now)
            coming = next(arrivals, None)
        while queue:
            seats = [
                Seat(held[i] < DEPTH, max(0.0, busy_until[i] - now) + s * (1 if held[i] < DEPTH else len(queue)))
                for i, s in enumerate(run_s)
            ]
            if (to := choose(seats, now - queue[0], patience_s)) is None:
                break
            busy_until[to] = max(now, busy_until[to]) + run_s[to]
            heapq.heappush(events, (busy_until[to], to))
            latencies.append(busy_until[to] - queue.pop(0))
            held[to] += 1
            runs[to] += 1
    return latencies, runs


def _arrivals(rng: random.Random, rate_per_s: float, n: int) -> Iterator[float]:
    now = 0.0
    for _ in range(n):
        now += rng.expovariate(rate_per_s)
        yield now


def test_traffic_goes_to_the_faster_until_it_is_full_then_to_both() -> None:
    shares = []
    for load in (0.2, 0.5, 0.85, 0.97):
        _, (fast, slow) = served(load, 0.1)
        shares.append(slow / (fast + slow))
    assert shares[0] == 0.0 and shares[1] < 0.005
    assert shares == sorted(shares)
    assert 0.8 * FAST_S / (FAST_S + SLOW_S) < shares[3]  # nearly all that the slower can do


def test_to_wait_for_the_faster_answers_sooner_than_to_use_whatever_is_free() -> None:
    patient, _ = served(0.6, 0.1)
    hasty, _ = served(0.6, 0.0)
    assert sum(patient) < 0.9 * sum(hasty)
    assert sorted(patient)[int(0.99 * len(patient))] < sorted(hasty)[int(0.99 * len(hasty))]
