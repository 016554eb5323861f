"""What a sample of reference rows is worth: the error of its law, and how clustered rows shrink it."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.protocol import Array

ALPHA = 0.01  # probability with which the reference may be worse than its error terms say
MAX_REFERENCE_ERROR = 0.1  # of the error terms, were the rows independent; above it the reference is too small
MIN_BLOCKS = 4  # of the reference period, to measure a design effect
SIGNIFICANT = 3.09  # standard errors beyond which blocks are taken to be correlated: 1 in 1000 where they are not


class Expected(NamedTuple):
    """What blocks are compared with where no one law holds for all of them."""

    shares: NDArray[np.float64]  # of each block, shape (blocks, K)
    fitted: NDArray[np.int64]  # by cell, how many of the shares were estimated from these blocks, shape (K,)


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


def dispersion(counts: NDArray[np.int64], expected: Expected | None = None) -> float:
    """The design effect: Var(block share) / (p(1-p)/n), at the 90th percentile over cells not empty; at least 1.

    `counts` has shape (blocks, K), each block at least one row. Blocks of unequal size enter as the mean of
    (c - np)^2 / (np(1-p)), the dispersion of Pearson's chi-squared (McCullagh & Nelder 1989, 4.5). 1 where there are
    fewer than four blocks.

    >>> dispersion(np.array([[9, 1], [1, 9], [9, 1], [1, 9]])) > 8
    True
    """
    return float(_upper(_spread(counts, expected)))


def dispersion_of_each(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """As `dispersion`, of many features with as many blocks and cells: (…, blocks, K) to (…)."""
    return _upper(_spreads(counts))


def dispersions(counts: NDArray[np.int64], expected: Expected | None = None) -> tuple[float, ...]:
    """The design effect of each of the K cells. Of one that holds none or all of the rows it is taken to be all's."""
    spread = np.nan_to_num(_spread(counts, expected), nan=dispersion(counts, expected))
    return tuple(np.maximum(spread, 1.0).tolist())


def _spread(counts: NDArray[np.int64], expected: Expected | None) -> NDArray[np.float64]:
    """Variance of each cell's block shares over that of independent rows, shape (K,); NaN where it is not known."""
    spread = np.full(counts.shape[1], np.nan)
    if len(counts) < MIN_BLOCKS:
        return spread
    if expected is not None:
        free = _used(expected).sum(0) - expected.fitted
        np.divide((_residuals(counts, expected) ** 2).sum(0), free, out=spread, where=free > 0)
        return spread
    return _spreads(counts)


def _spreads(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """As `_spread`, of at least four blocks, (…, blocks, K) to (…, K)."""
    n = counts.sum(-1, keepdims=True)
    share = counts.sum(-2, keepdims=True) / n.sum(-2, keepdims=True)
    used = (share > 0) & (share < 1)
    mean, rest = n * share, np.where(used, 1 - share, 1.0)
    spread = ((counts - mean) ** 2 / np.where(used, mean * rest, 1.0)).sum(-2) / (counts.shape[-2] - 1)
    return np.asarray(np.where(used[..., 0, :], spread, np.nan))


def _upper(spread: NDArray[np.float64]) -> NDArray[np.float64]:
    """The 90th percentile of what is known, at least 1: (…, K) to (…). `np.quantile` takes six times as long."""
    ordered, known = np.sort(spread, -1), (~np.isnan(spread)).sum(-1)
    last = np.maximum(known - 1, 0)
    below = (0.9 * last).astype(np.intp)
    at = np.stack([below, np.minimum(below + 1, last)], -1)
    low, high = np.moveaxis(np.take_along_axis(ordered, at, -1), -1, 0)
    share = 0.9 * last - below
    return np.asarray(np.where(known > 0, np.maximum(1.0, (1 - share) * low + share * high), 1.0))


def correlation_s(
    counts: NDArray[np.int64], number: NDArray[np.int64], block_s: float, expected: Expected | None = None
) -> float | None:
    """Seconds after which block shares depend on one another no more than by exp(-1); 0 where they are not seen to.

    -gap / log(r), where r is the autocorrelation of shares of neighbouring blocks, over all cells together: of
    Pearson's residuals, the noise of finite blocks among them. (A share whose correlation falls by the same ratio
    from block to block; it is not resolved below a block.) `counts` has shape (blocks, K) with at least one row in
    each, `number`, shape (blocks,), says where blocks stand, in increasing order. Neighbours are those as far apart
    as most are: of every second day, two days. r counts where it is beyond chance, 3.09 / sqrt(pairs), and no time
    is longer than from the first block to the last. None with fewer than three pairs. `expected` is as in `dispersion`;
    what was fitted to the blocks leaves so many pairs fewer.

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
    r, pairs = _autocorrelation(counts, np.flatnonzero(np.diff(number) == gap), expected), float(times.max())
    if expected is not None:
        pairs *= 1 - float(expected.fitted.max()) / len(counts)
    if r <= SIGNIFICANT / math.sqrt(max(pairs, 1.0)):
        return 0.0
    longest = float(number[-1] - number[0]) * block_s
    return longest if r >= 1 else min(longest, -gap * block_s / math.log(r))


def _autocorrelation(counts: NDArray[np.int64], first: NDArray[np.intp], expected: Expected | None) -> float:
    """Of blocks `first` and the one after each, over all cells together; 0 where nothing varies."""
    residual = _residuals(counts, expected)
    spread = float((residual**2).mean(0).sum())
    return float((residual[first] * residual[first + 1]).mean(0).sum()) / spread if spread else 0.0


def _residuals(counts: NDArray[np.int64], expected: Expected | None) -> NDArray[np.float64]:
    """Pearson's, of blocks and the cells that hold some of the rows and not all, 0 in those of which that is expected.

    Shape (blocks, K'), where K' is K with `expected`.
    """
    n = counts.sum(1, keepdims=True)
    if expected is None:
        share = counts.sum(0) / counts.sum()
        used = (share > 0) & (share < 1)
        mean = n * share[used]
        return np.asarray((counts[:, used] - mean) / np.sqrt(mean * (1 - share[used])))
    used, mean = _used(expected), n * expected.shares
    variance = np.where(used, mean * (1 - expected.shares), 1.0)
    return np.asarray(np.where(used, (counts - mean) / np.sqrt(variance), 0.0))


def _used(expected: Expected) -> NDArray[np.bool_]:
    return np.asarray((expected.shares > 0) & (expected.shares < 1))
