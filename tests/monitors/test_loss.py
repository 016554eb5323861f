import numpy as np

from monitors.loss import upper_bound_of, upper_bound_of_means
from serving.protocol import Array


def upper_bound(loss: Array, alpha: float) -> float:
    return upper_bound_of(len(loss), float(loss.mean()), float(loss.var(ddof=1)), alpha)


def test_the_bound_holds_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    fails = sum(upper_bound(rng.beta(1, 9, 400), 0.05) < 0.1 for _ in range(1_000))
    assert fails <= 72  # binomial(1000, 0.05): the 99.9 % quantile


def test_the_bound_of_clustered_rows_holds_where_that_of_rows_does_not() -> None:
    rng = np.random.default_rng(3)
    rows = blocks = 0
    for _ in range(300):
        loss = np.repeat(rng.beta(1, 9, 30), 100)
        rows += upper_bound(loss, 0.05) < 0.1
        blocks += upper_bound_of_means(loss.reshape(30, 100).mean(1), 0.05) < 0.1
    assert rows > 60  # of 15 that were promised
    assert blocks <= 45  # Student's t is not exact for such skewed losses
