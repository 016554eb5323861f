"""What a sample of reference rows is worth: the error of its law, and how clustered rows shrink it."""

import math

import numpy as np
from numpy.typing import NDArray

from serving.protocol import Array

ALPHA = 0.01  # probability with which the reference may be worse than its error terms say
MAX_REFERENCE_ERROR = 0.1  # of the error terms, were the rows independent; above it the reference is too small
MIN_BLOCKS = 4  # of the reference period, to measure a design effect


def reference_error(size: int, rows: float, alpha: float = ALPHA) -> float:
    """Total variation between the law of `size` cells and its estimate from `rows` independent rows.

    E TV <= sqrt(K/n)/2 by Cauchy-Schwarz; above its mean by more than sqrt(log(1/alpha)/(2n)) with probability at
    most alpha (McDiarmid 1989: one row moves TV by at most 1/n).

    >>> round(reference_error(13, 10_000), 4)
    0.0332
    """
    return 0.5 * math.sqrt(size / rows) + math.sqrt(math.log(1 / alpha) / (2 * rows)) if rows else math.inf


def most_cells(rows: float, alpha: float = ALPHA) -> int:
    """The largest K whose `reference_error` is at most 0.1.

    >>> most_cells(1_000), most_cells(10_000), most_cells(500)
    (10, 287, 2)
    """
    room = MAX_REFERENCE_ERROR - reference_error(0, rows, alpha)
    return 0 if room <= 0 else int(rows * (2 * room) ** 2)


def fewest_rows(size: int, alpha: float = ALPHA) -> int:
    """Independent rows that leave room for `size` cells.

    >>> fewest_rows(5)
    695
    """
    return math.ceil((reference_error(size, 1, alpha) / MAX_REFERENCE_ERROR) ** 2)


def blocks(time: Array, block_s: float) -> NDArray[np.int64]:
    """The number of each row's block: blocks begin at fixed marks of time, not at the first row."""
    return np.floor(np.asarray(time, np.float64) / block_s).astype(np.int64)


def design_effect(cells: NDArray[np.intp], size: int, block: Array) -> float:
    """Var(block share) / (p(1-p)/n), at the 90th percentile over the cells that are not empty; at least 1.

    Blocks of unequal size enter as the mean of (c - np)^2 / (np(1-p)), the dispersion of Pearson's chi-squared
    (McCullagh & Nelder 1989, 4.5). 1 where there are fewer than four blocks.

    >>> each = np.arange(4000) // 400  # ten blocks; in each, all rows fall into one cell
    >>> design_effect(np.asarray(each % 2, np.intp), 2, each) > 300
    True
    """
    number, rows = np.unique(block, return_inverse=True)
    return dispersion(np.bincount(rows * size + cells, minlength=len(number) * size).reshape(-1, size))


def dispersion(counts: NDArray[np.int64]) -> float:
    """The design effect of blocks that were counted: shape (blocks, K), each with at least one row.

    >>> dispersion(np.array([[9, 1], [1, 9], [9, 1], [1, 9]])) > 8
    True
    """
    if len(counts) < MIN_BLOCKS:
        return 1.0
    n, share = counts.sum(1, keepdims=True), counts.sum(0) / counts.sum()
    used = (share > 0) & (share < 1)
    expected = n * share[used]
    spread = ((counts[:, used] - expected) ** 2 / (expected * (1 - share[used]))).sum(0) / (len(counts) - 1)
    return max(1.0, float(np.quantile(spread, 0.9))) if used.any() else 1.0
