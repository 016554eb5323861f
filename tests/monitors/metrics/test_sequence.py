"""Intervals that are looked at all the time miss no more often than they say, and mutants do."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from monitors.metrics.sequence import ALPHA, Floats, Interval, mean, radius, share

STREAMS = 200
LOOKS = np.unique(np.geomspace(3, 3000, 30).astype(int))
ALLOWED = int(binom.ppf(0.999, STREAMS, ALPHA))

Values = NDArray[np.floating[Any]]
Draw = Callable[[np.random.Generator, tuple[int, int]], Values]

LAWS: dict[str, tuple[Draw, float]] = {
    "even": (lambda rng, shape: (rng.random(shape) < 0.5) * 1.0, 0.5),
    "rare": (lambda rng, shape: (rng.random(shape) < 0.02) * 1.0, 0.02),
    "nearly always": (lambda rng, shape: (rng.random(shape) < 0.995) * 1.0, 0.995),
    "between": (lambda rng, shape: rng.beta(2, 5, shape), 2 / 7),
    "seldom large": (lambda rng, shape: np.where(rng.random(shape) < 0.01, 1.0, 0.02), 0.0298),
    "constant": (lambda rng, shape: np.full(shape, 0.3), 0.3),
}
CLUSTER = 20


def sums(drawn: Values) -> tuple[Floats, Floats, Floats]:
    """Rows, sums and sums of squares at the looks, shape (streams, looks)."""
    at, values = LOOKS - 1, np.asarray(drawn, np.float64)
    return LOOKS[None] + 0.0 * values[:, :1], values.cumsum(1)[:, at], (values**2).cumsum(1)[:, at]


def by_share(n: Floats, s: Floats, squares: Floats) -> Interval:
    return share(n, s)


def by_normal(n: Floats, s: Floats, squares: Floats) -> Interval:
    """What everybody looks at: right at one time, not at all times."""
    far = 1.96 * np.sqrt(np.maximum(squares / n - (s / n) ** 2, 0) / n)
    return Interval(s / n - far, s / n + far)


def missed(
    interval: Callable[[Floats, Floats, Floats], Interval], values: Values, truth: float, worth: float = 1
) -> int:
    """Streams in which the interval misses the truth at any look."""
    lower, upper = interval(*(total / worth for total in sums(values)))
    return int(((lower > truth + 1e-12) | (upper < truth - 1e-12)).any(1).sum())


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("interval", [by_share, mean])
def test_the_truth_is_inside_at_all_times(interval: Callable[..., Interval], law: str) -> None:
    draw, truth = LAWS[law]
    assert missed(interval, draw(np.random.default_rng(5), (STREAMS, int(LOOKS[-1]))), truth) <= ALLOWED


def test_the_normal_interval_misses_more_often() -> None:
    draw, truth = LAWS["even"]
    assert missed(by_normal, draw(np.random.default_rng(5), (STREAMS, int(LOOKS[-1]))), truth) > ALLOWED


@pytest.mark.parametrize("interval", [by_share, mean])
def test_rows_in_clusters_are_covered_when_they_are_worth_one_each_and_only_then(
    interval: Callable[..., Interval],
) -> None:
    draw, truth = LAWS["even"]
    rows = np.repeat(draw(np.random.default_rng(6), (STREAMS, int(LOOKS[-1]) // CLUSTER)), CLUSTER, 1)
    assert missed(interval, rows, truth, worth=CLUSTER) <= ALLOWED
    assert missed(interval, rows, truth) > ALLOWED


def test_intervals_are_about_twice_those_of_one_look_and_narrow_with_the_variance() -> None:
    n = np.array([100.0, 10_000.0, 1_000_000.0])
    lower, upper = share(n, n / 4)
    assert ((upper - lower) / (2 * 1.96 * np.sqrt(0.1875 / n)) < 2.5).all()
    assert (radius(n, np.full(3, 0.1875)) / (1.96 * np.sqrt(0.1875 / n)) < 2.7).all()
    assert radius(np.array(1e4), np.array(1e-4)) < 0.1 * radius(np.array(1e4), np.array(0.25))


def test_without_rows_everything_is_possible() -> None:
    zero = np.zeros(2)
    assert [end.tolist() for end in share(zero, zero)] == [[0, 0], [1, 1]]
    assert radius(zero, zero).tolist() == [1, 1]
    lower, upper = mean(zero, zero, zero)
    assert (lower.tolist(), upper.tolist()) == ([0, 0], [1, 1])
