"""The loss of the reference rows: what it is, what bounds it, and that the parts it comes in do not matter."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitors.baseline import Baseline
from monitors.loss import Risk, losses, upper_bound_of_means
from serving.protocol import Array


def reference_risk(
    task: str | None, f: Array | None, y: Array | None, block: Array | None, alpha: float, cuts: tuple[int, ...] = ()
) -> tuple[Risk | None, str]:
    """In one part, or cut before each row of `cuts`."""
    baseline = Baseline(task, f, y)
    rows = len(f) if f is not None else 0
    for a, b in zip((0, *cuts), (*cuts, rows), strict=True):
        part = [None if column is None else column[a:b] for column in (f, y, block)]
        baseline.add(*part)
    return baseline.risk(alpha)


def test_brier() -> None:
    risk, why = reference_risk("classification", np.array([0.9, 0.2, 0.5]), np.array([1, 1, 0]), None, 0.01)
    assert risk is not None
    assert risk.mean == pytest.approx((0.01 + 0.64 + 0.25) / 3)
    assert (risk.n, risk.cap, risk.bound) == (3, 1.0, 1.0)
    assert why == "risk is not judged: the reference is too small to bound it below 1"


def test_absolute_error_over_its_cap() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(size=5_000)
    risk, why = reference_risk("regression", truth + rng.normal(size=5_000), truth, None, 0.01)
    assert risk is not None and why == ""
    assert risk.cap == pytest.approx(2.576, rel=0.05)  # 99th percentile of |N(0, 1)|
    assert losses(risk.task, risk.cap, np.array([0.0, 0.0]), np.array([risk.cap / 2, -50.0])).tolist() == [0.5, 1.0]
    assert risk.mean < risk.bound < risk.mean + 0.03


def test_rows_without_a_label_are_left_out() -> None:
    f, y = np.full(1_000, 0.5), np.where(np.arange(1_000) % 2, np.nan, 1.0)
    risk, _ = reference_risk("classification", f, y, None, 0.01)
    assert risk is not None and risk.n == 500


@pytest.mark.parametrize(
    ("task", "prediction", "labels", "why"),
    [
        (None, np.zeros(9), np.zeros(9), "declares no task"),
        ("classification", None, np.zeros(9), "has no prediction"),
        ("classification", np.zeros(9), None, "has no labels"),
        ("classification", np.zeros(9), np.array(["a"] * 9), "are not numbers"),
        ("classification", np.zeros(9), np.arange(9), "must be 0 or 1"),
        ("regression", np.zeros(9), np.full(9, np.nan), "0 reference rows have both"),
    ],
)
def test_why_there_is_no_risk(task: str | None, prediction: np.ndarray, labels: np.ndarray, why: str) -> None:
    risk, note = reference_risk(task, prediction, labels, None, 0.01)
    assert risk is None
    assert note.startswith("risk is not judged: ") and why in note


def test_a_constant_regression_has_a_cap() -> None:
    risk, _ = reference_risk("regression", np.ones(500), np.ones(500), None, 0.01)
    assert risk is not None and risk.cap == 1.0 and risk.mean == 0.0


def test_the_bound_of_a_reference_with_blocks_of_time_is_that_of_its_blocks() -> None:
    rng, block = np.random.default_rng(5), np.repeat(np.arange(40), 100)
    y = np.repeat(rng.random(40) < 0.3, 100).astype(float)
    apart, _ = reference_risk("classification", np.full(4_000, 0.3), y, None, 0.01)
    clustered, _ = reference_risk("classification", np.full(4_000, 0.3), y, block, 0.01)
    assert apart is not None and clustered is not None
    assert (apart.blocks, clustered.blocks) == (0, 40)
    assert clustered.bound == pytest.approx(upper_bound_of_means(((y - 0.3) ** 2).reshape(40, 100).mean(1), 0.01))
    assert clustered.bound > apart.bound + 0.02


def test_calibration_adds_up() -> None:
    rng = np.random.default_rng(4)
    f = rng.random(4_000)
    y = (rng.random(4_000) < f).astype(float)
    risk, _ = reference_risk("classification", f, y, None, 0.01)
    assert risk is not None and len(risk.calibration) == 10
    assert sum(row.n for row in risk.calibration) == 4_000
    assert sum(row.n * row.label for row in risk.calibration) == pytest.approx(y.sum())
    assert all(abs(row.prediction - row.label) < 0.12 for row in risk.calibration)


@settings(deadline=None, max_examples=50)
@given(
    cuts=st.lists(st.integers(0, 3_000), max_size=5).map(sorted), task=st.sampled_from(["classification", "regression"])
)
def test_parts_give_the_risk_of_the_whole(cuts: list[int], task: str) -> None:
    rng = np.random.default_rng(6)
    f, y = rng.random(3_000), (rng.random(3_000) < 0.4).astype(float)
    f[::7], y[::11] = np.nan, np.nan
    block = np.arange(3_000) // 100
    whole, _ = reference_risk(task, f, y, block, 0.01)
    parts, _ = reference_risk(task, f, y, block, 0.01, tuple(cuts))
    assert whole is not None and parts is not None
    assert (parts.n, parts.blocks, parts.cap) == (whole.n, whole.blocks, whole.cap)
    assert [row.n for row in parts.calibration] == [row.n for row in whole.calibration]
    for name in ("mean", "bound", "design_effect"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-12)
    for a, b in zip(parts.calibration, whole.calibration, strict=True):
        assert (a.low, a.prediction, a.label) == pytest.approx((b.low, b.prediction, b.label), rel=1e-12)


def test_design_effect_of_the_loss() -> None:
    rng, block = np.random.default_rng(7), np.arange(20_000) // 200
    apart, _ = reference_risk("classification", np.full(20_000, 0.5), rng.integers(0, 2, 20_000), block, 0.01)
    assert apart is not None and apart.design_effect == 1  # a loss without variance
    f = np.full(20_000, 0.3)
    loose, _ = reference_risk("classification", f, rng.integers(0, 2, 20_000), block, 0.01)
    tied, _ = reference_risk("classification", f, np.repeat(rng.integers(0, 2, 1_000), 20), block, 0.01)
    assert loose is not None and tied is not None
    assert 1 <= loose.design_effect < 1.5
    assert tied.design_effect == pytest.approx(20, rel=0.35)
