"""The segments of rows: for each declared feature the cell that a row falls into, all in one number of 16 bits.

The cells of values are these and `other`, those of bins are these and `missing`.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import prod

import numpy as np
from numpy.typing import NDArray

from monitors.features import column
from serving.manifest import Feature, Segment
from serving.protocol import Array

Codes = NDArray[np.uint16]


def names(segment: Segment) -> tuple[str, ...]:
    """Of the cells, in their order.

    >>> names(Segment("carrier", values=("UA", "AA"))), names(Segment("distance", edges=(500.0,)))
    (('UA', 'AA', 'other'), ('(-inf, 500)', '[500, inf)', 'missing'))
    """
    if segment.values:
        return (*_texts(segment.values), "other")
    ends = _texts(segment.edges)
    bins = (f"[{low}, {high})" for low, high in pairwise([*ends, "inf"]))
    return (f"(-inf, {ends[0]})", *bins, "missing")


def _texts(values: Sequence[str | float]) -> list[str]:
    """Short, but never two of one name: metrics are told apart by it.

    >>> _texts((1.0, 2.5)), _texts((1000001.0, 1000002.0))
    (['1', '2.5'], ['1000001.0', '1000002.0'])
    """
    short = [value if isinstance(value, str) else f"{value:g}" for value in values]
    return short if len({*short}) == len(short) else [str(value) for value in values]


def size(segments: Sequence[Segment]) -> int:
    """How many codes there are: 0 <= code < size."""
    return prod(len(names(segment)) for segment in segments)


def codes(segments: Sequence[Segment], features: Sequence[Feature], tensors: Mapping[str, Array], rows: int) -> Codes:
    """The code of each row, shape (rows,). A feature whose tensor is not there is missing.

    >>> distance = {"x": np.array([[100.0], [500.0], [np.nan]])}
    >>> of = [Segment("distance", edges=(500.0,))]
    >>> codes(of, [Feature("distance", "x", 0)], distance, 3).tolist()
    [0, 1, 2]
    """
    found, known = np.zeros(rows, np.int64), {feature.name: feature for feature in features}
    for segment in segments:
        feature, last = known[segment.feature], len(names(segment)) - 1
        cell = np.full(rows, last)
        if feature.input in tensors:
            cell = _cells(segment, column(tensors[feature.input], feature.column), last)
        found = found * (last + 1) + cell
    return found.astype(np.uint16)


def cells(segments: Sequence[Segment], codes: Array) -> list[NDArray[np.int64]]:
    """For each segment the cells of codes, the inverse of `codes`.

    >>> pair = [Segment("a", values=("x",)), Segment("b", edges=(0.0, 1.0))]
    >>> [found.tolist() for found in cells(pair, np.array([0, 5]))]
    [[0, 1], [0, 1]]
    """
    left, found = np.asarray(codes, np.int64), []
    for segment in reversed(segments):
        left, cell = np.divmod(left, len(names(segment)))
        found.append(cell)
    return found[::-1]


def _cells(segment: Segment, values: Array, last: int) -> NDArray[np.int64]:
    if values.dtype.kind not in "OSU":
        return _number_cells(segment, values.astype(np.float64), last)
    known = {str(value).encode(): cell for cell, value in enumerate(segment.values)}
    texts = (value if isinstance(value, bytes) else str(value).encode() for value in values.tolist())
    return np.fromiter((known.get(text, last) for text in texts), np.int64, len(values))


def _number_cells(segment: Segment, values: NDArray[np.float64], last: int) -> NDArray[np.int64]:
    if segment.edges:
        return np.where(np.isnan(values), last, np.searchsorted(segment.edges, values, side="right"))
    known = np.array(segment.values, np.float64)
    order = np.argsort(known)
    at = np.minimum(np.searchsorted(known[order], values), last - 1)
    return np.where(known[order][at] == values, order[at], last)
