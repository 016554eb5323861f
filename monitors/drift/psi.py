"""Population stability index."""

import numpy as np
from numpy.typing import NDArray


def psi(counts: NDArray[np.int64], reference: NDArray[np.int64], design_effect: float = 1.0) -> float:
    """sum (p - q) log(p / q) in nats, less what it is on average where nothing changed: (K-1)(1/n + 1/m).

    `counts` and `reference` are rows per cell, shape (K,); cells empty in both do not count, others get 1/2 a row.
    A design effect D leaves n/D and m/D independent rows. About 0 without drift, at times a little below; 0.0
    where one side has no rows. The bias: Yurdakul & Naranjo 2020, *J. Risk Model Validation*.

    >>> round(psi(np.array([700, 300]), np.array([5000, 5000])), 3)
    0.168
    """
    used = (counts > 0) | (reference > 0)
    n, m = counts[used].astype(np.float64), reference[used].astype(np.float64)
    if not n.sum() or not m.sum():
        return 0.0
    p, q = (n + 0.5) / (n + 0.5).sum(), (m + 0.5) / (m + 0.5).sum()
    bias = (len(n) - 1) * design_effect * (1 / n.sum() + 1 / m.sum())
    return float(((p - q) * np.log(p / q)).sum() - bias)
