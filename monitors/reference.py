"""The frozen profile of a version's training-time data: what live rows are compared with.

A `Marginal` is the law of one feature over a few cells, and counts rows into them. The reference rows are counted
by the very code that counts live rows, in the type the model is fed: `build` takes the values as the model sees
them (float32 where the input is FP32), remembers that type, and `Marginal.cells` casts whatever it gets to it.
Otherwise a float64 reference and float32 traffic would fall on different sides of an edge they share.
"""

import math
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from hashlib import sha256
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitors.loss import Risk, reference_risk
from monitors.sampling import (
    ALPHA,
    MAX_REFERENCE_ERROR,
    MIN_BLOCKS,
    blocks,
    design_effect,
    fewest_rows,
    most_cells,
    reference_error,
)
from serving.errors import ArtifactCorrupt, PublishRefused
from serving.protocol import Array

Kind = Literal["numeric", "categorical"]
Counts = NDArray[np.int64]

PREDICTION = "_prediction"  # the name under which the model's own output is a feature
BINS = 10  # quantile bins of a number, most common categories of a category
MAX_CLUSTERED_ERROR = (
    0.75  # of the rows as they are; up to it a feature is judged bluntly, above it bets can win nothing
)
MAX_OTHERS = 5_000  # known categories beyond the most common ones; rarer ones count as unseen
_EXTRA = 3  # cells beside the bins: below, above, missing; or other, unseen, missing


class Marginal(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """The reference law of one feature over K cells, and the rule that puts a value into its cell.

    Cells of a number: below the reference's range, the bins [edge, next edge), above, missing (NaN). Cells of a
    category: the most common `categories`, other (in `others`), unseen, missing (empty text or NaN). Below, above
    and missing may be empty in the reference.

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
    counts: tuple[int, ...] = ()  # of the reference rows, one per cell
    design_effect: float = 1.0  # variance of block shares over that of independent rows, at least 1
    block_rows: float = 0.0  # rows of a reference block, on average over rows; 0: no blocks, design effect unknown
    alpha: float = ALPHA
    unfit: str = ""  # a sentence that says why this feature is not judged

    @property
    def size(self) -> int:
        """Number of cells, K."""
        return _EXTRA + (len(self.edges) + 1 if self.kind == "numeric" else len(self.categories))

    @property
    def rows(self) -> int:
        return sum(self.counts)

    @property
    def effective_rows(self) -> float:
        """Independent rows that would estimate the law as well as the clustered reference rows do."""
        return self.rows / self.design_effect

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
        """Total variation between `theta` and the law it estimates; see `reference_error`."""
        return reference_error(self.size, self.effective_rows, self.alpha)

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
        known = np.array([*self.categories, *self.others, math.nan], self.dtype)  # NaN: none is larger, it equals none
        cell = np.minimum(np.arange(len(known)), len(self.categories))
        order = np.argsort(known)
        return known[order], cell[order]

    def _text_cells(self, values: Array) -> NDArray[np.intp]:
        return np.fromiter(map(self._index.__getitem__, values.tolist()), np.intp, len(values))

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
        return self.unseen if isinstance(category, str) else self.get(_text(category), self.unseen)


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What one version's live data are compared with; stored beside the model, named by its digest.

    `notes` are sentences for people: what is not known, and what is assumed instead.
    """

    v: int = 1
    rows: int
    block_s: float  # length of the blocks the design effects were measured on
    features: dict[str, Marginal]  # `_prediction` among them where the model has one
    risk: Risk | None = None
    notes: tuple[str, ...] = ()

    def encode(self) -> bytes:
        """JSON; floats in their shortest form that reads back to the same bits."""
        return msgspec.json.encode(self, order="deterministic")

    @property
    def digest(self) -> str:
        return sha256(self.encode()).hexdigest()


def decode(data: bytes) -> Profile:
    """The inverse of `Profile.encode`. Raises ArtifactCorrupt for anything else."""
    try:
        return msgspec.json.decode(data, type=Profile)
    except msgspec.DecodeError as error:
        raise ArtifactCorrupt(f"not a reference profile: {error}") from None


def build(
    values: Mapping[str, Array],
    kinds: Mapping[str, Kind],
    *,
    prediction: Array | None = None,
    labels: Array | None = None,
    task: str | None = None,
    time: Array | None = None,
    block_s: float = 86400.0,
    alpha: float = ALPHA,
) -> Profile:
    """Freeze the reference rows into a profile.

    Each of `values` has shape (n,), in the type the model is fed; NaN (empty text) is missing. `prediction` is the
    model's output for the same rows, shape (n,): a probability for classification, any number for regression;
    `labels`, shape (n,), are the truth about them, NaN where unknown. `time`, shape (n,), is in seconds and gives
    the blocks on which design effects are measured. Raises PublishRefused when shapes do not agree, or for a number
    that is text.

    >>> rng = np.random.default_rng(1)
    >>> profile = build({"x": rng.normal(size=5000).astype(np.float32)}, {"x": "numeric"})
    >>> profile.features["x"].size, profile.features["x"].dtype, profile.notes[0]
    (13, 'float32', 'no time column: the reference rows are taken as independent (design effect 1)')
    """
    columns = dict(values) | ({} if prediction is None else {PREDICTION: prediction})
    rows = _rows(columns, labels, time)
    block = None if time is None else blocks(time, block_s)
    features = {n: marginal(c, _kind(n, c, kinds), block=block, alpha=alpha) for n, c in columns.items()}
    risk, why = reference_risk(task, prediction, labels, block, alpha)
    notes = _notes(features, block) + ((why,) if why else ())
    return Profile(rows=rows, block_s=block_s, features=features, risk=risk, notes=notes)


def marginal(values: Array, kind: Kind, *, block: Array | None = None, alpha: float = ALPHA) -> Marginal:
    """The law of one feature. With `block`, shape (n,), the block of each row, its design effect is measured.

    It has as many bins, at most 10, as would keep the error of the reference below 0.1 if its rows were independent;
    with room for less than two it is marked unfit, and keeps 10 for the effect sizes. Where the rows are clustered
    `Marginal.error` is larger: the detector then tolerates more, and past 0.75 the feature is unfit too.

    >>> marginal(np.arange(500.0), "numeric").unfit
    'reference too small: 500 rows, 695 are needed'
    """
    bins = most_cells(len(values), alpha) - _EXTRA
    law = _measure(values, kind, BINS if bins < 2 else min(bins, BINS), block, alpha)
    return msgspec.structs.replace(law, unfit=_unfit(law, bins))


def _measure(values: Array, kind: Kind, bins: int, block: Array | None, alpha: float) -> Marginal:
    values = _typed(values, kind)
    law = (_number_law if kind == "numeric" else _category_law)(values, bins, alpha)
    cells = law.cells(values)
    if kind == "categorical":
        _leave_one_out(values, cells, law)
    counts = tuple(np.bincount(cells, minlength=law.size).tolist())
    if block is None:
        return msgspec.structs.replace(law, counts=counts)
    n = np.unique(block, return_counts=True)[1]
    return msgspec.structs.replace(
        law,
        counts=counts,
        design_effect=design_effect(cells, law.size, block),
        block_rows=float((n**2).sum() / n.sum()) if len(n) >= MIN_BLOCKS else 0.0,
    )


def _typed(values: Array, kind: Kind) -> Array:
    """The values in the type in which they are counted: float32, float64, or text as an object array."""
    if values.dtype.kind in "OSU" and kind == "categorical":
        texts = np.empty(len(values), object)
        texts[:] = [_text(value) for value in values.tolist()]
        return texts
    return cast(values, "float32" if values.dtype in (np.float16, np.float32) else "float64")


def cast(values: Array, dtype: str) -> Array:
    if values.dtype == dtype:
        return values
    with np.errstate(over="ignore"):  # too large for float32 is infinite there, as it is for the model
        return values.astype(dtype)


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return "" if value is None or value != value else str(value)


def _number_law(values: Array, bins: int, alpha: float) -> Marginal:
    finite = np.sort(values[np.isfinite(values)])
    dtype: Literal["float32", "float64"] = "float32" if values.dtype == np.float32 else "float64"
    if not len(finite):
        return Marginal(kind="numeric", dtype=dtype, alpha=alpha)
    low, high = float(finite[0]), float(finite[-1])
    return Marginal(kind="numeric", dtype=dtype, low=low, high=high, edges=_edges(finite, bins), alpha=alpha)


def _edges(ordered: Array, bins: int) -> tuple[float, ...]:
    """Inner edges of quantile bins. A value so common that it fills a bin alone gets one of its own."""
    cuts = ordered[len(ordered) * np.arange(bins) // bins]
    cut, times = np.unique(cuts, return_counts=True)
    after = np.searchsorted(ordered, cut[times > 1], side="right")
    edges = np.unique(np.concatenate([cut, ordered[after[after < len(ordered)]]]))
    return tuple(float(edge) for edge in edges if edge > ordered[0])


def _category_law(values: Array, bins: int, alpha: float) -> Marginal:
    text = values.dtype == object
    counted = Counter(values.tolist() if text else values[~np.isnan(values)].tolist())
    counted.pop("", None)
    known = sorted(counted, key=lambda category: (-counted[category], category))
    common, others = tuple(known[:bins]), tuple(known[bins : bins + MAX_OTHERS])
    dtype: Any = "text" if text else values.dtype.name
    return Marginal(kind="categorical", dtype=dtype, categories=common, others=others, alpha=alpha)


def _leave_one_out(values: Array, cells: NDArray[np.intp], law: Marginal) -> None:
    """Count a category seen once as unseen, which it was to all other rows; in place.

    Live rows meet values the reference lacks even without drift; the share of categories seen once estimates how
    often (Good 1953). Without it every feature with rare categories would drift at once.
    """
    once = {category for category, n in Counter(values.tolist()).items() if n == 1}
    other = len(law.categories)
    rare = np.fromiter((value in once for value in values.tolist()), bool, len(values))
    cells[rare & (cells == other)] = other + 1


def _unfit(law: Marginal, bins: int) -> str:
    missing = law.counts[-1]
    if missing == law.rows:
        return "every value of the reference is missing"
    if bins < 2:
        return f"reference too small: {law.rows} rows, {fewest_rows(_EXTRA + 2, law.alpha)} are needed"
    return f"reference too small: its {law.worth}" if law.error > MAX_CLUSTERED_ERROR else ""


def _rows(columns: Mapping[str, Array], labels: Array | None, time: Array | None) -> int:
    named = {**columns, "the labels": labels, "the time": time}
    shapes = {name: column.shape for name, column in named.items() if column is not None}
    if not shapes:
        raise PublishRefused("a reference needs at least one feature or prediction, got none")
    rows = next(iter(shapes.values()))[:1]
    for name, shape in shapes.items():
        if shape != rows:
            raise PublishRefused(f"reference column {name!r} has shape {shape}, expected {rows}")
    return int(rows[0])


def _kind(name: str, column: Array, kinds: Mapping[str, Kind]) -> Kind:
    kind = kinds.get(name, "numeric")
    if kind == "numeric" and column.dtype.kind not in "biuf":
        raise PublishRefused(f"reference column {name!r} holds {column.dtype}, a numeric feature needs numbers")
    return kind


def _note(name: str, law: Marginal) -> str:
    if law.unfit:
        return f"{name} is not judged: {law.unfit}"
    blunt = (
        f"{name}: a drift is seen only if it moves more than {law.error:.2f} of the rows: the reference's {law.worth}"
    )
    return blunt if law.error > MAX_REFERENCE_ERROR else ""


def _notes(features: Mapping[str, Marginal], block: Array | None) -> tuple[str, ...]:
    unfit = tuple(filter(None, (_note(name, law) for name, law in features.items())))
    if block is None:
        return ("no time column: the reference rows are taken as independent (design effect 1)", *unfit)
    if (got := len(np.unique(block))) < MIN_BLOCKS:
        short = f"the reference holds {got} blocks of time, a design effect needs {MIN_BLOCKS}: 1 is used"
        return (short, *unfit)
    return unfit
