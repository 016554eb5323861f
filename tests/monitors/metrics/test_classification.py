import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from sklearn import metrics as sklearn

from monitors.metrics import ALPHA, Plan, Sums
from monitors.metrics.classification import bias, classification
from monitors.metrics.sequence import Floats
from tests.monitors.metrics.bins import auc_error

PLAN = Plan("classification", threshold=0.37)


def counted(scores: Floats, labels: Floats, plan: Plan = PLAN) -> Sums:
    return plan.count(scores, labels, np.ones(len(scores), np.int64))


def rows(n: int, seed: int = 1) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    scores = rng.beta(0.4, 1.5, n).astype(np.float32).astype(np.float64)
    return scores, (rng.random(n) < scores**1.3).astype(np.float64)


def calibration_error(scores: Floats, labels: Floats) -> float:
    group = np.minimum((scores * 10).astype(int), 9)
    return sum(abs(float((labels - scores)[group == k].sum())) for k in range(10)) / len(scores)


@pytest.mark.parametrize("n", [20, 3000])
def test_values_are_those_of_scikit_learn(n: int) -> None:
    scores, labels = rows(n)
    found = {
        name: float(estimates.value[0]) for name, estimates in classification(PLAN, counted(scores, labels)).items()
    }
    one = scores >= 0.37
    assert found == pytest.approx(
        {
            "accuracy": sklearn.accuracy_score(labels, one),
            "precision": sklearn.precision_score(labels, one),
            "recall": sklearn.recall_score(labels, one),
            "f1": sklearn.f1_score(labels, one),
            "selection_rate": one.mean(),
            "label_mean": labels.mean(),
            "brier": sklearn.brier_score_loss(labels, scores),
            "log_loss": sklearn.log_loss(labels, np.clip(scores, 2.0**-23, 1 - 2.0**-23)),
            "ece": calibration_error(scores, labels),
            "auc": found["auc"],
        },
        abs=1e-8,
    )  # fmt: skip
    error = float(auc_error(PLAN, counted(scores, labels))[0])
    assert abs(found["auc"] - sklearn.roc_auc_score(labels, scores)) <= error < 0.02


def test_there_is_no_metric_about_no_row() -> None:
    found = classification(PLAN, counted(np.array([0.1, 0.2]), np.zeros(2)))
    assert {name for name, estimates in found.items() if estimates.at(0) is None} == {
        "precision",
        "recall",
        "f1",
        "auc",
    }
    assert all(estimates.at(0) is None for estimates in classification(PLAN, counted(*rows(0))).values())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.integers(0, 2)), max_size=20), st.floats(0.01, 0.99))
def test_sums_of_segments_add_up_and_what_is_taken_back_leaves_nothing(
    drawn: list[tuple[float, bool, int]], threshold: float
) -> None:
    plan = Plan("classification", threshold)
    scores, labels, places = (np.array([row[k] for row in drawn], float) for k in range(3))
    signs, at = np.ones(len(drawn), np.int64), places.astype(np.intp)
    apart = plan.count(scores, labels, signs, at, 3)
    assert (apart.sum(0) == counted(scores, labels, plan)[0]).all()
    assert not (apart + plan.count(scores, labels, -signs, at, 3)).any()
    assert plan.rows(apart).tolist() == np.bincount(at, minlength=3).tolist()


SCORES = np.array([0.03, 0.2, 0.38, 0.45, 0.7, 0.97])
LAWS = {  # of score and label: the share of each score, and of label 1 in it
    "calibrated": (np.array([0.3, 0.2, 0.2, 0.1, 0.1, 0.1]), SCORES),
    "sure and wrong": (np.array([0.4, 0.1, 0.0, 0.0, 0.1, 0.4]), np.array([0.2, 0.5, 0.5, 0.5, 0.5, 0.7])),
    "rare": (np.array([0.9, 0.05, 0.02, 0.01, 0.01, 0.01]), np.array([0.005, 0.01, 0.02, 0.1, 0.3, 0.5])),
}
LOOKS = np.unique(np.geomspace(10, 3000, 10).astype(int))
STREAMS = 120
ALLOWED = int(binom.ppf(0.999, STREAMS, ALPHA))


@pytest.mark.parametrize("law", LAWS)
def test_every_metric_is_inside_its_interval_at_all_times(law: str) -> None:
    """The truth is the metric of the law itself, counted as so many rows."""
    share, one = LAWS[law]
    chance = np.concatenate([share * (1 - one), share * one])
    kinds, labels = np.tile(SCORES, 2), np.repeat([0.0, 1.0], 6)
    unit = np.concatenate([PLAN.count(kinds[k : k + 1], labels[k : k + 1], np.array([1])) for k in range(12)])
    drawn = np.random.default_rng(3).choice(12, (STREAMS, int(LOOKS[-1])), p=chance)
    times = np.stack([(drawn == k).cumsum(1)[:, LOOKS - 1] for k in range(12)], -1).reshape(-1, 12)
    whole = (np.rint(chance * 10**6).astype(np.int64) @ unit)[None]
    found, truth = classification(PLAN, times @ unit), classification(PLAN, whole)
    found["bias"], truth["bias"] = bias(PLAN, times @ unit), bias(PLAN, whole)
    for name, estimates in found.items():
        lower, upper = estimates.interval
        known = estimates.n > 0
        out = known & ((lower > truth[name].value + 1e-6) | (upper < truth[name].value - 1e-6))
        assert out.reshape(STREAMS, -1).any(1).sum() <= ALLOWED, name
        assert (known <= ((lower <= estimates.value + 1e-9) & (estimates.value <= upper + 1e-9))).all(), name


def test_an_interval_without_a_mixture_over_its_bets_misses_more_often() -> None:
    """The mutant: a share's interval at one time, by the same likelihood ratio, without its price for all times."""
    drawn = np.random.default_rng(3).random((STREAMS, 3000)) < 0.5
    n, s = LOOKS[None], drawn.cumsum(1)[:, LOOKS - 1]
    p = s / n
    ratio = s * np.log(np.maximum(p, 1e-300) / 0.5) + (n - s) * np.log(np.maximum(1 - p, 1e-300) / 0.5)
    assert (ratio > 1.92).any(1).sum() > ALLOWED
