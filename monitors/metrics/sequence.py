"""Confidence sequences of means: intervals that hold at all times at once, however often one looks.

Each inverts a test martingale that is a function of sums alone (rows, their sum, their sum of squares), so the
interval is the same for any order, number of nodes and restarts. They hold for rows that are drawn independently
from one law. Rows in clusters of at most D are worth 1/D each: divide all sums by D. The logarithm of the martingale
is then divided by D, which keeps its mean at most 1 (Hölder's inequality), for any dependence inside a cluster.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln

Floats = NDArray[np.float64]
Inside = Callable[[Floats], NDArray[np.bool_]]

ALPHA = 0.05  # the probability that an interval ever misses, at any time
BETS = 0.95 * 2.0 ** (-0.5 * np.arange(28))  # 0.95 down to 8e-5: each is best at some number of rows; averaged
_PSI = -np.log1p(-BETS) - BETS
_REACH = BETS / (2 * _PSI)  # the distance at which a bet's bound is largest
_ROUNDED = 2.0**-32  # of a row's square: sums in such units must not make a variance too small
_STEPS = 30  # of a bisection of an interval of length 1


class Interval(NamedTuple):
    """Ends of an interval, arrays of one shape."""

    lower: Floats
    upper: Floats


def share(n: Floats, s: Floats, alpha: float = ALPHA) -> Interval:
    """Of the mean of values in [0, 1], best where they are 0 or 1; n values with sum s, arrays of one shape.

    (B(s + 1/2, n - s + 1/2) / B(1/2, 1/2)) / (m^s (1 - m)^(n - s)) is a martingale for values 0 and 1 of mean m, and
    a supermartingale for values between, as (p/m)^x ((1-p)/(1-m))^(1-x) is at most x p/m + (1-x) (1-p)/(1-m), of
    mean 1 (Robbins 1970; Howard, Ramdas, McAuliffe & Sekhon 2021, the beta-binomial mixture).

    >>> [round(float(end), 4) for end in share(np.array(1000.0), np.array(100.0))]
    [0.0689, 0.1382]
    """
    n, s = np.broadcast_arrays(np.asarray(n, np.float64), np.asarray(s, np.float64))
    middle = np.divide(s, n, out=np.full(n.shape, 0.5), where=n > 0)
    most = math.log(1 / alpha) - (betaln(s + 0.5, n - s + 0.5) - betaln(0.5, 0.5))

    def inside(m: Floats) -> NDArray[np.bool_]:
        with np.errstate(divide="ignore", invalid="ignore"):
            cost = -np.where(s > 0, s * np.log(m), 0.0) - np.where(n > s, (n - s) * np.log1p(-m), 0.0)
        found: NDArray[np.bool_] = cost < most
        return found

    return Interval(_outermost(inside, middle, np.zeros(n.shape)), _outermost(inside, middle, np.ones(n.shape)))


def radius(n: Floats, variance: Floats, alpha: float = ALPHA) -> Floats:
    """How far the mean of values in an interval of length 1 may lie from that of n of them; arrays of one shape.

    `variance` is theirs, sum of squares over n less the squared mean. For a mean m the product of 1 + λ (x - m) is a
    martingale (Waudby-Smith & Ramdas 2024), and so is the average over bets λ that are fixed beforehand. With
    d = |mean - m| each is at least exp(n (λ d - ψ(λ) (variance + d²))), ψ(λ) = -log(1 - λ) - λ, as log(1 + λ x) is
    at least λ x - ψ(λ) x² for x >= -1 (Fan, Grama & Liu 2015); beyond the d that is best for this bound, the product
    still grows. One on each side, at alpha/2.

    >>> round(float(radius(np.array(1000.0), np.array(0.09))), 4)
    0.0382
    """
    n, variance = np.broadcast_arrays(np.asarray(n, np.float64), np.maximum(variance, 0.0))
    most, rows = math.log(2 / alpha) + math.log(len(BETS)), n[..., None]

    def inside(d: Floats) -> NDArray[np.bool_]:
        reach = np.minimum(d[..., None], _REACH)
        log_e = rows * (BETS * reach - _PSI * (variance[..., None] + reach**2))
        top = log_e.max(-1)
        found: NDArray[np.bool_] = top + np.log(np.exp(log_e - top[..., None]).sum(-1)) < most
        return found

    return _outermost(inside, np.zeros(n.shape), np.ones(n.shape))


def mean(n: Floats, s: Floats, squares: Floats, alpha: float = ALPHA) -> Interval:
    """Of the mean of values in [0, 1]: n of them with sum s and sum of squares `squares`, arrays of one shape.

    >>> [round(float(end), 4) for end in mean(np.array(1000.0), np.array(100.0), np.array(12.0))]
    [0.0892, 0.1108]
    """
    rows = np.maximum(n, np.finfo(np.float64).tiny)
    middle = s / rows
    far = radius(n, squares / rows - middle**2 + _ROUNDED, alpha)
    return Interval(np.maximum(middle - far, 0.0), np.minimum(middle + far, 1.0))


def _outermost(inside: Inside, near: Floats, far: Floats) -> Floats:
    """Where a set that begins at `near` ends on the way to `far`, rounded outwards; `far` where it does not."""
    whole, out = inside(far), far
    for _ in range(_STEPS):
        middle = (near + out) / 2
        held = inside(middle)
        near, out = np.where(held, middle, near), np.where(held, out, middle)
    found: Floats = np.where(whole, far, out)
    return found
