"""The faster way is chosen, sleep where both are alike, and the choice follows what changes."""

import random

from serving.eagerness import ROUND, TRIALS, Choice


def waits(choice: Choice, asleep_s: float, awake_s: float, calls: int, rng: random.Random) -> float:
    """The share that was awaited awake, of calls that take this long, some of them ten times as long."""
    awakes = 0
    for _ in range(calls):
        awakes += choice.awake
        took_s = awake_s if choice.awake else asleep_s
        choice.took(took_s * rng.uniform(0.9, 1.1) * (10 if rng.random() < 0.1 else 1))
    return awakes / calls


def test_the_faster_way_is_chosen() -> None:
    assert waits(Choice(), 150e-6, 100e-6, 20 * ROUND, random.Random(1)) > 0.9


def test_sleep_is_kept_where_both_are_alike_or_waking_is_slower() -> None:
    for awake_s in (100e-6, 97e-6, 130e-6):
        assert waits(Choice(), 100e-6, awake_s, 20 * ROUND, random.Random(2)) < 0.15


def test_it_follows_a_machine_that_becomes_busy_within_two_rounds() -> None:
    choice, rng = Choice(), random.Random(3)
    assert waits(choice, 150e-6, 100e-6, 5 * ROUND, rng) > 0.9
    waits(choice, 150e-6, 300e-6, 2 * (ROUND + 2 * TRIALS), rng)
    assert waits(choice, 150e-6, 300e-6, 5 * ROUND, rng) < 0.1
