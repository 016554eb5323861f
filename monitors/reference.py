"""Reference rows become a profile: what live rows are compared with.

The rows are counted by the very code that counts live rows, in the type the model is fed: `build` takes the values as
the model sees them (float32 where the input is FP32), remembers that type, and `Marginal.cells` casts whatever it gets
to it. Otherwise a float64 reference and float32 traffic would fall on different sides of an edge they share.

Many rows come in parts. A sample decides where the edges of the bins lie and which categories have a cell; the parts
are counted one after the other and forgotten, so that memory does not grow with them. Rows that are all in the
sample give what they give at once.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import starmap

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitors.baseline import Baseline
from monitors.binning import guess, typed
from monitors.cell_losses import MOST_FEATURES, Floats, Losses, LossTally
from monitors.marginal import Counts, Kind, Marginal, cast
from monitors.profile import PREDICTION, Profile, Sample, decode
from monitors.repeats import Repeating
from monitors.sampling import ALPHA, MAX_REFERENCE_ERROR, MIN_BLOCKS, blocks
from monitors.strata import DAY_S, HOURS, within_hours
from monitors.tally import Tally
from serving.errors import PublishRefused
from serving.protocol import Array

__all__ = [
    "PREDICTION", "Chosen", "Counts", "Kind", "Marginal", "Part", "Profile", "build", "cast", "decode", "marginal",
    "of_parts",
]  # fmt: skip

SAMPLE_ROWS = 8192
SAMPLE_BYTES = 2**18  # of the sample at most; with more features it has fewer rows
MAX_TOGETHER = 64  # features that are looked at together: the first ones


@dataclass(frozen=True)
class Part:
    """Rows that are there at once; every array has shape (n,).

    `values` are the features, in the type the model is fed; NaN (empty text) is missing. `prediction` is the model's
    output for the same rows: a probability for classification, any number for regression; `labels` are the truth
    about them, NaN where unknown. `time`, in seconds, gives the blocks on which design effects are measured.
    """

    values: Mapping[str, Array]
    prediction: Array | None = None
    labels: Array | None = None
    time: Array | None = None

    @property
    def columns(self) -> dict[str, Array]:
        return dict(self.values) | ({} if self.prediction is None else {PREDICTION: self.prediction})

    @property
    def rows(self) -> int:
        """n. Raises PublishRefused when shapes do not agree."""
        named = {**self.columns, "the labels": self.labels, "the time": self.time}
        shapes = {name: column.shape for name, column in named.items() if column is not None}
        if not shapes:
            raise PublishRefused("a reference needs at least one feature or prediction, got none")
        rows = next(iter(shapes.values()))[:1]
        for name, shape in shapes.items():
            if shape != rows:
                raise PublishRefused(f"reference column {name!r} has shape {shape}, expected {rows}")
        return int(rows[0])

    @property
    def clock(self) -> NDArray[np.float64]:
        """The time of each row, 0 where they have none."""
        return np.zeros(self.rows) if self.time is None else np.asarray(self.time, np.float64)

    def blocks(self, block_s: float) -> NDArray[np.int64]:
        """The block of each row; without a time all are in one."""
        return blocks(self.clock, block_s)

    def of(self, which: NDArray[np.int64]) -> "Part":
        """The rows at these places."""
        extra = (None if column is None else column[which] for column in (self.prediction, self.labels, self.time))
        return Part({name: column[which] for name, column in self.values.items()}, *extra)


@dataclass(frozen=True)
class Chosen:
    """One row of each cluster and block: what is counted of features and predictions. Losses are of all rows.

    `rows` are the numbers of these rows among all, as from `clusters.one_a_cluster`; `sample` has the rows `numbers`,
    some of them or all. Both in increasing order.
    """

    cluster: str  # the feature that names the clusters
    rows: NDArray[np.int64]
    sample: Part
    numbers: NDArray[np.int64]

    @property
    def places(self) -> NDArray[np.int64]:
        """Where the rows of the sample stand among the chosen ones."""
        return np.searchsorted(self.rows, self.numbers)

    def among(self, first: int, rows: int) -> NDArray[np.int64]:
        """Which of so many rows, the first of which is row `first`."""
        begin, end = np.searchsorted(self.rows, (first, first + rows))
        return self.rows[begin:end] - first


def build(
    values: Mapping[str, Array],
    kinds: Mapping[str, Kind],
    *,
    prediction: Array | None = None,
    labels: Array | None = None,
    task: str | None = None,
    time: Array | None = None,
    block_s: float = DAY_S,
    alpha: float = ALPHA,
    zone: str = "UTC",
) -> Profile:
    """Freeze reference rows that are all there, as in `Part`, into a profile. The rest as in `of_parts`.

    >>> rng = np.random.default_rng(1)
    >>> profile = build({"x": rng.normal(size=5000).astype(np.float32)}, {"x": "numeric"})
    >>> profile.features["x"].size, profile.features["x"].dtype, profile.notes[0]
    (13, 'float32', 'no time column: the reference rows are taken as independent (design effect 1)')
    """
    part = Part(values, prediction, labels, time)
    return of_parts(part, np.arange(part.rows), [part], kinds, task=task, block_s=block_s, alpha=alpha, zone=zone)


def of_parts(
    sample: Part,
    numbers: NDArray[np.int64],
    parts: Iterable[Part],
    kinds: Mapping[str, Kind],
    *,
    task: str | None = None,
    block_s: float = DAY_S,
    alpha: float = ALPHA,
    chosen: Chosen | None = None,
    zone: str = "UTC",
) -> Profile:
    """Freeze the rows of `parts` into a profile, whose cells are those of `sample`.

    `numbers`, shape (n,), says where the rows of the sample stand among all, from 0 and in increasing order. The
    kind of a feature that is not in `kinds` is guessed, and the profile says so. `zone` has the clock by which
    hours of the week are told apart. Where parts are cut changes losses in their last bits and nothing else. Raises
    PublishRefused when shapes do not agree, or for a number that is text.
    """
    kinds, guessed = _kinds(sample, kinds)
    laws = _Laws(sample, numbers, kinds, alpha, chosen)
    baseline, repeating = Baseline(task, sample.prediction, sample.labels), Repeating()
    drawn, timed, rows = _draw(chosen.sample if chosen else sample, block_s), sample.time is not None, 0
    del sample
    for part in parts:
        block = part.blocks(block_s)
        names, place = np.unique(block, return_inverse=True)
        loss = baseline.add(part.prediction, part.labels, block if timed else None)
        laws.add(part, rows, names, place, loss)
        if part.values:
            repeating.add(part.values.values(), rows, names, place)
        rows += part.rows
    features = laws.features(block_s if timed else None, zone)
    risk, why = baseline.risk(alpha)
    profile = Profile(rows=rows, block_s=block_s, features=features, risk=risk, sample=_sample(features, drawn),
                      repeats=repeating.law(alpha), cluster=chosen.cluster if chosen else "",
                      losses=laws.losses(features, block_s) if risk else None, clock=zone)  # fmt: skip
    notes = (_time_note(timed, laws.blocks), *starmap(_law_note, features.items()), _correlation_note(profile), why,
             *laws.notes(rows, timed), _hours_note(timed, block_s), *laws.season_notes(features), guessed)  # fmt: skip
    return msgspec.structs.replace(profile, notes=tuple(filter(None, notes)))


class _Laws:
    """Counts rows by feature and cell: all of them, or the chosen ones, whose sample then makes the cells."""

    def __init__(
        self, sample: Part, numbers: NDArray[np.int64], kinds: Mapping[str, Kind], alpha: float, chosen: Chosen | None
    ) -> None:
        if chosen:
            sample, numbers = chosen.sample, chosen.places
        self._tallies = {name: Tally(column, kinds[name], numbers, alpha) for name, column in sample.columns.items()}
        self._chosen, self._sampled, self._counted = chosen, sample.rows, 0
        self._why_whole: dict[str, str] = {}  # of features whose hours were looked at
        first = sorted(self._tallies, key=lambda name: name != PREDICTION)[:MOST_FEATURES]
        self._losses = LossTally({name: self._tallies[name].size for name in first})

    @property
    def blocks(self) -> int:
        """Blocks of time that have rows."""
        return max(tally.blocks for tally in self._tallies.values())

    def add(
        self, part: Part, first: int, blocks: NDArray[np.int64], place: NDArray[np.intp], loss: Floats | None
    ) -> None:
        """The first row is row `first` of all, row i lies in block `blocks[place[i]]` and has `loss[i]`, if any."""
        mine: NDArray[np.int64] | slice = self._chosen.among(first, len(place)) if self._chosen else slice(None)
        cells = {}
        for name, column in part.columns.items():
            tally = self._tallies[name]
            counted = tally.add(column[mine], self._counted, blocks, place[mine])
            if loss is not None and name in self._losses:
                cells[name] = tally.cells(column) if self._chosen else counted
        self._counted += len(place[mine])
        if loss is not None:
            self._losses.add(cells, loss, blocks[place])

    def features(self, block_s: float | None, zone: str) -> dict[str, Marginal]:
        """The laws; with `block_s`, the length of a block, their clusters are measured, and by hour their season."""
        if block_s is None or block_s >= DAY_S or not within_hours(block_s) or self._chosen:
            return {name: tally.law(block_s) for name, tally in self._tallies.items()}
        laws = {}
        for name, tally in self._tallies.items():
            season, self._why_whole[name] = tally.season(block_s, zone)
            laws[name] = tally.law(block_s, season, zone)
        return laws

    def losses(self, features: Mapping[str, Marginal], block_s: float) -> Losses | None:
        """By cell, of those of the features that are judged."""
        found = self._losses.losses(block_s)
        fit = {name: cells for name, cells in found.features.items() if not features[name].unfit} if found else {}
        return msgspec.structs.replace(found, features=fit) if found and fit else None

    def notes(self, rows: int, timed: bool) -> Iterator[str]:
        """What of so many rows was counted."""
        if self._chosen:
            where = "and block" if timed else "(not one a block, as live: the reference has no time column)"
            yield f"one row of each {self._chosen.cluster} {where} is counted: {self._counted} of {rows} rows"
        yield _sample_note(self._sampled, self._counted)

    def season_notes(self, laws: Mapping[str, Marginal]) -> Iterator[str]:
        """With which rows each feature is compared, where hours were looked at."""
        alike: dict[str, list[str]] = {}
        for name, why in self._why_whole.items():
            if not laws[name].unfit:
                alike.setdefault(_compared(laws[name], why), []).append(name)
        for compared, names in alike.items():
            yield f"{', '.join(names)}: compared {compared}"


def _draw(sample: Part, block_s: float) -> dict[str, Array]:
    """Values of rows drawn at random, of the features that are looked at together.

    Every second one is of an odd block of time, the others of even ones: two halves that share no cluster.
    """
    columns = dict(list(sample.columns.items())[:MAX_TOGETHER])
    rows = min(SAMPLE_ROWS, SAMPLE_BYTES // max(1, len(columns)))
    which = np.random.default_rng(0).permutation(sample.rows)
    if sample.time is not None and len(np.unique(block := blocks(sample.time, block_s))) >= MIN_BLOCKS:
        odd = block[which] % 2 == 1
        half = min(int(odd.sum()), int((~odd).sum()), rows // 2)
        which = np.stack([which[~odd][:half], which[odd][:half]], 1).ravel()
    return {name: column[which[:rows]] for name, column in columns.items()}


def _sample(features: Mapping[str, Marginal], drawn: Mapping[str, Array]) -> Sample | None:
    if len(drawn) < 2:
        return None
    cells = np.stack([features[name].cells(typed(column, features[name].kind)) for name, column in drawn.items()], 1)
    return Sample(tuple(drawn), cells.astype(np.uint8).tobytes())


def marginal(
    values: Array, kind: Kind, *, block: Array | None = None, block_s: float = DAY_S, alpha: float = ALPHA
) -> Marginal:
    """The law of one feature. With `block`, shape (n,), the block of each row, its design effect is measured.

    It has as many bins, at most 10, as would keep the error of the reference below 0.1 if its rows were independent;
    with room for less than two it is marked unfit, and keeps 10 for the effect sizes. Where the rows are clustered
    `Marginal.error` is larger: the detector then tolerates more, and past 0.75 the feature is unfit too.

    >>> marginal(np.arange(500.0), "numeric").unfit
    'reference too small: 500 rows, 695 are needed'
    """
    tally = Tally(values, kind, np.arange(len(values)), alpha)
    tally.add(values, 0, *np.unique(np.zeros(len(values), np.int64) if block is None else block, return_inverse=True))
    return tally.law(None if block is None else block_s)


def _kinds(sample: Part, declared: Mapping[str, Kind]) -> tuple[dict[str, Kind], str]:
    """The kind of every column, and a sentence about those that were guessed."""
    declared = {PREDICTION: "numeric", **declared}
    kinds: dict[str, Kind] = {}
    for name, column in sample.columns.items():
        kinds[name] = declared[name] if name in declared else guess(column)
        if kinds[name] == "numeric" and column.dtype.kind not in "biuf":
            raise PublishRefused(f"reference column {name!r} holds {column.dtype}, a numeric feature needs numbers")
    guessed: dict[Kind, list[str]] = {"numeric": [], "categorical": []}
    for name, kind in kinds.items():
        if name not in declared and sample.values[name].dtype.kind not in "OSU":
            guessed[kind].append(name)
    said = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in guessed.items() if names)
    return kinds, f"kinds that nobody declared are guessed from the values ({said})" if said else ""


def _time_note(timed: bool, got: int) -> str:
    if not timed:
        return "no time column: the reference rows are taken as independent (design effect 1)"
    if got >= MIN_BLOCKS:
        return ""
    return f"the reference holds {got} blocks of time, a design effect needs {MIN_BLOCKS}: 1 is used"


def _hours_note(timed: bool, block_s: float) -> str:
    if not timed or block_s >= DAY_S or within_hours(block_s):
        return ""
    return f"blocks of {block_s:g} s are neither parts of an hour nor days: all hours are compared together"


def _compared(law: Marginal, why: str) -> str:
    """`why` there is nothing finer, as from `strata.chosen`."""
    if not law.strata:
        return f"with all hours together, since {why or 'no season is seen'}"
    few = HOURS - len(law.strata.judged)
    left = f"; in {few} of {HOURS} hours of the week it has too few rows to judge by" if few else ""
    return f"by {law.strata.by} ({law.strata.zone}){left}{f'; no finer, since {why}' if why else ''}"


def _law_note(name: str, law: Marginal) -> str:
    if law.unfit:
        return f"{name} is not judged: {law.unfit}"
    blunt = (
        f"{name}: a drift is seen only if it moves more than {law.error:.2f} of the rows: the reference's {law.worth}"
    )
    return blunt if law.error > MAX_REFERENCE_ERROR else ""


def _correlation_note(profile: Profile) -> str:
    times = {name: law.memory_s / 3600 for name, law in profile.features.items() if law.memory_s}
    if not times:
        return ""
    said = f"correlation times: {', '.join(f'{name} {hours:.1f} h' for name, hours in times.items())}"
    slow, block_h = profile.correlated(profile.block_s), profile.block_s / 3600
    return f"{said}; blocks of {block_h:g} h are shorter than those of {', '.join(slow)}" if slow else said


def _sample_note(sampled: int, rows: int) -> str:
    if sampled == rows:
        return ""
    return f"all {rows} rows are counted; the edges of bins and the categories come from {sampled} of them, at random"
