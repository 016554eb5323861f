import numpy as np
import pytest
from scipy.stats import binom

from monitors.metrics import ALPHA, Plan, Task, kpi


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_mean_is_told_within_its_range_and_not_without_one(task: Task) -> None:
    plan, ones = Plan(task, low=-5.0, high=5.0), np.ones(4, np.int64)
    scores, labels, sent = np.full(4, 0.5), np.array([0.0, 1.0, 1.0, 0.0]), np.array([-9.0, 0.0, 2.0, 9.0])
    found = kpi(plan, plan.count(scores, labels, ones, kpis=sent))["kpi"].at(0)
    assert found is not None and found.n == 4
    assert found.value == pytest.approx(0.5) and found.lower < 0.5 < found.upper
    assert float(kpi(plan, plan.count(scores, labels, ones))["kpi"].value[0]) == pytest.approx(0.5)  # of the label
    bare = Plan(task)
    assert kpi(bare, bare.count(scores, labels, ones, kpis=sent)) == {}


def test_the_mean_is_inside_at_all_times() -> None:
    plan, streams, looks = Plan("regression", high=100.0), 200, np.unique(np.geomspace(5, 2000, 20).astype(int))
    kinds, chance = np.array([0.0, 3.0, 90.0]), np.array([0.9, 0.07, 0.03])
    unit = np.concatenate([plan.count(np.zeros(1), kinds[k : k + 1], np.array([1])) for k in range(3)])
    drawn = np.random.default_rng(4).choice(3, (streams, int(looks[-1])), p=chance)
    times = np.stack([(drawn == k).cumsum(1)[:, looks - 1] for k in range(3)], -1).reshape(-1, 3)
    lower, upper = kpi(plan, times @ unit)["kpi"].interval
    out = (lower > kinds @ chance + 1e-6) | (upper < kinds @ chance - 1e-6)
    assert out.reshape(streams, -1).any(1).sum() <= binom.ppf(0.999, streams, ALPHA)
