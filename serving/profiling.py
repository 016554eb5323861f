"""Reference rows through the model into a profile, part by part."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitors import reference as references
from monitors.bottom_k import Hashes
from monitors.clusters import keys, one_a_cluster
from monitors.features import column
from monitors.reference import Chosen, Part, Profile
from serving import rows as tables
from serving.errors import BadRequest, PublishRefused
from serving.manifest import Feature, Kind, Prediction, Task
from serving.protocol import Array, Signature
from serving.rows import Rows
from serving.validation import Report

Run = Callable[[Mapping[str, Array], bool], list[Array]]  # inputs, may rows run together -> outputs
Through = Callable[[tables.Part, str], Part]  # rows, where an error is -> with their predictions


class Question(msgspec.Struct, frozen=True):
    """What is known of the rows at `path`; `kinds` are those that were declared."""

    path: Path
    features: tuple[Feature, ...]
    kinds: dict[str, Kind]
    prediction: Prediction | None
    task: Task | None
    label: str | None
    time: str | None
    block_s: float
    cluster: str | None = None  # the feature that names clusters: one row of each of them and block is counted
    zone: str = "UTC"  # of the clock by which `time` falls into hours of the week


class Answer(msgspec.Struct, frozen=True):
    """`digest` is that of the rows' file; `features` have the kinds that the profile has."""

    report: Report
    profile: Profile
    features: tuple[Feature, ...]
    digest: str


def profiled(
    question: Question, signature: Signature, tried: Callable[[Mapping[str, Array]], Report], run: Run,
    part_rows: int = tables.PART_ROWS,
) -> Answer:  # fmt: skip
    """Examine the model with a sample of the rows (`tried`), then count all of them, `part_rows` at a time.

    Where the sample is all rows, they are run once. Raises PublishRefused or BadRequest.
    """
    if not question.features:
        raise BadRequest("--reference needs --features: the names of the columns that are the model's inputs")
    names = [feature.name for feature in question.features]
    rows = Rows(question.path, [*names, *(extra for extra in (question.label, question.time) if extra is not None)])
    sample = rows.sample(part_rows)
    inputs = sample.part.tensors(signature, question.features)
    report = tried(inputs)
    first = _part(question, sample.part, inputs, report, report.predictions)
    through, whole = partial(_through, question, signature, report, run), sample.rows == len(sample.part)
    profile = references.of_parts(
        first,
        sample.numbers,
        [first] if whole else _parts(question.path, rows.parts(part_rows), through),
        question.kinds,
        task=question.task,
        block_s=question.block_s,
        zone=question.zone,
        chosen=_chosen(question, signature, rows, through, part_rows, first if whole else None),
    )
    features = [msgspec.structs.replace(f, kind=profile.features[f.name].kind) for f in question.features]
    return Answer(report, profile, tuple(features), rows.digest())


def _chosen(
    question: Question, signature: Signature, rows: Rows, through: Through, part_rows: int, whole: Part | None
) -> Chosen | None:
    """One row of each cluster and block, where a feature names clusters; `whole` are all rows if they fit at once."""
    named = next((feature for feature in question.features if feature.name == question.cluster), None)
    if named is None:
        return None
    numbers = one_a_cluster(_clusters(question, signature, named, part) for part in rows.parts(part_rows))
    if whole is not None:
        return Chosen(named.name, numbers, whole.of(numbers), numbers)
    sample = rows.sample(part_rows, numbers)
    return Chosen(named.name, numbers, through(sample.part, f"one of each {named.name} and block"), sample.numbers)


def _clusters(
    question: Question, signature: Signature, named: Feature, part: tables.Part
) -> tuple[Hashes, Array, NDArray[np.int64]]:
    """Of each row the cluster, in the type in which live ones are told apart, its time and its block."""
    only = Signature(tuple(spec for spec in signature.inputs if spec.name == named.input), ())
    values = column(part.tensors(only, [named])[named.input], None)
    found = Part({named.name: values}, time=part.times(question.time) if question.time else None)
    return keys(values), found.clock, found.blocks(question.block_s)


def _parts(path: Path, parts: Iterator[tables.Part], through: Through) -> Iterator[Part]:
    first = 0
    for part in parts:
        yield through(part, f"counted from row {first} of {path}")
        first += len(part)


def _through(question: Question, signature: Signature, report: Report, run: Run, part: tables.Part, where: str) -> Part:
    inputs, outputs = part.tensors(signature, question.features), None
    if question.prediction:
        try:
            outputs = run(inputs, report.rows_independent)
        except PublishRefused as error:
            raise PublishRefused(f"{error} ({where})") from None
    return _part(question, part, inputs, report, outputs)


def _part(
    question: Question, part: tables.Part, inputs: Mapping[str, Array], report: Report, outputs: Sequence[Array] | None
) -> Part:
    predictions = None
    if question.prediction and outputs is not None:
        predictions = _predictions(question.prediction, report.signature, outputs)
        if question.task == "classification":
            _check_probabilities(question.prediction, predictions)
    return Part(
        {feature.name: column(inputs[feature.input], feature.column) for feature in question.features},
        predictions,
        part.labels(question.label) if question.label else None,
        part.times(question.time) if question.time else None,
    )


def _predictions(prediction: Prediction, signature: Signature, outputs: Sequence[Array]) -> Array:
    """Shape (n,), as the monitors will see it."""
    output = outputs[[spec.name for spec in signature.outputs].index(prediction.output)]
    if prediction.column is not None and output.reshape(len(output), -1).shape[1] <= prediction.column:
        raise BadRequest(f"output {prediction.output!r} has no column {prediction.column}")
    return column(output, prediction.column)


def _check_probabilities(prediction: Prediction, values: Array) -> None:
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if len(finite) and not (finite.min() >= 0 and finite.max() <= 1):
        raise PublishRefused(
            f"--task classification needs probabilities in 0..1, output {prediction.output!r} gave"
            f" {finite.min():g} to {finite.max():g} on the reference rows"
        )
