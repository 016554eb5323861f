"""Arrivals: the same for the same seed, with the mean that was asked for, and as uneven as their shape says."""

import numpy as np
import pytest

from loadtests.open_loop.arrivals import SHAPES, Times, plan

SECONDS = 400.0


def times(shape: str, rate: float = 50.0, peak: float = 5.0, seed: int = 1) -> Times:
    return plan(shape, rate, SECONDS, {"default": 1.0}, 1, peak, seed).times_s


def dispersion(arrivals: Times) -> float:
    """Variance over mean of the arrivals in a tenth of a second: 1 for a Poisson process."""
    counts = np.histogram(arrivals, np.arange(0, SECONDS, 0.1))[0]
    return float(counts.var() / counts.mean())


@pytest.mark.parametrize("shape", SHAPES)
def test_a_seed_fixes_the_arrivals_and_they_ascend_within_the_run(shape: str) -> None:
    one, same, other = times(shape), times(shape), times(shape, seed=2)
    assert (one == same).all() and (shape == "constant" or len(one) != len(other))
    assert (np.diff(one) >= 0).all() and one[0] >= 0 and one[-1] < SECONDS


@pytest.mark.parametrize(("shape", "sigma"), [("constant", 0.0), ("poisson", 1.0), ("bursty", 4.0)])
def test_the_mean_rate_is_the_one_asked_for(shape: str, sigma: float) -> None:
    """Bursts come in 320 pairs of states, so their number is less certain than that of single arrivals."""
    for seed in range(5):
        assert abs(len(times(shape, seed=seed)) - 50 * SECONDS) <= 4 * sigma * (50 * SECONDS) ** 0.5 + 1


def test_shapes_are_as_uneven_as_they_say() -> None:
    assert dispersion(times("constant")) < 0.2
    assert 0.9 < dispersion(times("poisson")) < 1.1
    assert dispersion(times("bursty")) > 2


def test_a_step_has_its_peak_in_the_middle_third() -> None:
    counts = np.histogram(times("step", peak=4.0), [0, SECONDS / 3, 2 * SECONDS / 3, SECONDS])[0]
    assert counts[1] / counts[0] == pytest.approx(4, rel=0.1) and counts[2] / counts[0] == pytest.approx(1, rel=0.1)


def test_classes_come_in_their_shares_and_clients_evenly() -> None:
    found = plan("constant", 100, 100, {"critical": 1, "default": 8, "sheddable": 1}, 4, 1.0, seed=1)
    shares = np.bincount(found.priorities) / len(found)
    assert found.names == ("critical", "default", "sheddable")
    assert shares == pytest.approx([0.1, 0.8, 0.1], abs=0.015)
    assert np.bincount(found.clients) / len(found) == pytest.approx([0.25] * 4, abs=0.02)
