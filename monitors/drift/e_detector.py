"""The e-detector of drift: evidence that rows no longer follow the reference, with a promised rate of false alarms.

Null: given the past, each row's law over the K cells lies within total variation `tolerance` of `theta`. For each
clip c a bet f is placed on what was seen so far, made safe against every law within the tolerance, and its log
winnings are summed from the best moment to begin:

    f = clip((0.05 theta + 0.95 q) / theta, 1/c, c);  f /= sum(f theta);  e = f / (1 + tolerance (max f - min f))
    S_c <- max(S_c, 0) + sum_k n_k log e_k / D;       then q <- 0.9 q + 0.1 n / sum(n)
    evidence = log mean_c exp(S_c)

E[e] <= 1 under the null, since E_P f <= 1 + tolerance (max f - min f) (Saha & Ramdas, arXiv 2408.14015); dividing
by the design effect D keeps it so for any dependence inside clusters of up to D rows (Hoelder). Each exp(S_c) is an
e-detector and so is their mean: the mean number of blocks until evidence >= log A is at least A (Shin, Ramdas &
Rinaldo 2024). The last axis of every array is cells (or clips); axes before it are independent streams.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CLIPS = np.array([1.06, 1.2, 1.5, 3.0])
EXPLORE = 0.05  # of the bet stays on the reference
LEARN = 0.1  # weight of the newest block in q


class Bettor:
    """Bets on a feature's cells, block after block. `q` is what it believes, shape (…, K); it starts as theta.

    >>> bettor = Bettor(np.array([0.5, 0.5]), tolerance=0.02)
    >>> s = np.zeros(len(CLIPS))
    >>> for _ in range(8):
    ...     s = accumulated(s, bettor.update(np.array([140, 60])))
    >>> bool(log_mean_exp(s) > np.log(1000))
    True
    """

    def __init__(self, theta: Floats, tolerance: Floats | float) -> None:
        self.theta = theta
        self.tolerance = np.asarray(tolerance)  # total variation, 0..1, a number or shape (…,)
        self.q = theta

    def update(self, counts: NDArray[np.int64], design_effect: Floats | float = 1.0) -> Floats:
        """Take a block's counts, shape (…, K), at least one row; return the log winnings, shape (…, clips)."""
        won = self.won(counts, design_effect)
        self.q = (1 - LEARN) * self.q + LEARN * counts / counts.sum(-1, keepdims=True)
        return won

    def won(self, counts: NDArray[np.int64], design_effect: Floats | float) -> Floats:
        """Log winnings of a block, shape (…, clips): sum_k n_k log e_k / D."""
        won: Floats = (counts[..., None, :] * self.log_e()).sum(-1) / np.asarray(design_effect)[..., None]
        return won

    @staticmethod
    def together(won: Floats, rows: NDArray[np.int64]) -> Floats:
        """Log winnings of a block, shape (…, clips), from those of its parts, shape (…, parts, clips), with `rows`."""
        return np.asarray(won.sum(-2))

    def log_e(self) -> Floats:
        """What one row in each cell would win now, shape (…, clips, K)."""
        ratio = (EXPLORE * self.theta + (1 - EXPLORE) * self.q) / self.theta
        f = np.clip(ratio[..., None, :], 1 / CLIPS[:, None], CLIPS[:, None])
        f = f / (f * self.theta[..., None, :]).sum(-1, keepdims=True)
        spread = f.max(-1, keepdims=True) - f.min(-1, keepdims=True)
        log_e: Floats = np.log(f / (1 + self.tolerance[..., None, None] * spread))
        return log_e


class BlockBettor(Bettor):
    """Bets on the mean of a block, e = sum_k (n_k / n) e_k: E[e] <= 1 however its rows depend on one another.

    A block wins as much as one row, so it takes many blocks: for data of which nothing is known.
    """

    def won(self, counts: NDArray[np.int64], design_effect: Floats | float) -> Floats:
        share = counts / counts.sum(-1, keepdims=True)
        won: Floats = np.log((share[..., None, :] * np.exp(self.log_e())).sum(-1))
        return won

    @staticmethod
    def together(won: Floats, rows: NDArray[np.int64]) -> Floats:
        share = rows / rows.sum(-1, keepdims=True)
        return np.asarray(np.log((share[..., None] * np.exp(won)).sum(-2)))


def accumulated(s: Floats, won: Floats) -> Floats:
    """CUSUM of the log winnings: evidence from before the best moment to begin is forgotten."""
    return np.asarray(np.maximum(s, 0.0) + won)


def log_mean_exp(s: Floats, axis: Any = -1) -> Floats:
    """log(mean(exp(s))) without overflow, in nats."""
    top = s.max(axis, keepdims=True)
    mean: Floats = np.squeeze(top, axis) + np.log(np.exp(s - top).mean(axis))
    return mean
