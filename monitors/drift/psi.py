"""Population stability index."""

import numpy as np
from numpy.typing import NDArray


def psi(
    counts: NDArray[np.int64],
    reference: NDArray[np.int64],
    design_effect: float = 1.0,
    reference_design_effect: float = 1.0,
) -> float:
    """sum (p - q) log(p / q) in nats, less what it is on average where nothing changed; never below 0.

    `counts` and `reference` are rows per cell, shape (K,); cells empty in both do not count, others get 1/2 a row.
    What is taken off is (K-1) (D/n + D'/m), as design effects leave n/D and m/D' independent rows (Yurdakul &
    Naranjo 2020, *J. Risk Model Validation*). Of the rest the positive part is given, since the index is no less
    than 0: without drift it is 0 about half the time, more often where rows are clustered. 0.0 where one side has
    no rows.

    >>> round(psi(np.array([700, 300]), np.array([5000, 5000])), 3)
    0.168
    >>> psi(np.array([505, 495]), np.array([5000, 5000]))
    0.0
    """
    used = (counts > 0) | (reference > 0)
    n, m = counts[used].astype(np.float64), reference[used].astype(np.float64)
    if not n.sum() or not m.sum():
        return 0.0
    p, q = (n + 0.5) / (n + 0.5).sum(), (m + 0.5) / (m + 0.5).sum()
    bias = (len(n) - 1) * (design_effect / n.sum() + reference_design_effect / m.sum())
    return max(0.0, float(((p - q) * np.log(p / q)).sum() - bias))
