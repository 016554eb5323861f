"""The cells of a feature from a sample of its reference rows: bins of equal mass, or the most common categories."""

from collections import Counter
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitors.marginal import Kind, Marginal, cast, packed, text
from serving.protocol import Array

BINS = 10  # quantile bins of a number, most common categories of a category
MAX_OTHERS = 5_000  # known categories beyond the most common ones; rarer ones count as unseen
MAX_NAMED = 250  # of these that are kept as they are; more of them are packed
REPEATS = 50  # rows a value on average, from which a few whole numbers are taken for codes


def guess(values: Array) -> Kind:
    """What a feature is whose kind nobody declared, shape (n,).

    Text and truth values are categories, and so are at most ten whole numbers, missing ones aside, that come again
    and again: each gets a cell of its own, and one that was never there is seen as such. All else is numeric.

    >>> guess(np.arange(1000.0) % 3), guess(np.arange(1000.0) % 3 / 2), guess(np.arange(100.0))
    ('categorical', 'numeric', 'numeric')
    """
    if values.dtype.kind not in "iuf":
        return "categorical"
    finite = values[np.isfinite(values)]
    if not len(finite) or (finite != np.trunc(finite)).any():
        return "numeric"
    return "categorical" if len(np.unique(finite)) <= min(BINS, len(finite) / REPEATS) else "numeric"


def typed(values: Array, kind: Kind) -> Array:
    """The values in the type in which they are counted: float32, float64, or text as an object array."""
    if values.dtype.kind in "OSU" and kind == "categorical":
        texts = np.empty(len(values), object)
        texts[:] = [text(value) for value in values.tolist()]
        return texts
    return cast(values, "float32" if values.dtype in (np.float16, np.float32) else "float64")


def number_law(values: Array, bins: int, alpha: float) -> Marginal:
    """Bins of about equal mass. Without a finite value the range is empty: low > high."""
    finite = np.sort(values[np.isfinite(values)])
    dtype: Literal["float32", "float64"] = "float32" if values.dtype == np.float32 else "float64"
    if not len(finite):
        return Marginal(kind="numeric", dtype=dtype, low=np.inf, high=-np.inf, alpha=alpha)
    edges = _edges(finite, bins)
    ends = [*np.searchsorted(finite, edges).tolist(), len(finite)]
    return Marginal(
        kind="numeric",
        dtype=dtype,
        low=float(finite[0]),
        high=float(finite[-1]),
        edges=edges,
        medians=tuple(float(finite[(a + b) // 2]) for a, b in zip([0, *ends], ends, strict=False)),
        alpha=alpha,
    )


def category_law(values: Array, bins: int, alpha: float) -> tuple[Marginal, NDArray[np.intp]]:
    """The most common categories, and where in `values` those rare ones stand that come once.

    Such a category was unseen to all other rows, and is to be counted so: live rows meet values the reference lacks
    even without drift, and the share of categories seen once estimates how often (Good 1953). Without it every
    feature with rare categories would drift at once.
    """
    is_text = values.dtype == object
    counted = Counter(values.tolist() if is_text else values[~np.isnan(values)].tolist())
    counted.pop("", None)
    known = sorted(counted, key=lambda category: (-counted[category], category))
    common, others = tuple(known[:bins]), tuple(known[bins : bins + MAX_OTHERS])
    dtype: Any = "text" if is_text else values.dtype.name
    once = {category for category in others if counted[category] == 1}
    at = np.fromiter((value in once for value in values.tolist()), bool, len(values) if once else 0)
    law = Marginal(kind="categorical", dtype=dtype, categories=common, alpha=alpha)
    if len(others) > MAX_NAMED:
        return msgspec.structs.replace(law, packed=packed(others, dtype)), np.flatnonzero(at)
    return msgspec.structs.replace(law, others=others), np.flatnonzero(at)


def _edges(ordered: Array, bins: int) -> tuple[float, ...]:
    """Inner edges of quantile bins. A value so common that it fills a bin alone gets one of its own."""
    cuts = ordered[len(ordered) * np.arange(bins) // bins]
    cut, times = np.unique(cuts, return_counts=True)
    after = np.searchsorted(ordered, cut[times > 1], side="right")
    edges = np.unique(np.concatenate([cut, ordered[after[after < len(ordered)]]]))
    return tuple(float(edge) for edge in edges if edge > ordered[0])
