"""Publishing: an ONNX file and what is known about it become an immutable version, or nothing happens.

Order: read the file, try it in a disposable child, work out what its columns mean, run the reference rows through it
in the child, build the reference profile, store. Only the last step changes anything.
"""

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NoReturn, cast, get_args

import msgspec

from monitors.reference import Profile
from serving import agreement, config
from serving.errors import BadRequest, Conflict, UnknownModel
from serving.manifest import (
    MODEL_FILE,
    REFERENCE_FILE,
    Feature,
    Kind,
    Manifest,
    Prediction,
    Segment,
    Task,
    check_tolerance,
    parse_prediction,
)
from serving.profiling import Question, Run, profiled
from serving.protocol import Array, Signature, TensorSpec
from serving.repository import Repository, differing
from serving.segmenting import resolve_segments
from serving.validation import Limits, Report, enough, predict, read_model, validate

_ATTEMPTS = 20  # at a number for a version, when others publish at the same time


class Published(msgspec.Struct, frozen=True):
    """`created` is False when the same content was there; `notes` are sentences: what is not monitored, and why."""

    manifest: Manifest
    created: bool
    notes: tuple[str, ...] = ()


class Description(msgspec.Struct, frozen=True):
    """What people say about a version's rows; checked against the signature."""

    task: Task | None
    prediction: Prediction | None
    features: tuple[Feature, ...]
    label: str | None
    threshold: float = 0.5
    quantile: float = 0.5
    segments: tuple[Segment, ...] = ()
    kpi_range: tuple[float, float] | None = None


def publish(
    repository: Repository,
    name: str,
    model_path: Path,
    *,
    version: str | None = None,
    task: str | None = None,
    prediction: str | None = None,
    features: Sequence[str] = (),
    reference: Path | None = None,
    label: str | None = None,
    time: str | None = None,
    threshold: float = 0.5,
    quantile: float = 0.5,
    segments: Sequence[str] = (),
    kpi_range: tuple[float, float] | None = None,
    lineage: Mapping[str, str] | None = None,
    block_s: float = 86400.0,
    batch_tolerance: float = 0.0,
    limits: Limits | None = None,
) -> Published:
    """Make version `version` (default: the next number, or the one that has this very content) of model `name`.

    `features` are names in the order of the columns of the only input, or names of inputs of one column each;
    ``name:categorical`` marks codes, and a kind that nobody says is guessed from the reference. `label` and `time` are
    columns of the rows in `reference`; design effects are measured on blocks of `block_s` seconds of `time`. Requests
    share runs when rows run together differ from rows run alone by at most `batch_tolerance` x max(1, |value|); 0: not
    in a bit. A probability of at least `threshold` predicts 1, a regression predicts the label's `quantile`, and of the
    KPI sent with a label, else of labels, the mean is told, within `kpi_range`; `segments` are as in
    `resolve_segments`. Raises PublishRefused, Conflict or BadRequest with one sentence, and then nothing has changed.
    """
    _check(name, version, task, reference, {"--label": label, "--time": time})
    check_tolerance(batch_tolerance)
    model = read_model(model_path)

    report = validate(model, None, limits, batch_tolerance=batch_tolerance)
    said = Description(
        cast("Task | None", task),
        resolve_prediction(prediction, report.signature) if prediction else None,
        resolve_features(features, report.signature),
        label,
        _fraction("--threshold", threshold),
        _fraction("--quantile", quantile),
        kpi_range=kpi_range,
    )
    files, told = {MODEL_FILE: model}, _told(model_path, model, report) | dict(lineage or {})
    profile = None
    if reference is not None:
        kinds = declared_kinds(features, said.features)
        question = Question(reference, said.features, kinds, said.prediction, said.task, label, time, block_s)
        answer = profiled(question, report.signature, *_runs(model, limits, report.latency_s, batch_tolerance))
        report, profile = answer.report, answer.profile
        said = msgspec.structs.replace(said, features=answer.features)
        files[REFERENCE_FILE] = profile.encode()
        told = {"reference": reference.name, "reference_rows": str(profile.rows),
                "reference_sha256": answer.digest} | told  # fmt: skip
    said = msgspec.structs.replace(said, segments=resolve_segments(segments, said.features, profile))
    unnamed = _manifest(name, version, report, said, files, told, batch_tolerance)
    manifest, created = _store(repository, unnamed, files)
    notes = (*_notes(said, profile), *agreement.notes(manifest), *_twins(repository, manifest))
    return Published(manifest, created, notes)


def _runs(
    model: bytes, limits: Limits | None, latency_s: float, batch_tolerance: float
) -> tuple[Callable[[Mapping[str, Array]], Report], Run]:
    """How `profiled` examines the model with rows, and how it runs them."""

    def tried(rows: Mapping[str, Array]) -> Report:
        return validate(model, rows, limits or enough(model, rows, latency_s), batch_tolerance=batch_tolerance)

    def run(rows: Mapping[str, Array], together: bool) -> list[Array]:
        return predict(model, rows, together, limits or enough(model, rows, latency_s))

    return tried, run


def _manifest(
    name: str,
    version: str | None,
    report: Report,
    said: Description,
    files: Mapping[str, bytes],
    lineage: dict[str, str],
    batch_tolerance: float,
) -> Manifest:
    """Without a version, its number is still to be given."""
    return Manifest(
        model=name,
        version=version or "",
        files={file: sha256(data).hexdigest() for file, data in files.items()},
        signature=report.signature,
        rows_independent=report.rows_independent,
        batch_tolerance=batch_tolerance,
        batch_difference=report.batch_difference,
        batch_times=report.batch_times,
        lineage=lineage,
        **msgspec.structs.asdict(said),
    )


def resolve_features(names: Sequence[str], signature: Signature) -> tuple[Feature, ...]:
    """Which column of which input each of ``["age", "country:categorical"]`` is. Raises BadRequest.

    >>> resolve_features(["a", "b"], Signature((TensorSpec("x", "FP32", (-1, 2)),), ()))[1]
    Feature(name='b', input='x', column=1, kind='numeric')
    """
    pairs = [_name_and_kind(text) for text in names]
    if len({name for name, _ in pairs}) != len(pairs):
        raise BadRequest(f"--features names a feature twice: {', '.join(name for name, _ in pairs)}")
    if len(signature.inputs) == 1 and pairs and not _is_column(spec := signature.inputs[0]):
        if len(spec.shape) != 2 or spec.shape[1] not in (-1, len(pairs)):
            raise BadRequest(f"--features names {len(pairs)} columns, but input {spec.name!r} is {_shown(spec)}")
        return tuple(Feature(name, spec.name, i, _kind(kind, spec)) for i, (name, kind) in enumerate(pairs))
    return tuple(_own_input(name, kind, signature) for name, kind in pairs)


def declared_kinds(names: Sequence[str], features: Sequence[Feature]) -> dict[str, Kind]:
    """The kinds that somebody said, or that are certain: text is categorical.

    >>> declared_kinds(["a", "b:categorical"], [Feature("a", "x", 0), Feature("b", "x", 1, "categorical")])
    {'b': 'categorical'}
    """
    said = dict(_name_and_kind(text) for text in names)
    return {f.name: f.kind for f in features if said[f.name] is not None or f.kind == "categorical"}


def resolve_prediction(text: str, signature: Signature) -> Prediction:
    """``OUTPUT`` or ``OUTPUT:COLUMN``, checked: a number a row. Raises BadRequest.

    >>> resolve_prediction("p:1", Signature((), (TensorSpec("p", "FP32", (-1, 2)),)))
    Prediction(output='p', column=1)
    """
    outputs = {spec.name: spec for spec in signature.outputs}
    found = Prediction(text) if text in outputs else parse_prediction(text)
    if (spec := outputs.get(found.output)) is None:
        raise BadRequest(f"the model has no output {found.output!r}; it has {', '.join(map(repr, outputs))}")
    if spec.datatype == "BYTES":
        raise BadRequest(f"--prediction must be numeric, output {spec.name!r} is {_shown(spec)}")
    columns = 1 if len(spec.shape) == 1 else spec.shape[1] if len(spec.shape) == 2 else 0
    if found.column is None and not _is_column(spec):
        raise BadRequest(f"output {spec.name!r} is {_shown(spec)}; say which column, as in {spec.name}:1")
    if columns == 0 or (found.column is not None and -1 != columns <= found.column):
        raise BadRequest(f"output {spec.name!r} is {_shown(spec)}, it has no column {found.column}")
    return found


def _check(name: str, version: str | None, task: str | None, rows: Path | None, of_rows: dict[str, str | None]) -> None:
    for what, text in (("model name", name), ("version", version)):
        if text is not None and not config.NAME.fullmatch(text):
            raise BadRequest(f"{what} {text!r} must match {config.NAME.pattern}")
    if task is not None and task not in get_args(Task):
        raise BadRequest(f"--task must be {' or '.join(get_args(Task))}, got {task!r}")
    for option, column_name in of_rows.items():
        if column_name is not None and rows is None:
            raise BadRequest(f"{option} names a column of the reference rows: give them with --reference")


def _fraction(option: str, value: float) -> float:
    if not 0 < value < 1:
        raise BadRequest(f"{option} must lie between 0 and 1, got {value:g}")
    return value


def _name_and_kind(text: str) -> tuple[str, Kind | None]:
    name, colon, kind = text.strip().partition(":")
    if colon and kind not in get_args(Kind):
        raise BadRequest(f"the kind of feature {name!r} must be {' or '.join(get_args(Kind))}, got {kind!r}")
    if not name or name.startswith("_"):
        raise BadRequest(f"feature name {name!r} must not be empty or begin with '_'")
    return name, cast("Kind | None", kind or None)


def _own_input(name: str, kind: Kind | None, signature: Signature) -> Feature:
    for spec in signature.inputs:
        if spec.name == name and _is_column(spec):
            return Feature(name, name, None, _kind(kind, spec))
    there = ", ".join(f"{spec.name!r} {_shown(spec)}" for spec in signature.inputs)
    raise BadRequest(f"feature {name!r} is no input of one column; the model takes {there}")


def _kind(kind: Kind | None, spec: TensorSpec) -> Kind:
    if spec.datatype == "BYTES" and kind == "numeric":
        raise BadRequest(f"a feature of input {spec.name!r} cannot be numeric: it is {_shown(spec)}")
    return kind or ("categorical" if spec.datatype == "BYTES" else "numeric")


def _is_column(spec: TensorSpec) -> bool:
    return len(spec.shape) == 1 or (len(spec.shape) == 2 and spec.shape[1] == 1)


def _shown(spec: TensorSpec) -> str:
    return f"{spec.datatype} {list(spec.shape)}"


def _told(path: Path, model: bytes, report: Report) -> dict[str, str]:
    return {"source": path.name, "model_bytes": str(len(model)), **{k: v for k, v in report.facts.items() if v}}


def _store(repository: Repository, manifest: Manifest, files: Mapping[str, bytes]) -> tuple[Manifest, bool]:
    if manifest.version:
        created = repository.publish(manifest, files)
        return repository.manifest(manifest.model, manifest.version), created
    for _ in range(_ATTEMPTS):
        there = _there(repository, manifest.model)
        for existing in there:
            named = msgspec.structs.replace(manifest, version=existing.version)
            if not differing(existing, named):
                repository.publish(named, files)  # nothing new, but heals files that were damaged
                return existing, False
        number = max((int(m.version) for m in there if m.version.isdecimal()), default=0) + 1
        named = msgspec.structs.replace(manifest, version=str(number))
        try:
            return named, repository.publish(named, files)
        except Conflict:
            continue  # somebody else took the number meanwhile
    _give_up(manifest.model)


def _give_up(model: str) -> NoReturn:
    raise Conflict(f"others publish versions of {model!r} at the same time; name one with --version")


def _there(repository: Repository, model: str) -> list[Manifest]:
    try:
        return repository.manifests(model)
    except UnknownModel:
        return []


def _notes(said: Description, profile: Profile | None) -> tuple[str, ...]:
    missing = {
        "drift and risk are not monitored: there are no reference rows (--reference)": profile is None,
        "features are not monitored: none are named (--features)": not said.features,
        "the prediction is not monitored: it is not named (--prediction)": said.prediction is None,
        "risk is not monitored: the task is not named (--task)": profile is None and said.task is None,
    }
    return (*(note for note, holds in missing.items() if holds), *(profile.notes if profile else ()))


def _twins(repository: Repository, manifest: Manifest) -> tuple[str, ...]:
    """Versions of the same content but for the tolerance: that there are two is said."""
    return tuple(
        f"version {other.version!r} is the same but for its batch tolerance, {other.batch_tolerance:g}"
        for other in repository.manifests(manifest.model)
        if other.batch_tolerance != manifest.batch_tolerance and len(differing(other, manifest)) == 1
    )
