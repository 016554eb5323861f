import numpy as np
import pytest
from scipy.stats import binom
from sklearn import metrics as sklearn

from monitors.metrics import ALPHA, Plan
from monitors.metrics.regression import bias, regression

PLAN = Plan("regression", quantile=0.8, cap=2.0)


def test_values_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(2)
    labels = rng.normal(size=500)
    scores = labels + rng.normal(0.3, 1.0, 500)
    sums = PLAN.count(scores, labels, np.ones(500, np.int64))
    found = {name: float(estimates.value[0]) for name, estimates in regression(PLAN, sums).items()}
    assert found == pytest.approx(
        {
            "mae": sklearn.mean_absolute_error(labels, scores),
            "rmse": sklearn.root_mean_squared_error(labels, scores),
            "pinball": sklearn.mean_pinball_loss(labels, scores, alpha=0.8),
        },
        abs=1e-7,
    )  # fmt: skip
    assert float(bias(PLAN, sums).value[0]) == pytest.approx(float((labels - scores).mean()), abs=1e-7)


def test_an_error_counts_up_to_eight_caps() -> None:
    sums = PLAN.count(np.array([np.inf, 0.0]), np.array([0.0, 1e9]), np.ones(2, np.int64))
    assert float(regression(PLAN, sums)["mae"].value[0]) == PLAN.most_error == 16.0


def test_every_metric_is_inside_its_interval_at_all_times() -> None:
    streams, looks = 200, np.unique(np.geomspace(5, 3000, 25).astype(int))
    kinds, chance = np.array([-6.0, -1.0, 0.0, 0.5, 12.0]), np.array([0.02, 0.3, 0.3, 0.37, 0.01])
    unit = np.concatenate([PLAN.count(kinds[k : k + 1], np.zeros(1), np.array([1])) for k in range(5)])
    drawn = np.random.default_rng(4).choice(5, (streams, int(looks[-1])), p=chance)
    times = np.stack([(drawn == k).cumsum(1)[:, looks - 1] for k in range(5)], -1).reshape(-1, 5)
    whole = (np.rint(chance * 10**6).astype(np.int64) @ unit)[None]
    found, truth = regression(PLAN, times @ unit), regression(PLAN, whole)
    found["bias"], truth["bias"] = bias(PLAN, times @ unit), bias(PLAN, whole)
    for name, estimates in found.items():
        lower, upper = estimates.interval
        out = (lower > truth[name].value + 1e-6) | (upper < truth[name].value - 1e-6)
        assert out.reshape(streams, -1).any(1).sum() <= binom.ppf(0.999, streams, ALPHA), name
