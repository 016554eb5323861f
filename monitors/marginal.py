"""The law of one feature over a few cells, and the rule that puts a value into its cell."""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import repeat
from typing import Any, Literal
from zlib import crc32

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from monitors.sampling import ALPHA, reference_error
from monitors.strata import STRATA, Strata
from serving.protocol import Array

Kind = Literal["numeric", "categorical"]
Counts = NDArray[np.int64]

EXTRA = 3  # cells beside the bins: below, above, missing; or other, unseen, missing
PACKED = {"float32": "<f4", "float64": "<f8", "text": "<u4"}  # elements of `Marginal.packed`


class Marginal(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """The reference law of one feature over K cells, and the rule that puts a value into its cell.

    Cells of a number: below the reference's range, the bins [edge, next edge), above, missing (NaN). Cells of a
    category: the most common `categories`, other (in `others` or `packed`), unseen, missing (empty text or NaN).
    Below, above and missing may be empty in the reference.

    Thousands of other categories are packed: as sorted numbers, texts as the CRC-32 of their UTF-8. Of a million
    unseen texts one or two then pass for one of 5,000 known ones.

    >>> from monitors.reference import marginal
    >>> law = marginal(np.arange(2000, dtype=np.float32), "numeric")
    >>> law.count(np.array([-5.0, 0.0, 1999.0, 2000.0, np.nan])).tolist()
    [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1]
    """

    kind: Kind
    dtype: Literal["float32", "float64", "text"]
    low: float = 0.0
    high: float = 0.0
    edges: tuple[float, ...] = ()  # inner edges of the bins, increasing, in (low, high]
    categories: tuple[float | str, ...] = ()
    others: tuple[float | str, ...] = ()
    packed: bytes = b""
    counts: tuple[int, ...] = ()  # of the reference rows, one per cell
    design_effect: float = 1.0  # variance of block shares over that of independent rows, at least 1
    block_rows: float = 0.0  # rows of a reference block, on average over rows; 0: no blocks, design effect unknown
    alpha: float = ALPHA
    unfit: str = ""  # a sentence that says why this feature is not judged
    correlation_s: float | UnsetType = UNSET  # after it block shares are independent; 0: none seen; unset: not measured
    medians: tuple[float, ...] = ()  # of the reference rows in each bin of a number; () in an older profile
    dispersions: tuple[float, ...] = ()  # the design effect of each cell; () where it is not known
    strata: Strata | UnsetType = UNSET  # where hours are compared apart: then D and correlation are beyond the season

    @property
    def size(self) -> int:
        """Number of cells, K."""
        return EXTRA + (len(self.edges) + 1 if self.kind == "numeric" else len(self.categories))

    @property
    def rows(self) -> int:
        return sum(self.counts)

    @property
    def effective_rows(self) -> float:
        """Independent rows that would estimate the law as well as the clustered reference rows do."""
        return self.rows / self.design_effect

    @property
    def memory_s(self) -> float:
        """The correlation time, 0 also where it was not measured."""
        return 0.0 if isinstance(self.correlation_s, UnsetType) else self.correlation_s

    @cached_property
    def theta(self) -> NDArray[np.float64]:
        """Shape (K,): (n_k + 1/2) / (n + K/2), never 0 (Krichevsky & Trofimov 1981)."""
        counts = np.array(self.counts, np.float64)
        theta: NDArray[np.float64] = (counts + 0.5) / (counts.sum() + 0.5 * self.size)
        return theta

    @property
    def worth(self) -> str:
        """Rows and effective rows, in words that follow "the reference's"."""
        return (
            f"{self.rows} rows come in clusters and are worth {self.effective_rows:.0f} independent ones"
            f" (design effect {self.design_effect:.1f}); a reference over a longer time helps"
        )

    @property
    def error(self) -> float:
        """Total variation between `theta` and the law it estimates; see `reference_error`. Of hours the largest."""
        if self.strata:
            return float(self.hour_errors[list(self.strata.judged)].max())
        return reference_error(self.size, self.effective_rows, self.alpha)

    @cached_property
    def hour_errors(self) -> NDArray[np.float64]:
        """As `error`, by hour of the week, shape (168,); all of them hold together with probability 1 - alpha."""
        assert self.strata
        alpha, rows = self.alpha / self.strata.size, self.strata.table.sum(1) / self.design_effect
        errors = np.array([reference_error(self.size, n, alpha) for n in rows.tolist()])
        return np.asarray(errors[STRATA[self.strata.by]])

    def whole(self) -> "Marginal":
        """With one reference for all hours."""
        if not self.strata:
            return self
        return msgspec.structs.replace(self, **msgspec.structs.asdict(self.strata.whole), strata=UNSET)

    def at(self, hour: int) -> "Marginal":
        """The reference of an hour of the week alone, whose bounds hold together with those of the others."""
        if not self.strata:
            return self
        counts = tuple(self.strata.table[STRATA[self.strata.by][hour]].tolist())
        return msgspec.structs.replace(self, counts=counts, alpha=self.alpha / self.strata.size, strata=UNSET)

    def expected(self, blocks: Sequence[Mapping[int, int]]) -> NDArray[np.float64]:
        """Laws of blocks with so many rows by hour of the week, shape (blocks, K), never 0; `theta` where hours are not
        known.
        """
        laws = np.tile(self.theta, (len(blocks), 1))
        for law, hours in zip(laws, blocks, strict=True):
            if self.strata and hours:
                rows = np.array(sorted(hours.items()))
                theta = self.strata.theta[rows[:, 0]]
                law[:] = theta[0] if len(rows) == 1 else (rows[:, 1:] * theta).sum(0) / rows[:, 1].sum()
        return laws

    def mixed(self, hours: Mapping[int, int]) -> "Marginal":
        """The reference of so many rows by hour of the week: one law, as sure as the references of these hours.

        Its counts add up to about as many as this one's, its design effect says what they are worth.
        """
        if not self.strata or not hours:
            return self
        found = np.array(sorted(hours.items()))
        weight = np.bincount(STRATA[self.strata.by][found[:, 0]], found[:, 1], self.strata.size) / found[:, 1].sum()
        rows = np.maximum(self.strata.table.sum(1), 1)
        counts = self.rows * ((weight / rows)[:, None] * self.strata.table).sum(0)
        return msgspec.structs.replace(
            self,
            counts=tuple(np.rint(counts).astype(np.int64).tolist()),
            design_effect=self.design_effect * self.rows * float((weight**2 / rows).sum()),
            strata=UNSET,
        )

    def cells(self, values: Array) -> NDArray[np.intp]:
        """The cell of each value, shape (n,), 0 <= cell < K."""
        if self.kind == "numeric":
            return np.searchsorted(self.bounds, cast(values, self.dtype), side="right")
        return self._text_cells(values) if self.dtype == "text" else self._number_cells(values)

    def count(self, values: Array) -> Counts:
        """Rows in each cell, shape (K,)."""
        return np.bincount(self.cells(values), minlength=self.size).astype(np.int64, copy=False)

    @cached_property
    def bounds(self) -> Array:
        """Searched from the right: cell i holds bound[i-1] <= x < bound[i]. NaN sorts behind everything."""
        bounds = np.array([self.low, *self.edges, self.high, math.nan], self.dtype)
        with np.errstate(over="ignore", under="ignore"):
            bounds[-2] = np.nextafter(bounds[-2], np.array(math.inf, self.dtype))  # the maximum itself is not above
        return bounds

    @cached_property
    def _index(self) -> "_Cells":
        cells = _Cells({"": len(self.categories) + 2, b"": len(self.categories) + 2})
        cells.unseen = len(self.categories) + 1
        for known, place in ((self.categories, None), (self.others, len(self.categories))):
            for number, category in enumerate(map(str, known)):
                cells[category] = cells[category.encode()] = number if place is None else place
        return cells

    @cached_property
    def _numbers(self) -> tuple[Array, NDArray[np.intp]]:
        """Known numeric categories in increasing order, and the cell of each."""
        known = np.array([*self.known, math.nan], self.dtype)  # NaN: none is larger, it equals none
        cell = np.minimum(np.arange(len(known)), len(self.categories))
        order = np.argsort(known)
        return known[order], cell[order]

    @property
    def known(self) -> list[float | str]:
        """Categories by their value, the most common ones first; not texts that are packed."""
        packed = [] if self.dtype == "text" else self._packed.tolist()
        return [*self.categories, *self.others, *packed]

    @cached_property
    def _packed(self) -> Array:
        return np.frombuffer(self.packed, PACKED[self.dtype])

    def _text_cells(self, values: Array) -> NDArray[np.intp]:
        listed = values.tolist()
        if not self.packed:
            return np.fromiter(map(self._index.__getitem__, listed), np.intp, len(listed))
        cells = np.fromiter(map(self._index.get, listed, repeat(-1)), np.intp, len(listed))
        rest = np.flatnonzero(cells < 0)
        cells[rest] = self._rare_cells([listed[i] for i in rest.tolist()])
        return cells

    def _rare_cells(self, listed: list[Any]) -> NDArray[np.intp]:
        """Of texts that the index does not have as they are: as bytes first, which almost all of them are."""
        other, unseen = len(self.categories), len(self.categories) + 1
        try:
            found = self._in_packed(listed)
        except TypeError:
            found = np.zeros(len(listed), bool)
        cells = np.where(found, other, unseen)
        rest = np.flatnonzero(~found)
        data = [text(listed[i]).encode(errors="replace") for i in rest.tolist()]
        cells[rest] = np.fromiter(map(self._index.get, data, repeat(unseen)), np.intp, len(data))
        cells[rest[(cells[rest] == unseen) & self._in_packed(data)]] = other
        return cells

    def _in_packed(self, data: list[bytes]) -> NDArray[np.bool_]:
        sums = np.fromiter(map(crc32, data), np.uint32, len(data))
        at = np.minimum(np.searchsorted(self._packed, sums), len(self._packed) - 1)
        return np.asarray(self._packed[at] == sums)

    def _number_cells(self, values: Array) -> NDArray[np.intp]:
        values = cast(values, self.dtype)
        known, cell = self._numbers
        unseen = len(self.categories) + 1
        at = np.searchsorted(known[:-1], values)
        return np.where(np.isnan(values), unseen + 1, np.where(known[at] == values, cell[at], unseen))


class _Cells(dict[Any, int]):
    """Text or its UTF-8 -> cell; what is not there is unseen."""

    unseen = 0

    def __missing__(self, category: object) -> int:
        return self.unseen if isinstance(category, str) else self.get(text(category), self.unseen)


def cast(values: Array, dtype: str) -> Array:
    """In the type in which values are counted."""
    if values.dtype == dtype:
        return values
    with np.errstate(over="ignore"):  # too large for float32 is infinite there, as it is for the model
        return values.astype(dtype)


def packed(categories: Sequence[Any], dtype: str) -> bytes:
    """Categories in the form of `Marginal.packed`."""
    known = [crc32(category.encode(errors="replace")) for category in categories] if dtype == "text" else categories
    return np.sort(np.array(known, PACKED[dtype])).tobytes()


def text(value: object) -> str:
    """The name of a category; empty where it is missing."""
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return "" if value is None or value != value else str(value)
