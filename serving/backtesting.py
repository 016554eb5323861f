"""Two files of rows into a backtest: what their columns are, and what the monitors would have said of them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitors.backtest.document import Document, File
from monitors.backtest.past import Past, Ruler
from monitors.backtest.run import run
from monitors.clusters import keys, one_a_cluster
from monitors.reference import Chosen, Kind, Part, Profile, decode, of_parts
from monitors.strata import is_zone
from serving import rows as tables
from serving.config import Monitors
from serving.errors import BadRequest
from serving.manifest import Task
from serving.protocol import Array
from serving.rows import Rows

BLOCK_ROWS = 1000  # where rows have no time and nobody says how many make a block
PART_ROWS = 2**18  # of the data in memory at once
_DAY_S = 86400.0  # a block of rows counts as a day
_YEARS_S = (-6e10, 2.5e11)  # since 1970: what a calendar has, from the year 68 to 9892


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which column is what. All others are features if `features` is empty; it has their kinds, None to be guessed.

    Without a timestamp blocks are of rows. Of the rows of a cluster one counts in a block. The reference need have
    neither of these columns, and no `label_time`. `segments` are features by which metrics are divided.
    """

    timestamp: str | None = None
    prediction: str | None = None
    label: str | None = None
    label_time: str | None = None
    cluster: str | None = None
    features: dict[str, Kind | None] = field(default_factory=dict)
    segments: tuple[str, ...] = ()

    @property
    def parts(self) -> list[str]:
        named = (self.timestamp, self.prediction, self.label, self.label_time, self.cluster)
        return [name for name in named if name is not None]


def backtest(
    reference: Path, data: Path, columns: Columns, settings: Monitors, *, task: Task | None = None,
    block_rows: int | None = None, time_zone: str = "UTC",
) -> Document:  # fmt: skip
    """What the monitors would have said of the rows of `data`, with those of `reference` to compare them with.

    A block is of `block_rows` rows, or with a timestamp of `settings.block_s` and no fewer rows. Without `task`
    labels that are 0 and 1 make a classification. By the clock of `time_zone` hours of the week are told apart.
    Raises BadRequest or PublishRefused with a sentence.
    """
    _check(columns)
    if not is_zone(time_zone):
        raise BadRequest(f"--time-zone must be a name that this machine knows, as UTC, got {time_zone!r}")
    settings, ruler = _blocks(columns, settings, block_rows)
    features, notes = _features(reference, data, columns)
    then, own = _Table(data, features, columns, ruler), _of_reference(reference, columns)
    known = _Table(reference, features, own, ruler)
    profile, task = _profile(known, columns, ruler, task, time_zone)
    past = Past(profile, ruler, settings, columns.segments, task)
    for part, label_times, clusters in then.parts(PART_ROWS):
        _fits(part, profile, data, reference)
        _fits_task(part, task, data)
        past.add(part, label_times, clusters)
    if not past.rows:
        raise BadRequest(f"{data} has no rows")
    if columns.cluster != own.cluster:
        notes.append(f"of the reference's rows all are counted: {reference} has no column {columns.cluster!r}")
    if ruler.rows is not None:
        notes.append(f"rows have no time: for the budget, a block of {ruler.rows} rows counts as a day")
    said = [note for note in profile.notes if columns.label or not note.startswith("risk is not judged")]
    if not columns.label:
        notes.append("risk is not judged: --label names no column")
    profile = msgspec.structs.replace(profile, notes=(*said, *notes))
    files = {"reference": known.file(profile.rows), "data": then.file(past.rows)}
    return run(profile, past, ruler, settings, **files, gaugeway=version("gaugeway"))


class _Table:
    """One of the files, as parts of rows; where these have no time, the number of their block stands for it."""

    def __init__(self, path: Path, features: Sequence[str], columns: Columns, ruler: Ruler) -> None:
        self.path, self._features, self._columns, self._ruler = path, features, columns, ruler
        self._rows = Rows(path, [*features, *columns.parts])

    def sample(self) -> tuple[Part, tables.Sample]:
        """Some rows, or all where these are few, and where they stand among all."""
        sample = self._rows.sample()
        return self._part(sample.part, sample.numbers), sample

    def parts(self, rows: int) -> Iterator[tuple[Part, Array | None, Array | None]]:
        """Each with its label times and clusters, if there are any."""
        first, label_time, cluster = 0, self._columns.label_time, self._columns.cluster
        for part in self._rows.parts(rows):
            found = self._part(part, np.arange(first, first + len(part)))
            label_times = part.times(label_time, all_known=False) if label_time else None
            yield found, label_times, part.clusters(cluster) if cluster else None
            first += len(part)

    def chosen(self, whole: Part | None) -> Chosen | None:
        """One row of each cluster and block, where a column names clusters; `whole` are all rows if they fit."""
        if self._columns.cluster is None:
            return None
        parts, block_s = self.parts(tables.PART_ROWS), self._ruler.block_s
        named = ((keys(clusters), part) for part, _, clusters in parts if clusters is not None)
        rows = one_a_cluster((cluster, part.clock, part.blocks(block_s)) for cluster, part in named)
        if whole is not None:
            return Chosen(self._columns.cluster, rows, whole.of(rows), rows)
        sample = self._rows.sample(tables.PART_ROWS, rows)
        return Chosen(self._columns.cluster, rows, self._part(sample.part, sample.numbers), sample.numbers)

    def file(self, rows: int) -> File:
        return File(self.path.name, rows, self._rows.digest())

    def _part(self, part: tables.Part, numbers: NDArray[np.int64]) -> Part:
        columns, ruler = self._columns, self._ruler
        time = self._times(part, columns.timestamp) if columns.timestamp else None
        return Part(
            {name: part.values(name) for name in self._features},
            part.predictions(columns.prediction) if columns.prediction else None,
            part.labels(columns.label) if columns.label else None,
            time if ruler.rows is None else numbers // ruler.rows * ruler.block_s,
        )

    def _times(self, part: tables.Part, name: str) -> Array:
        times = part.times(name)
        first, last = (float(at) for at in (times.min(), times.max()))
        if first < _YEARS_S[0] or last > _YEARS_S[1]:
            raise BadRequest(
                f"{self.path}: column {name!r} holds times from {first:.4g} to {last:.4g}, expected seconds since 1970"
                " in years of the calendar: are they milliseconds?"
            )
        return times


def _check(columns: Columns) -> None:
    if columns.label_time is not None and (columns.timestamp is None or columns.label is None):
        raise BadRequest("--label-time needs --label, and --timestamp for the time of the prediction")
    if columns.label is not None and columns.prediction is None:
        raise BadRequest("--label needs --prediction: the loss is of a prediction and its label")
    features = columns.features.keys() - {columns.cluster}  # a cluster may be a feature too
    twice = [name for name in columns.parts if columns.parts.count(name) > 1 or name in features]
    if twice:
        raise BadRequest(f"column {twice[0]!r} is named twice, expected each column in one place")
    if unfit := [name for name in columns.features if not _is_feature(name)]:
        raise BadRequest(f"the name of a feature must not be empty or begin with an underscore, got {unfit[0]!r}")


def _is_feature(name: str) -> bool:
    """Names with an underscore are the monitors' own, as `_prediction`."""
    return bool(name) and not name.startswith("_")


def _blocks(columns: Columns, settings: Monitors, block_rows: int | None) -> tuple[Monitors, Ruler]:
    if columns.cluster is not None:
        settings = msgspec.structs.replace(settings, unit=f"cluster:{columns.cluster}")
    if columns.timestamp is None:
        rows = block_rows or BLOCK_ROWS
        settings = msgspec.structs.replace(settings, block_s=_DAY_S, slot_s=_DAY_S, block_rows=rows)
        return settings, Ruler(_DAY_S, _DAY_S, rows)
    slot_s, fewest = min(settings.slot_s, settings.block_s), block_rows or settings.block_rows
    return msgspec.structs.replace(settings, slot_s=slot_s, block_rows=fewest), Ruler(settings.block_s, slot_s)


def _features(reference: Path, data: Path, columns: Columns) -> tuple[list[str], list[str]]:
    """Their names, and what is to be said of columns that are none."""
    if columns.features:
        return list(columns.features), []
    there, then = ([name for name in Rows(path, ()).columns if name not in columns.parts] for path in (reference, data))
    unfit = list(dict.fromkeys(name for name in (*there, *then) if not _is_feature(name)))
    there, then = ([name for name in names if _is_feature(name)] for names in (there, then))
    only = {reference: [name for name in there if name not in then], data: [name for name in then if name not in there]}
    if any(only.values()):
        said = "; ".join(f"only {path} has {', '.join(map(repr, names))}" for path, names in only.items() if names)
        raise BadRequest(f"the files have different columns: {said}; name the features with --feature")
    if not there and columns.prediction is None:
        raise BadRequest(f"{data} has no column left that could be a feature, and --prediction names none")
    note = f"columns without a name, or whose name begins with an underscore, are no features: {', '.join(unfit)}"
    return there, [note] if unfit else []


def _of_reference(path: Path, columns: Columns) -> Columns:
    there = Rows(path, ()).columns
    timestamp, cluster = (name if name in there else None for name in (columns.timestamp, columns.cluster))
    return Columns(timestamp=timestamp, prediction=columns.prediction, label=columns.label, cluster=cluster)


def _profile(
    known: _Table, columns: Columns, ruler: Ruler, task: Task | None, zone: str
) -> tuple[Profile, Task | None]:
    sample, drawn = known.sample()
    task = task or _task(sample)
    whole = sample if drawn.rows == len(drawn.part) else None
    parts = [whole] if whole is not None else (part for part, *_ in known.parts(tables.PART_ROWS))
    kinds = {name: kind for name, kind in columns.features.items() if kind}
    profile = of_parts(sample, drawn.numbers, _fitting(parts, task, known.path), kinds, task=task,
                       block_s=ruler.block_s, zone=zone, chosen=known.chosen(whole))  # fmt: skip
    return decode(profile.encode()), task  # as it is stored, for features add up in their order there


def _task(sample: Part) -> Task | None:
    """Of labels that are 0 and 1, or where none is known of predictions in 0..1, a classification."""
    if sample.prediction is None or sample.labels is None:
        return None
    known, said = (values[np.isfinite(values)] for values in (sample.labels, sample.prediction))
    binary = np.isin(known, (0.0, 1.0)).all() if len(known) else ((said >= 0) & (said <= 1)).all()
    return "classification" if binary else "regression"


def _fitting(parts: Iterable[Part], task: Task | None, path: Path) -> Iterator[Part]:
    for part in parts:
        _fits_task(part, task, path)
        yield part


def _fits_task(part: Part, task: Task | None, path: Path) -> None:
    """Raises BadRequest where a classification has a prediction that is no probability, or a label that is no class."""
    if task != "classification":
        return
    for what, column in (("prediction", part.prediction), ("label", part.labels)):
        known = np.empty(0) if column is None else column[np.isfinite(column)]
        wrong = known[~np.isin(known, (0.0, 1.0))] if what == "label" else known[(known < 0) | (known > 1)]
        if len(wrong):
            expected = "labels of 0 and 1" if what == "label" else "predictions in 0..1"
            raise BadRequest(
                f"{path}: a classification has {expected}, got {wrong[0]:g} in {len(wrong)} rows; is it a regression"
                " (--task)?"
            )


def _fits(part: Part, profile: Profile, data: Path, reference: Path) -> None:
    """Raises BadRequest where the data hold what the reference does not."""
    for name, values in part.values.items():
        text = values.dtype == object
        if text != (profile.features[name].dtype == "text") and not _missing(values):
            there, then = ("numbers", "text") if text else ("text", "numbers")
            raise BadRequest(f"column {name!r} holds {then} in {data}, but {there} in {reference}")


def _missing(values: Array) -> bool:
    return values.dtype != object and bool(np.isnan(values).all())
