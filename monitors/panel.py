"""All features of a version counted at once: a value's cell is found by comparing, not by searching.

A feature has a dozen bounds. To compare a whole tensor with each of them takes a tenth of the time of searching for
every value, and gives the same cells to the bit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from monitors.bottom_k import ABSENT, BottomK, Hashes
from monitors.clusters import Clusters, columns
from monitors.fingerprints import fingerprints
from monitors.memo import Memo
from monitors.reference import PREDICTION, Marginal, cast
from monitors.repeats import contents
from monitors.slot import HALF, Counts
from serving.manifest import Feature
from serving.protocol import Array

_ROWS = 8192  # compared at once, so that they stay in the processor's cache

Cells = NDArray[np.int64]
Table = NDArray[np.uint8]  # cells of rows, shape (features, n), in an order that the panel knows


@dataclass(frozen=True)
class _Numbers:
    """Numeric features that are columns of one tensor."""

    tensor: str
    columns: list[int]
    dtype: str
    bounds: Array  # shape (bounds, features), NaN where a feature has less
    missing: NDArray[np.uint8]  # the cell of NaN, shape (features, 1)

    def cells(self, array: Array) -> NDArray[np.uint8]:
        """Shape (features, n)."""
        values = np.ascontiguousarray(cast(_chosen(array, self.columns), self.dtype).T)
        cells = np.zeros(values.shape, np.uint8)
        above = np.empty(values.shape, bool)
        for bounds in self.bounds:
            np.greater_equal(values, bounds[:, None], out=above)
            cells += above.view(np.uint8)
        np.not_equal(values, values, out=above)
        if above.any():
            cells += above * self.missing
        return cells


class Panel:
    """Counts rows by the cells of `laws`, of features that are columns of named tensors."""

    def __init__(
        self,
        laws: Mapping[str, Marginal],
        features: Sequence[Feature],
        halved: str | None = None,
        memo: Memo | None = None,
    ) -> None:
        """`memo` may be that of other panels."""
        self._features = known = [feature for feature in features if feature.name in laws]
        groups: dict[tuple[str, str], list[Feature]] = {}
        texts: dict[tuple[str, bool], list[Feature]] = {}
        for feature in known:
            law = laws[feature.name]
            if law.kind == "numeric":
                groups.setdefault((feature.input, law.dtype), []).append(feature)
            else:
                texts.setdefault((feature.input, law.dtype == "text"), []).append(feature)
        self._laws, self._memo = laws, memo or Memo(bits=16)
        self._texts = list(texts.values())
        self._salts = {feature.name: self._memo.salt() for group in self._texts for feature in group}
        self._numbers = [_numbers(*key, [laws[f.name] for f in group], group) for key, group in groups.items()]
        self._names = [f.name for group in (*groups.values(), *self._texts) for f in group]
        self._halved = self._names.index(halved) if halved in self._names else None
        again = [] if self._halved is None else [self._names[self._halved]]
        sizes = [laws[name].size for name in (*self._names, *again)]
        self._starts = np.cumsum([0, *sizes])

    def count(
        self,
        tensors: Mapping[str, Array],
        place: Cells,
        places: int,
        bits: NDArray[np.bool_] | None = None,
        table: Table | None = None,
    ) -> list[Counts]:
        """Counts of `places` slots; `place`, shape (n,), says to which of them each row belongs.

        The rows that have the bit, shape (n,), are counted once more in the feature that is halved, as `HALF`.
        `table` is that of the rows, where it is at hand.
        """
        total = np.zeros(places * int(self._starts[-1]), np.int64)
        table = self.table(tensors, len(place)) if table is None else table
        for first in range(0, len(place), _ROWS):
            some = slice(first, first + _ROWS)
            total += self._part(table[:, some], place[some], len(total), None if bits is None else bits[some])
        cells, rows = total.reshape(places, int(self._starts[-1])), np.bincount(place, minlength=places).tolist()
        names = self._names if self._halved is None or bits is None else [*self._names, HALF]
        spans = list(zip(names, self._starts[:-1].tolist(), self._starts[1:].tolist(), strict=False))
        return [Counts(n, {name: cells[i, a:b] for name, a, b in spans}) for i, n in enumerate(rows)]

    def contents(self, tensors: Mapping[str, Array]) -> Hashes | None:
        """A hash of each row's features, shape (n,); equal rows have equal ones. None where it has none."""
        inputs: dict[str, list[int]] = {}
        for feature in self._features:
            if feature.input != PREDICTION:
                inputs.setdefault(feature.input, []).append(feature.column or 0)
        if not inputs:
            return None
        return contents(_chosen(tensors[name], columns) for name, columns in inputs.items())

    def draw(self, tensors: Mapping[str, Array], hashes: Hashes, names: Sequence[str]) -> BottomK:
        """A sample of rows, hashes of shape (n,), as their cells of the features `names`."""
        return BottomK.of(hashes, self.cells(tensors, len(hashes), names))

    def gather(self, tensors: Mapping[str, Array], clusters: Hashes, hashes: Hashes) -> Clusters:
        """A row of each cluster; hashes of clusters and rows have shape (n,)."""
        return Clusters.of(clusters, hashes, self.cells(tensors, len(hashes), columns(self._laws)))

    def cells(self, tensors: Mapping[str, Array], rows: int, names: Sequence[str]) -> NDArray[np.uint8]:
        """Of each row, shape (rows, names)."""
        return self.chosen(self.table(tensors, rows), names)

    def chosen(self, table: Table, names: Sequence[str]) -> NDArray[np.uint8]:
        """The cells of features `names`, shape (rows, names); `ABSENT` of those that the rows do not have."""
        found = np.concatenate([table, np.full((1, table.shape[1]), ABSENT, np.uint8)])
        places = [self._names.index(name) if name in self._names else -1 for name in names]
        return np.ascontiguousarray(found[places].T)

    def table(self, tensors: Mapping[str, Array], rows: int) -> Table:
        """The cell of each row in each feature."""
        table = np.empty((len(self._names), rows), np.uint8)
        for first in range(0, rows, _ROWS):
            some = slice(first, first + _ROWS)
            self._fill(table[:, some], {name: array[some] for name, array in tensors.items()})
        return table

    def _fill(self, table: Table, tensors: Mapping[str, Array]) -> None:
        at = 0
        for group in self._numbers:
            table[at : at + len(group.columns)] = group.cells(tensors[group.tensor])
            at += len(group.columns)
        for features in self._texts:
            table[at : at + len(features)] = self._categories(features, tensors[features[0].input])
            at += len(features)

    def _categories(self, features: list[Feature], array: Array) -> Array:
        """The cells of columns of one tensor, shape (features, n). Those of short texts are remembered."""
        laws, values = [self._laws[f.name] for f in features], _chosen(array, [f.column or 0 for f in features])
        if laws[0].dtype != "text" or values.dtype.kind != "S":
            return np.stack([law.cells(column) for law, column in zip(laws, values.T, strict=True)])
        keys = fingerprints(values).T ^ np.array([[self._salts[f.name]] for f in features])
        cells, known = self._memo.find(keys)
        for i in np.flatnonzero(~known.all(1)).tolist():
            new = np.flatnonzero(~known[i])
            cells[i, new] = laws[i].cells(values[new, i])
            self._memo.note(keys[i, new], cells[i, new])
        return cells

    def _part(self, table: Table, place: Cells, size: int, bits: NDArray[np.bool_] | None) -> Cells:
        found = table + self._starts[: len(table), None]
        if size > self._starts[-1]:  # rows of several slots
            found += place * self._starts[-1]
        total = np.bincount(found.ravel(), minlength=size)
        if self._halved is not None and bits is not None:
            again = self._starts[-2] - self._starts[self._halved]
            total += np.bincount(found[self._halved, bits] + again, minlength=size)
        return total


def _numbers(tensor: str, dtype: str, laws: Sequence[Marginal], features: Sequence[Feature]) -> _Numbers:
    bounds = np.full((max(law.size for law in laws) - 2, len(laws)), np.nan, dtype)
    for k, law in enumerate(laws):
        bounds[: law.size - 2, k] = law.bounds[:-1]
    columns = [feature.column or 0 for feature in features]
    return _Numbers(tensor, columns, dtype, bounds, np.array([[law.size - 1] for law in laws], np.uint8))


def _chosen(array: Array, columns: list[int]) -> Array:
    """Columns of the rows, shape (n, columns). Neighbours are not copied."""
    flat = array.reshape(len(array), prod(array.shape[1:]))
    first, end = columns[0], columns[0] + len(columns)
    neighbours = 0 <= first and end <= flat.shape[1] and columns == list(range(first, end))
    return flat[:, first:end] if neighbours else flat[:, columns]
