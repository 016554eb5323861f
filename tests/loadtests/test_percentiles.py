"""Percentiles: only those that the sample carries, with intervals that hold the truth as often as they say."""

import numpy as np
import pytest

from loadtests.open_loop.percentiles import percentiles


@pytest.mark.parametrize(
    ("n", "quantiles"),
    [
        (19, []),
        (20, [0.5]),
        (100, [0.5, 0.9]),
        (999, [0.5, 0.9]),
        (1000, [0.5, 0.9, 0.99]),
        (9_999, [0.5, 0.9, 0.99]),
        (10_000, [0.5, 0.9, 0.99, 0.999]),
    ],
)
def test_a_percentile_needs_ten_values_above_it(n: int, quantiles: list[float]) -> None:
    assert [one.quantile for one in percentiles(range(n))] == quantiles


def test_intervals_hold_the_true_percentile() -> None:
    """Of 500 samples of an exponential distribution at least 92 % must; 95 % are promised."""
    rng = np.random.default_rng(7)
    found = [percentiles(rng.exponential(size=1000)) for _ in range(500)]
    for i, q in enumerate((0.5, 0.9, 0.99)):
        truth = -np.log(1 - q)
        held = [one[i].lower <= truth <= one[i].upper for one in found]
        assert 0.92 < np.mean(held) < 0.99
        assert all(one[i].lower <= one[i].value <= one[i].upper for one in found)


def test_the_value_is_one_of_the_sample() -> None:
    found = percentiles(range(1, 1001))
    assert [one.value for one in found] == [500, 900, 990] and found[0].samples == 1000
