"""What a sample of reference rows is worth: the error of its law, and how clustered rows shrink it."""

import math

import numpy as np
from numpy.typing import NDArray

from serving.protocol import Array

ALPHA = 0.01  # probability with which the reference may be worse than its error terms say
MAX_REFERENCE_ERROR = 0.1  # of the error terms, were the rows independent; above it the reference is too small
MIN_BLOCKS = 4  # of the reference period, to measure a design effect
SIGNIFICANT = 3.09  # standard errors beyond which blocks are taken to be correlated: 1 in 1000 where they are not


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


def dispersion(counts: NDArray[np.int64]) -> float:
    """The design effect: Var(block share) / (p(1-p)/n), at the 90th percentile over cells not empty; at least 1.

    `counts` has shape (blocks, K), each block at least one row. Blocks of unequal size enter as the mean of
    (c - np)^2 / (np(1-p)), the dispersion of Pearson's chi-squared (McCullagh & Nelder 1989, 4.5). 1 where there are
    fewer than four blocks.

    >>> dispersion(np.array([[9, 1], [1, 9], [9, 1], [1, 9]])) > 8
    True
    """
    spread = _spread(counts)
    known: list[float] = np.sort(spread[~np.isnan(spread)]).tolist()  # np.quantile takes six times as long
    if not known:
        return 1.0
    below, share = divmod(0.9 * (len(known) - 1), 1)
    above = known[min(int(below) + 1, len(known) - 1)]
    return max(1.0, (1 - share) * known[int(below)] + share * above)


def dispersions(counts: NDArray[np.int64]) -> tuple[float, ...]:
    """The design effect of each of the K cells. Of one that holds none or all of the rows it is taken to be all's."""
    return tuple(np.maximum(np.nan_to_num(_spread(counts), nan=dispersion(counts)), 1.0).tolist())


def _spread(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Variance of each cell's block shares over that of independent rows, shape (K,); NaN where it is not known."""
    spread = np.full(counts.shape[1], np.nan)
    if len(counts) >= MIN_BLOCKS:
        n, share = counts.sum(1, keepdims=True), counts.sum(0) / counts.sum()
        used = (share > 0) & (share < 1)
        expected = n * share[used]
        spread[used] = ((counts[:, used] - expected) ** 2 / (expected * (1 - share[used]))).sum(0) / (len(counts) - 1)
    return spread


def correlation_s(counts: NDArray[np.int64], number: NDArray[np.int64], block_s: float) -> float | None:
    """Seconds after which block shares depend on one another no more than by exp(-1); 0 where they are not seen to.

    -gap / log(r), where r is the autocorrelation of shares of neighbouring blocks, over all cells together: of
    Pearson's residuals, the noise of finite blocks among them. (A share whose correlation falls by the same ratio
    from block to block; it is not resolved below a block.) `counts` has shape (blocks, K) with at least one row in
    each, `number`, shape (blocks,), says where blocks stand, in increasing order. Neighbours are those as far apart
    as most are: of every second day, two days. r counts where it is beyond chance, 3.09 / sqrt(pairs), and no time
    is longer than from the first block to the last. None with fewer than three pairs.

    >>> rng = np.random.default_rng(1)
    >>> p = 0.5 + 0.2 * np.sin(np.arange(200) / 8)
    >>> waves = rng.binomial(1000, p)
    >>> correlation_s(np.stack([waves, 1000 - waves], 1), np.arange(200), 3600.0) > 5 * 3600.0
    True
    >>> correlation_s(rng.multinomial(1000, [0.5, 0.3, 0.2], 200), np.arange(200), 3600.0)
    0.0
    """
    gaps, times = np.unique(np.diff(number), return_counts=True)
    if not len(gaps) or times.max() < MIN_BLOCKS - 1:
        return None
    gap = int(gaps[times.argmax()])
    r, pairs = _autocorrelation(counts, np.flatnonzero(np.diff(number) == gap)), int(times.max())
    if r <= SIGNIFICANT / math.sqrt(pairs):
        return 0.0
    longest = float(number[-1] - number[0]) * block_s
    return longest if r >= 1 else min(longest, -gap * block_s / math.log(r))


def _autocorrelation(counts: NDArray[np.int64], first: NDArray[np.intp]) -> float:
    """Of blocks `first` and the one after each, over all cells together; 0 where nothing varies."""
    n, share = counts.sum(1, keepdims=True), counts.sum(0) / counts.sum()
    used = (share > 0) & (share < 1)
    expected = n * share[used]
    residual = (counts[:, used] - expected) / np.sqrt(expected * (1 - share[used]))
    spread = float((residual**2).mean(0).sum())
    return float((residual[first] * residual[first + 1]).mean(0).sum()) / spread if spread else 0.0
