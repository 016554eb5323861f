"""Who is driven when, and what is left of many rounds."""

import pytest

from loadtests.rounds import Cell, Measured, medians, order, plan
from loadtests.wrk import Run


def measured(requests: int, p50_s: float, cpu_s: dict[str, float], failed: int = 0) -> Measured:
    return Measured(Run(requests, failed, 2.0, {50.0: p50_s}), cpu_s)


def test_everyone_is_first_once_and_driven_in_each_round() -> None:
    names = ["a", "b", "c"]
    rounds = [order(names, turn) for turn in range(3)]
    assert [one[0] for one in rounds] == names
    assert all(sorted(one) == names for one in rounds)
    assert order([], 5) == []


def test_a_round_interleaves_peers_at_each_load() -> None:
    peers = {"small": ["a", "b"], "large": ["b"]}
    cells = list(plan({"small": (1, 32), "large": (8,)}, peers, turn=1))
    assert cells == [
        Cell("small", 1, "b"),
        Cell("small", 1, "a"),
        Cell("small", 32, "b"),
        Cell("small", 32, "a"),
        Cell("large", 8, "b"),
    ]


def test_each_number_has_its_own_median() -> None:
    rounds = [
        measured(200_000, 0.003, {"server": 2.0}, failed=1),
        measured(400_000, 0.001, {"server": 8.0, "model": 4.0}),
        measured(100_000, 0.002, {"server": 3.0}, failed=2),
    ]
    found = medians(rounds)
    assert found.requests_per_s == 100_000
    assert found.latency_s == {50.0: 0.002}
    assert found.failed == 3
    assert found.cpu_s_per_100k == pytest.approx({"server": 2.0, "model": 0.0})
    assert found.total_cpu_s_per_100k == pytest.approx(2.0)


def test_a_percentile_needs_answers_above_it() -> None:
    run = Run(999, 0, 1.0, {50.0: 0.001, 99.0: 0.002, 99.9: 0.003})
    more = Run(5000, 0, 1.0, run.latency_s)
    assert list(medians([Measured(more, {})]).latency_s) == [50.0, 99.0, 99.9]
    assert list(medians([Measured(run, {}), Measured(more, {})]).latency_s) == [50.0, 99.0]


def test_a_round_in_which_nothing_was_answered_costs_what_it_cost() -> None:
    assert medians([measured(0, 0.0, {"server": 1.0})]).requests_per_s == 0
