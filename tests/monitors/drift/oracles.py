"""Effect sizes as a textbook writes them, of shares without empty cells."""

import numpy as np
from numpy.typing import NDArray
from scipy import stats


def psi(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    return float(stats.entropy(p, q) + stats.entropy(q, p))


def cramers_v(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    """Of a table whose two rows have as many observations."""
    return float(stats.contingency.association(np.rint(np.stack([p, q]) * 10**12).astype(np.int64), method="cramer"))
