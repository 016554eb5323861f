"""Reference rows become a profile: what live rows are compared with.

The rows are counted by the very code that counts live rows, in the type the model is fed: `build` takes the values as
the model sees them (float32 where the input is FP32), remembers that type, and `Marginal.cells` casts whatever it gets
to it. Otherwise a float64 reference and float32 traffic would fall on different sides of an edge they share.

Many rows come in parts. A sample decides where the edges of the bins lie and which categories have a cell; the parts
are counted one after the other and forgotten, so that memory does not grow with them. Rows that are all in the
sample give what they give at once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import starmap

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitors.baseline import Baseline
from monitors.binning import guess, typed
from monitors.marginal import Counts, Kind, Marginal, cast
from monitors.profile import PREDICTION, Profile, Sample, decode
from monitors.repeats import Repeating
from monitors.sampling import ALPHA, MAX_REFERENCE_ERROR, MIN_BLOCKS, blocks
from monitors.tally import Tally
from serving.errors import PublishRefused
from serving.protocol import Array

__all__ = [
    "PREDICTION", "Counts", "Kind", "Marginal", "Part", "Profile", "build", "cast", "decode", "marginal", "of_parts",
]  # fmt: skip

DAY_S = 86400.0
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
) -> Profile:
    """Freeze reference rows that are all there, as in `Part`, into a profile. The rest as in `of_parts`.

    >>> rng = np.random.default_rng(1)
    >>> profile = build({"x": rng.normal(size=5000).astype(np.float32)}, {"x": "numeric"})
    >>> profile.features["x"].size, profile.features["x"].dtype, profile.notes[0]
    (13, 'float32', 'no time column: the reference rows are taken as independent (design effect 1)')
    """
    part = Part(values, prediction, labels, time)
    return of_parts(part, np.arange(part.rows), [part], kinds, task=task, block_s=block_s, alpha=alpha)


def of_parts(
    sample: Part,
    numbers: NDArray[np.int64],
    parts: Iterable[Part],
    kinds: Mapping[str, Kind],
    *,
    task: str | None = None,
    block_s: float = DAY_S,
    alpha: float = ALPHA,
) -> Profile:
    """Freeze the rows of `parts` into a profile, whose cells are those of `sample`.

    `numbers`, shape (n,), says where the rows of the sample stand among all, from 0 and in increasing order. The
    kind of a feature that is not in `kinds` is guessed, and the profile says so. Where parts are cut changes losses
    in their last bits and nothing else. Raises PublishRefused when shapes do not agree, or for a number that is text.
    """
    kinds, guessed = _kinds(sample, kinds)
    tallies = {name: Tally(column, kinds[name], numbers, alpha) for name, column in sample.columns.items()}
    baseline = Baseline(task, sample.prediction, sample.labels)
    sampled, timed, rows = sample.rows, sample.time is not None, 0
    drawn, repeating = _draw(sample, block_s), Repeating()
    del sample
    for part in parts:
        block = None if part.time is None else blocks(part.time, block_s)
        place = np.unique(np.zeros(part.rows, np.int64) if block is None else block, return_inverse=True)
        for name, column in part.columns.items():
            tallies[name].add(column, rows, *place)
        baseline.add(part.prediction, part.labels, block)
        if part.values:
            repeating.add(part.values.values(), rows, *place)
        rows += part.rows
    features = {name: tally.law(block_s if timed else None) for name, tally in tallies.items()}
    risk, why = baseline.risk(alpha)
    profile = Profile(rows=rows, block_s=block_s, features=features, risk=risk, sample=_sample(features, drawn),
                      repeats=repeating.law(alpha))  # fmt: skip
    notes = (_time_note(timed, tallies), *starmap(_law_note, features.items()), _correlation_note(profile), why,
             _sample_note(sampled, rows), guessed)  # fmt: skip
    return msgspec.structs.replace(profile, notes=tuple(filter(None, notes)))


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


def _time_note(timed: bool, tallies: Mapping[str, Tally]) -> str:
    if not timed:
        return "no time column: the reference rows are taken as independent (design effect 1)"
    got = max(tally.blocks for tally in tallies.values())
    if got >= MIN_BLOCKS:
        return ""
    return f"the reference holds {got} blocks of time, a design effect needs {MIN_BLOCKS}: 1 is used"


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
