"""Counts of one feature's reference rows by block of time and cell, over as many parts as the rows come in."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitors.binning import BINS, category_law, number_law, typed
from monitors.marginal import EXTRA, Kind, Marginal, cast
from monitors.sampling import (
    MIN_BLOCKS,
    Expected,
    correlation_s,
    dispersion,
    dispersions,
    fewest_rows,
    most_cells,
)
from monitors.strata import HOUR_S, Fit, Whole, chosen
from serving.errors import PublishRefused
from serving.protocol import Array

MAX_CLUSTERED_ERROR = (
    0.75  # of the rows as they are; up to it a feature is judged bluntly, above it bets can win nothing
)
MAX_BLOCKS = 2**20  # of a reference: more than that, and `time` is hardly in seconds

Numbers = NDArray[np.int64]


class Tally:
    """The cells come from a sample, the counts from all rows, the range of a number too.

    While rows are counted a number's first and last bin reach to infinity; in the end they end where the rows do. So
    the sample decides where the inner edges lie and nothing else.
    """

    def __init__(self, sample: Array, kind: Kind, numbers: Numbers, alpha: float) -> None:
        """`sample` and `numbers`, the number of each of its rows among all, have shape (n,), in increasing order."""
        self._bins = most_cells(len(sample), alpha) - EXTRA
        bins = BINS if self._bins < 2 else min(self._bins, BINS)
        values = typed(sample, kind)
        self._alone = np.empty(0, np.int64)  # numbers of rows whose category is rare and theirs alone
        if kind == "categorical":
            self._law, at = category_law(values, bins, alpha)
            self._wide, self._alone = self._law, numbers[at]
        else:
            self._law = number_law(values, bins, alpha)
            most = float(np.finfo(self._law.dtype).max)
            self._wide = msgspec.structs.replace(self._law, low=-most, high=most)
        self._low, self._high = self._law.low, self._law.high
        self._blocks = np.empty(0, np.int64)
        self._counts = np.empty((0, self._law.size), np.int64)

    @property
    def blocks(self) -> int:
        """Blocks of time that have rows."""
        return len(self._blocks)

    @property
    def size(self) -> int:
        """Number of cells, K."""
        return self._law.size

    def add(self, values: Array, first: int, blocks: Numbers, place: NDArray[np.intp]) -> NDArray[np.intp]:
        """Count rows, shape (n,), the first of which is row `first`; row i lies in block `blocks[place[i]]`.

        Returns the cell of each.
        """
        if self._law.kind == "numeric":
            values = cast(values, self._law.dtype)
            self._stretch(values)
        cells = self.cells(values)
        begin, end = np.searchsorted(self._alone, (first, first + len(values)))
        cells[self._alone[begin:end] - first] = len(self._law.categories) + 1
        size = self._law.size
        counts = np.bincount(place * size + cells, minlength=len(blocks) * size).reshape(-1, size)
        self._merge(blocks, counts)
        return cells

    def cells(self, values: Array) -> NDArray[np.intp]:
        """The cell of each, shape (n,), of rows that are not counted."""
        return self._wide.cells(values)

    def season(self, block_s: float, zone: str) -> tuple[Fit | None, str]:
        """By which hours the rows are to be compared, as from `strata.chosen`; blocks lie within hours.

        Raises PublishRefused for a time that no calendar has.
        """
        if len(self._blocks) < MIN_BLOCKS:
            return None, f"the reference holds fewer than {MIN_BLOCKS} blocks"
        hours = np.floor(self._blocks * block_s / HOUR_S).astype(np.int64)
        try:
            return chosen(self._counts, hours, zone, self._law.alpha)
        except (OverflowError, ValueError, OSError):
            raise PublishRefused(f"the reference's time lies in no year of {zone}: is it in seconds?") from None

    def law(self, block_s: float | None, season: Fit | None = None, zone: str = "UTC") -> Marginal:
        """The law of all rows. With `block_s`, the length of a block, its clusters are measured, beyond its season."""
        empty = self._low > self._high
        law = msgspec.structs.replace(
            self._law,
            low=0.0 if empty else self._low,
            high=0.0 if empty else self._high,
            counts=tuple(self._counts.sum(0).tolist()),
        )
        if block_s is None or len(self._blocks) < MIN_BLOCKS:
            return self._examined(law)
        n = self._counts.sum(1)
        law = msgspec.structs.replace(law, block_rows=float((n**2).sum() / n.sum()))
        whole = self._examined(self._clustered(law, block_s, None))
        if season is None:
            return whole
        law = msgspec.structs.replace(law, strata=season.strata(zone, _whole(whole)))
        return self._examined(self._clustered(law, block_s, season.expected))

    def _clustered(self, law: Marginal, block_s: float, expected: Expected | None) -> Marginal:
        correlation = correlation_s(self._counts, self._blocks, block_s, expected)
        return msgspec.structs.replace(
            law,
            design_effect=dispersion(self._counts, expected),
            dispersions=dispersions(self._counts, expected),
            correlation_s=msgspec.UNSET if correlation is None else correlation,
        )

    def _examined(self, law: Marginal) -> Marginal:
        return msgspec.structs.replace(law, unfit=_unfit(law, self._bins))

    def _stretch(self, values: Array) -> None:
        finite = values[np.isfinite(values)]
        if len(finite):
            self._low, self._high = min(self._low, float(finite.min())), max(self._high, float(finite.max()))

    def _merge(self, blocks: Numbers, counts: Numbers) -> None:
        both = np.union1d(self._blocks, blocks)
        if len(both) > MAX_BLOCKS:
            raise PublishRefused(
                f"the reference lies in more than {MAX_BLOCKS} blocks of time, expected fewer: is its time in seconds?"
            )
        total = np.zeros((len(both), self._law.size), np.int64)
        total[np.searchsorted(both, self._blocks)] = self._counts
        total[np.searchsorted(both, blocks)] += counts
        self._blocks, self._counts = both, total


def _unfit(law: Marginal, bins: int) -> str:
    missing = law.counts[-1]
    if missing == law.rows:
        return "every value of the reference is missing"
    if bins < 2:
        return f"reference too small: {law.rows} rows, {fewest_rows(EXTRA + 2, law.alpha)} are needed"
    return f"reference too small: its {law.worth}" if law.error > MAX_CLUSTERED_ERROR else ""


def _whole(law: Marginal) -> Whole:
    return Whole(
        design_effect=law.design_effect,
        dispersions=law.dispersions,
        correlation_s=law.correlation_s,
        unfit=law.unfit,
    )
