"""The autoscaler: within its bounds, up soon and down late, to zero and back, at rest under a steady load."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.autoscaling import History, Load, Observation, decide, propose
from serving.config import Replicas

POLICY = Replicas(min=1, max=10, target_busy_ratio=0.5, catch_up_s=1, up_after_s=1, down_after_s=10)
TO_ZERO = Replicas(min=0, max=4, sleep_after_s=5, down_after_s=0, up_after_s=0)
TICK_S = 0.1

ratios = st.floats(0, 1)
loads = st.lists(st.builds(Load, ratios, st.floats(0, 1e6), st.floats(0, 1e6)), max_size=40).map(tuple)


@st.composite
def policies(draw: st.DrawFn, most: float = 1.0) -> Replicas:
    least = draw(st.integers(0, 20))
    return Replicas(
        min=least,
        max=draw(st.integers(max(least, 1), 40)),
        target_busy_ratio=draw(st.floats(0.05, most)),
        catch_up_s=draw(st.floats(0.001, 10)),
        up_after_s=draw(st.floats(0, 10)),
        down_after_s=draw(st.floats(0, 100)),
        sleep_after_s=draw(st.floats(0.1, 100)),
    )


class Pool:
    """Replicas that follow the autoscaler at once, tick after tick."""

    def __init__(self, policy: Replicas, target: int) -> None:
        self.policy, self.target, self.now, self.history = policy, target, 0.0, History()
        self.changes: list[tuple[float, int]] = []

    def tick(self, *loads: Load, waiting: float = 0.0) -> int:
        decision = decide(self.policy, self.history, Observation(self.now, self.target, loads, waiting))
        self.history = decision.history
        if decision.replicas != self.target:
            self.target = decision.replicas
            self.changes.append((self.now, self.target))
        self.now = round(self.now + TICK_S, 6)
        return self.target

    def run(self, seconds: float, offered: float) -> int:
        """`offered`: as much work as keeps so many replicas busy; what is more than there are grows a queue."""
        for _ in range(round(seconds / TICK_S)):
            n = max(1, self.target)
            over = max(0.0, offered - n)
            self.tick(*[Load(min(1.0, offered / n), over / n)] * n)
        return self.target


@given(policies(), st.lists(st.tuples(st.floats(0, 10), loads, st.floats(0, 100)), min_size=1, max_size=30))
def test_whatever_is_seen_the_bounds_hold_and_little_is_remembered(
    policy: Replicas, seen: list[tuple[float, tuple[Load, ...], float]]
) -> None:
    now, target, history = 0.0, policy.min, History()
    for elapsed_s, several, waiting in seen:
        now += elapsed_s
        decision = decide(policy, history, Observation(now, target, several, waiting))
        assert policy.min <= decision.replicas <= policy.max
        target, history = decision.replicas, decision.history
        assert max(len(history.rising), len(history.falling)) <= policy.max - policy.min + 1


# Above 0.9 a replica that is always busy lies within the tolerance: then only the queue tells that there is more.
@given(policies(most=0.9), st.integers(1, 40), st.floats(0.01, 30))
def test_a_steady_load_is_followed_once_and_then_left_alone(policy: Replicas, start: int, offered: float) -> None:
    pool = Pool(policy, min(max(start, policy.min), policy.max))
    pool.run(policy.up_after_s + policy.down_after_s + 20, offered)
    settled = len(pool.changes)
    pool.run(60, offered)
    assert len(pool.changes) == settled
    enough = offered / policy.target_busy_ratio
    assert pool.target >= min(policy.max, enough / 1.1 - 1e-6)  # within the tolerance of what is asked for
    assert pool.target <= max(policy.min, 1, start, 10 * offered + 1, enough / 0.9 + 1)


@given(st.floats(0.1, 9), st.floats(0.1, 9))
def test_a_change_of_load_turns_the_direction_at_most_once(before: float, after: float) -> None:
    pool = Pool(POLICY, 1)
    pool.run(30, before)
    pool.changes.clear()
    pool.run(120, after)
    counts = [count for _, count in pool.changes]
    steps = [b - a for a, b in pairwise(counts)]
    assert sum(a * b < 0 for a, b in pairwise(steps)) <= 1


def test_more_is_added_once_it_was_wanted_for_up_after_s() -> None:
    pool = Pool(POLICY, 2)
    pool.run(5, offered=1.0)
    assert pool.changes == []
    assert pool.run(0.9, offered=2.0) == 2  # 2 / 0.5 = 4 are wanted
    assert pool.run(0.2, offered=2.0) == 4


def test_a_moment_of_load_adds_nothing() -> None:
    pool = Pool(POLICY, 2)
    for _ in range(20):
        pool.run(0.8, offered=10.0)
        pool.run(0.2, offered=1.0)
    assert pool.changes == []


def test_some_are_taken_away_once_they_were_not_wanted_for_down_after_s() -> None:
    pool = Pool(POLICY, 8)
    assert pool.run(9.8, offered=1.0) == 8
    assert pool.run(0.4, offered=1.0) == 2


def test_a_start_anew_cuts_nothing_before_down_after_s() -> None:
    """The history is lost with the process that had it; the replicas are not."""
    pool = Pool(POLICY, 8)
    pool.run(5, offered=1.0)
    pool.history = History()
    assert pool.run(9.8, offered=1.0) == 8


@pytest.mark.parametrize(("offered", "wanted"), [(0.9, 2), (1.0, 2), (1.09, 2), (1.11, 3), (0.89, 2)])
def test_within_the_tolerance_nothing_changes(offered: float, wanted: int) -> None:
    assert propose(POLICY, Observation(0, 2, (Load(offered / 2),) * 2)) == wanted


def test_the_queue_is_seen_where_the_busy_ratio_ends() -> None:
    busy = Load(busy_ratio=1.0)
    assert propose(POLICY, Observation(0, 2, (busy, busy))) == 4
    behind = Load(busy_ratio=1.0, queue_s=0.5)  # half a second of work, to be caught up in one
    assert propose(POLICY, Observation(0, 2, (behind, behind))) == 6
    assert propose(POLICY, Observation(0, 2, (Load(1.0, queue_s=1e9),))) == POLICY.max


def test_to_zero_only_when_every_replica_was_idle_for_sleep_after_s() -> None:
    idle, used = Load(0.0, idle_s=5.0), Load(0.0, idle_s=4.9)
    assert propose(TO_ZERO, Observation(0, 2, (idle, used))) == 1
    assert propose(TO_ZERO, Observation(0, 2, (idle, idle))) == 0
    assert propose(POLICY, Observation(0, 2, (idle, idle))) == 1  # `min` is 1


def test_at_zero_it_stays_until_a_request_waits() -> None:
    pool = Pool(TO_ZERO, 0)
    assert [pool.tick() for _ in range(100)] == [0] * 100
    assert pool.tick(waiting=1) == 1
    assert [pool.tick() for _ in range(100)] == [1] * 100  # it starts, and has said nothing yet


def test_replicas_that_died_are_still_wanted() -> None:
    pool = Pool(POLICY, 4)
    pool.run(1, offered=2.0)
    assert [pool.tick() for _ in range(300)] == [4] * 300
