import numpy as np
import pytest
from scipy.stats import binom

from monitors.fairness import TOO_FEW, fairness
from monitors.metrics import ALPHA, Metric, Plan, Sums

PLAN = Plan("classification")
NAMES = ["a", "b", "c"]


def table(groups: list[dict[tuple[float, float], int]]) -> tuple[Sums, list[tuple[int, int]]]:
    """Sums and offered predictions of groups, each rows by score and label."""
    sums = []
    for group in groups:
        scores, labels = (np.array(column) for column in zip(*group, strict=True))
        sums.append(PLAN.count(scores, labels, np.array([*group.values()]))[0])
    offered = [(sum(g.values()), sum(n for (score, _), n in g.items() if score >= 0.5)) for g in groups]
    return np.stack(sums), offered


GROUPS: list[dict[tuple[float, float], int]] = [
    {(0.9, 1.0): 400, (0.2, 1.0): 100, (0.2, 0.0): 500},
    {(0.9, 1.0): 150, (0.2, 1.0): 250, (0.9, 0.0): 100, (0.2, 0.0): 500},
    {(0.9, 1.0): 10, (0.2, 0.0): 30},
]


def test_differences_are_those_of_the_definitions_and_a_small_group_has_no_number() -> None:
    found = fairness(PLAN, NAMES, *table(GROUPS), least=100)
    values = {
        rate: {name: round(one.value, 6) for name, one in disparity.segments.items() if isinstance(one, Metric)}
        for rate, disparity in found.items()
    }
    assert values == {
        "selection_rate": {"a": 0.4, "b": 0.25},
        "true_positive_rate": {"a": 0.8, "b": 0.375},
        "error_rate": {"a": 0.1, "b": 0.35},
        "bias": {"a": round(0.5 - 0.48, 6), "b": round(0.4 - 0.375, 6)},
    }  # fmt: skip
    parity = found["selection_rate"]
    assert parity.difference is not None and parity.ratio is not None
    assert parity.difference.value == pytest.approx(0.15) and parity.ratio.value == pytest.approx(0.625)
    assert (parity.largest, parity.smallest) == ("a", "b")
    assert all(disparity.segments["c"] == TOO_FEW for disparity in found.values())


def test_a_rate_of_too_few_rows_is_hidden_though_the_group_is_large() -> None:
    groups = [GROUPS[0], {(0.2, 1.0): 5, (0.2, 0.0): 995}]
    found = fairness(PLAN, NAMES[:2], *table(groups), least=100)
    assert found["true_positive_rate"].segments["b"] == TOO_FEW  # five rows are 1
    assert found["true_positive_rate"].difference is None
    assert isinstance(found["error_rate"].segments["b"], Metric)


def test_the_difference_and_the_ratio_are_inside_at_all_times() -> None:
    streams, looks = 100, np.unique(np.geomspace(100, 4000, 6).astype(int))
    rates, rng = np.array([0.3, 0.45]), np.random.default_rng(8)
    drawn = (rng.random((streams, 2, int(looks[-1]))) < rates[:, None]).cumsum(2)
    misses = 0
    empty = np.zeros((2, PLAN.width), np.int64)
    for stream in drawn:
        outside = False
        for n in looks.tolist():
            offered = [(n, int(ones)) for ones in stream[:, n - 1]]
            found = fairness(PLAN, NAMES[:2], empty, offered, 1, ALPHA / 2)["selection_rate"]
            assert found.difference is not None and found.ratio is not None
            outside |= not found.difference.lower <= 0.15 <= found.difference.upper
            outside |= not found.ratio.lower <= 2 / 3 <= found.ratio.upper
        misses += outside
    assert misses <= binom.ppf(0.999, streams, ALPHA)


def test_no_difference_is_never_shown_as_one_for_sure() -> None:
    found = fairness(PLAN, NAMES[:2], *table([GROUPS[0], GROUPS[0]]), least=100)
    for disparity in found.values():
        assert disparity.difference is not None and disparity.difference.lower == 0.0 == disparity.difference.value


def test_a_regression_has_errors_and_bias() -> None:
    plan, ones = Plan("regression", cap=1.0), np.ones(200, np.int64)
    sums = np.concatenate([plan.count(np.full(200, gap), np.zeros(200), ones) for gap in (0.5, -0.25)])
    found = fairness(plan, NAMES[:2], sums, [(200, 0), (200, 0)], least=100)
    assert found.keys() == {"bias", "mae"}
    assert found["bias"].difference is not None and found["bias"].difference.value == pytest.approx(0.75)
