"""Bets on rows of several hours, each against the reference of its hour of the week.

What was learned is one tilt of the law of all hours, q / theta; in an hour with the law theta_h it is taken to be the
same, q_h ~ theta_h q / theta. So an evening teaches what to bet in the morning, and the season is no drift:

    S_c <- max(S_c, 0) + sum over hours of (1/D) sum_k n_hk log e_hk,   e_h from theta_h, q_h and its tolerance
    then q <- 0.9 q + 0.1 ~ theta_k (sum_h n_hk + 1/2) / (sum_h n_h theta_hk + 1/2)

E[e] <= 1 exactly: in which hour a row comes is known before it is looked at; q_h and e are fixed before the block;
given the past, the row's law lies within the tolerance of the law behind the reference of its hour, whose error bound
is in the tolerance of the hour (the bounds of all hours hold together with probability 1 - alpha), so
E[e_h] <= 1 as in `e_detector`, and the product over the rows of any hours is again at most 1 on average. Dividing by D
keeps it so, since clusters may as well have rows of two hours. Rows of hours without a reference are not bet on.

What is learned is observed over expected rows, which takes an hour for what is usual in it; half a row is added to
either, so that one row in a cell that is nearly empty at its hour is not taken for a new law.
"""

import numpy as np
from numpy.typing import NDArray

from monitors.drift.e_detector import LEARN, Bettor, Floats


def bet(bettor: Bettor, theta: Floats, tolerance: Floats, counts: NDArray[np.int64], design_effect: Floats) -> Floats:
    """Take a block's rows by hour and cell, shape (…, H, K); `theta`, of the same shape, are the laws of these hours,
    and `tolerance`, shape (…, H), is theirs. Return the log winnings, shape (…, clips); `bettor` has learned.

    >>> night, day = np.array([0.9, 0.1]), np.array([0.4, 0.6])
    >>> bettor = Bettor(np.array([0.6, 0.4]), tolerance=0.02)
    >>> for _ in range(20):
    ...     won = bet(bettor, np.stack([night, day]), np.full(2, 0.05), np.array([[90, 10], [80, 120]]), np.array(1.0))
    >>> bool(won.max() < 0.5), bettor.q.round(1).tolist()
    (True, [0.6, 0.4])
    """
    hourly = type(bettor)(theta, tolerance)
    hourly.q = _normed(theta * (bettor.q / bettor.theta)[..., None, :])
    won = hourly.together(hourly.won(counts, design_effect[..., None]), counts.sum(-1))
    expected = (counts.sum(-1, keepdims=True) * theta).sum(-2)
    seen = _normed(bettor.theta * (counts.sum(-2) + 0.5) / (expected + 0.5))
    bettor.q = (1 - LEARN) * bettor.q + LEARN * seen
    return won


def _normed(shares: Floats) -> Floats:
    return np.asarray(shares / shares.sum(-1, keepdims=True))
