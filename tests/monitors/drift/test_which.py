"""Which features: the procedure itself, its error over patience, and what is shown."""

from collections.abc import Callable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from monitors.drift.which import WhichWatch, declared

FEATURES = 20
A = 20.0

Procedure = Callable[[NDArray[np.float64], float], NDArray[np.bool_]]


@given(e=st.lists(st.floats(1e-6, 1e9), min_size=1, max_size=12), run=st.floats(1, 1e4))
def test_it_is_the_largest_set_all_of_which_reach_what_its_size_asks(e: list[float], run: float) -> None:
    found = declared(np.log(e), float(np.log(run)))
    ordered = sorted(e, reverse=True)
    sizes = [k for k in range(1, len(e) + 1) if np.log(ordered[k - 1]) >= np.log(run) + np.log(len(e)) - np.log(k)]
    assert found.sum() == max(sizes, default=0)
    if found.any():
        assert min(np.array(e)[found]) >= max(np.array(e)[~found], default=0.0)


def over_patience(required: float, together: bool, procedure: Procedure, runs: int = 600) -> float:
    """E[false share] / E[blocks] of whoever stops as soon as something is declared; nothing drifts.

    Of all e-detectors the worst wager everything: `required` with probability 1 / required, else nothing.
    """
    rng, patience = np.random.default_rng(8), 0
    for _ in range(runs):
        found = np.zeros(FEATURES, bool)
        while not found.any():
            won = rng.random(1 if together else FEATURES) < 1 / required
            log_e = np.where(np.broadcast_to(won, FEATURES), np.log(required), -700.0)
            found, patience = procedure(log_e, float(np.log(A))), patience + 1
    return runs / patience


def test_the_false_share_over_the_time_waited_is_as_promised() -> None:
    """All features as one, and each on its own: the promise, 1 / A, is reached and not exceeded."""
    for required, together in ((A, True), (A * FEATURES, False)):
        assert 0.8 / A < over_patience(required, together, declared) < 1.15 / A  # three standard errors: 0.12 / A


def test_a_threshold_for_one_feature_breaks_the_promise_of_twenty() -> None:
    assert over_patience(A, False, lambda log_e, log_run: log_e >= log_run - 1e-9) > 10 / A


def test_the_strongest_come_first_and_stay_until_it_is_quiet() -> None:
    watch = WhichWatch()
    for block, evidence in enumerate([{"a": 0.0, "b": 0.0}, {"a": 9.0, "b": 8.0}, {"a": 0.1, "b": 12.0}]):
        watch.judge(evidence, 60.0 * block, 7.0, 2)
    assert [(found.feature, found.log_e, found.since) for found in watch.verdict()] == [
        ("b", 12.0, 60.0), ("a", 9.0, 60.0),
    ]  # fmt: skip
    for block in (3, 4):
        watch.judge({"a": 0.0, "b": 0.0}, 60.0 * block, 7.0, 2)
    assert watch.verdict() == ()


def test_a_saved_watch_goes_on_to_the_same_bits() -> None:
    one, two = WhichWatch(), WhichWatch()
    one.judge({"a": 9.0, "b": 8.0}, 60.0, 7.0, 2)
    two.load(one.save())
    assert one.verdict() == two.verdict() != ()
