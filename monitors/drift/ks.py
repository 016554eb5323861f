"""Kolmogorov-Smirnov distance."""

import numpy as np
from numpy.typing import NDArray


def ks(
    counts: NDArray[np.int64],
    reference: NDArray[np.int64],
    design_effect: float = 1.0,
    reference_design_effect: float = 1.0,
) -> float:
    """Largest gap between the two distribution functions at the edges of the cells, 0..1.

    `counts` and `reference` are rows per cell in the cells' order, shape (K,). The gap inside a cell is not seen,
    so this is a lower bound of the distance of the rows. Of categories, whose order says nothing, it is a lower
    bound of total variation. No bias is taken off: without drift it is about 0.87 sqrt(1/n + 1/m). 0.0 where one
    side has no rows. (Massey 1951; the design effects are taken for the common signature and not used.)

    >>> round(ks(np.array([70, 30]), np.array([50, 50])), 3)
    0.2
    """
    if not counts.sum() or not reference.sum():
        return 0.0
    gap = np.cumsum(counts) / counts.sum() - np.cumsum(reference) / reference.sum()
    return float(np.abs(gap).max())
