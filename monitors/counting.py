"""Rows of one version, counted into their slots: cells of features, and sketches of rows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from monitors.bottom_k import LARGEST, Hashes, lowest
from monitors.features import column, declared
from monitors.panel import Panel, Table
from monitors.profile import Sample
from monitors.repeats import sketch
from monitors.schema import fed
from monitors.selftest import half
from monitors.slot import ROWS, Counts
from monitors.whole_rows import Value, WholeRows, short, smallest
from serving.manifest import Manifest
from serving.packed import Layout
from serving.protocol import Array

At = Callable[[int], Counts]  # the counts of a slot, to be changed


@dataclass(frozen=True)
class Rows:
    """Tensors by name, with rows along axis 0; slot and hash of each row, shape (n,)."""

    tensors: Mapping[str, Array]
    slot: NDArray[np.int64]
    drawn: Hashes
    table: Table | None = None  # the panel's, where it is at hand

    def of(self, which: Array) -> "Rows":
        """Rows by a mask, or by their places."""
        if which.dtype == np.bool_ and which.all():
            return self
        tensors = {name: array[which] for name, array in self.tensors.items()}
        table = None if self.table is None else self.table[:, which]
        return Rows(tensors, self.slot[which], self.drawn[which], table)

    def tabled(self, panel: Panel) -> "Rows":
        """With a table. Raises ValueError or TypeError where a tensor is not what a feature is."""
        return self if self.table is not None else replace(self, table=panel.table(self.tensors, len(self.slot)))


def take(at: At, panel: Panel, rows: Rows, sample: Sample | None, clusters: Hashes | None) -> None:
    """Add rows to all that is counted of their slots. `clusters`, shape (n,), are theirs where these are the unit."""
    count(at, panel, rows)
    if clusters is not None:
        gather(at, panel, rows, clusters)
    if sample is not None:
        draw(at, panel, rows, sample.features)


def count(at: At, panel: Panel, rows: Rows) -> None:
    """Add the cells of features, and which rows are equal."""
    numbers, place = np.unique(rows.slot, return_inverse=True)
    found = panel.count(rows.tensors, place, len(numbers), half(rows.drawn), rows.table)
    contents = panel.contents(rows.tensors)
    for number, counts in zip(numbers.tolist(), found, strict=True):
        slot = at(number)
        if contents is not None:
            mine = np.flatnonzero(rows.slot == number)
            bound = slot.contents.bound if slot.contents else LARGEST
            counts.contents = sketch(contents[mine], rows.drawn[mine], bound)
        slot.add(counts)


def draw(at: At, panel: Panel, rows: Rows, features: Sequence[str]) -> None:
    """Add the rows that come into the slots' samples; after the first rows of a slot these are few."""
    for slot, mine in _slots(at, rows):
        few = mine[lowest(rows.drawn[mine], slot.sample.bound if slot.sample else LARGEST)]
        if len(few):
            slot.add(Counts(sample=panel.draw(rows.of(few).tensors, rows.drawn[few], features)))


def gather(at: At, panel: Panel, rows: Rows, clusters: Hashes) -> None:
    """Add a row of each cluster, for the slots' samples of clusters."""
    for slot, mine in _slots(at, rows):
        few = mine[clusters[mine] <= np.uint64(slot.clusters.bound if slot.clusters else LARGEST)]
        if len(few):
            slot.add(Counts(clusters=panel.gather(rows.of(few).tensors, clusters[few], rows.drawn[few])))


def learn(at: At, columns: Sequence[Array | None], rows: Rows) -> None:
    """Add rows as they are, of which a reference is to be made. `columns` have shape (n,); None: there is none."""
    for slot, mine in _slots(at, rows):
        few = mine[smallest(rows.drawn[mine], slot.learned.bound if slot.learned else LARGEST)]
        drawn = rows.drawn[few]
        values = [[None] * len(few) if column is None else _plain(column[few], drawn) for column in columns]
        whole = WholeRows.of(int(rows.slot[mine[0]]), drawn, values) if len(few) else None
        slot.add(Counts(len(mine), learned=whole))


def as_fed(manifest: Manifest, layout: Layout, tensors: Mapping[str, Array]) -> list[Array | None]:
    """The columns of rows that `learn` takes, in the order in which the model is fed. Raises as `declared`."""
    there = {feature.name: feature for feature in declared(manifest, layout)}
    features = [there.get(name) for name, _ in fed(manifest)]
    return [column(tensors[one.input], one.column) if one else None for one in features]


def note_unreadable(at: At, rows: Array, slots: Array) -> None:
    """Of requests, shape (n,): how many rows each has, and its slot."""
    for number in np.unique(slots).tolist():
        n = int(rows[slots == number].sum())
        at(number).add(Counts(n, {ROWS: np.array([n])}))


def _slots(at: At, rows: Rows) -> Iterator[tuple[Counts, NDArray[np.intp]]]:
    for number in np.unique(rows.slot).tolist():
        yield at(number), np.flatnonzero(rows.slot == number)


def _plain(array: Array, drawn: Hashes) -> list[Value]:
    """Texts as they are if they are short, numbers as float64."""
    if array.dtype.kind in "OSU":
        return list(map(short, array.tolist(), drawn.tolist()))
    plain: list[Value] = array.astype(np.float64).tolist()
    return plain
