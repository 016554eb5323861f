import numpy as np
import pytest

from monitors.loss import losses, reference_risk, upper_bound, upper_bound_of_blocks


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


def test_the_bound_holds_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    fails = sum(upper_bound(rng.beta(1, 9, 400), 0.05) < 0.1 for _ in range(1_000))
    assert fails <= 72  # binomial(1000, 0.05): the 99.9 % quantile


def test_the_bound_of_clustered_rows_holds_where_that_of_rows_does_not() -> None:
    rng, block = np.random.default_rng(3), np.repeat(np.arange(30), 100)
    rows = blocks = 0
    for _ in range(300):
        loss = np.repeat(rng.beta(1, 9, 30), 100)
        rows += upper_bound(loss, 0.05) < 0.1
        blocks += upper_bound_of_blocks(loss, block, 0.05) < 0.1
    assert rows > 60  # of 15 that were promised
    assert blocks <= 45  # Student's t is not exact for such skewed losses


def test_the_bound_of_a_reference_with_blocks_of_time_is_that_of_its_blocks() -> None:
    rng, block = np.random.default_rng(5), np.repeat(np.arange(40), 100)
    y = np.repeat(rng.random(40) < 0.3, 100).astype(float)
    apart, _ = reference_risk("classification", np.full(4_000, 0.3), y, None, 0.01)
    clustered, _ = reference_risk("classification", np.full(4_000, 0.3), y, block, 0.01)
    assert apart is not None and clustered is not None
    assert (apart.blocks, clustered.blocks) == (0, 40)
    assert clustered.bound == pytest.approx(upper_bound_of_blocks((y - 0.3) ** 2, block, 0.01))
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
