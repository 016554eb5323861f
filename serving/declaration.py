"""What people say of a version when they publish it, and what that means for the model in the file."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast, get_args

import msgspec

from monitors.strata import is_zone
from serving import config
from serving.errors import BadRequest
from serving.manifest import Feature, Kind, Prediction, Segment, Task, check_tolerance, parse_prediction
from serving.protocol import Signature, TensorSpec


class Declaration(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a publication, as people give them. What they leave out is not monitored."""

    version: str | None = None
    """None: the next number, or the version that has this very content."""
    task: str | None = None
    """``classification`` or ``regression``."""
    prediction: str | None = None
    """``OUTPUT`` or ``OUTPUT:COLUMN``, as in `resolve_prediction`."""
    features: Sequence[str] = ()
    """Names in the order of the columns of the only input, or names of inputs of one column each.

    ``name:categorical`` marks codes; a kind that nobody says is guessed from the reference.
    """
    reference: Path | None = None
    """Rows like those at training time."""
    label: str | None = None
    """The column of `reference` that holds the truth."""
    time: str | None = None
    """The column of `reference` that holds the rows' time."""
    time_zone: str = "UTC"
    """By whose clock `time` falls into hours of the week, as in ``Europe/Berlin``."""
    cluster: str | None = None
    """The feature that names clusters: of each value and block one row of `reference` is counted, as live."""
    block_s: float = 86400.0
    """Design effects are measured on blocks of so many seconds of `time`."""
    threshold: float = 0.5
    """A probability of at least this predicts 1, for the metrics; between 0 and 1."""
    quantile: float = 0.5
    """Of the label, that a regression predicts, for its metrics; between 0 and 1."""
    segments: Sequence[str] = ()
    """Features with metrics of their own, as in `serving.segmenting.resolve_segments`."""
    kpi_range: tuple[float, float] | None = None
    """Of the KPI sent with a label, else of labels, whose mean is told."""
    batch_tolerance: float = 0.0
    """Requests share runs when rows run together differ from rows run alone by at most this x max(1, |value|).

    0: not in a bit.
    """
    lineage: dict[str, str] = {}
    """Whatever else should be known of where the version comes from."""

    def check(self) -> None:
        """What is wrong without knowing the model. Raises BadRequest.

        >>> Declaration(label="late").check()
        Traceback (most recent call last):
        serving.errors.BadRequest: --label names a column of the reference rows: give them with --reference
        """
        if self.version is not None:
            check_name("version", self.version)
        if self.task is not None and self.task not in get_args(Task):
            raise BadRequest(f"--task must be {' or '.join(get_args(Task))}, got {self.task!r}")
        for option, column in (("--label", self.label), ("--time", self.time), ("--cluster", self.cluster)):
            if column is not None and self.reference is None:
                raise BadRequest(f"{option} names a column of the reference rows: give them with --reference")
        if not is_zone(self.time_zone):
            raise BadRequest(f"--time-zone must be a name that this machine knows, as UTC, got {self.time_zone!r}")
        for option, value in (("--threshold", self.threshold), ("--quantile", self.quantile)):
            if not 0 < value < 1:
                raise BadRequest(f"{option} must lie between 0 and 1, got {value:g}")
        check_tolerance(self.batch_tolerance)


class Description(msgspec.Struct, frozen=True):
    """What a declaration says about a version's rows, in the terms of its signature."""

    task: Task | None
    prediction: Prediction | None
    features: tuple[Feature, ...]
    label: str | None
    threshold: float
    quantile: float
    kpi_range: tuple[float, float] | None
    segments: tuple[Segment, ...] = ()


def describe(declared: Declaration, signature: Signature) -> Description:
    """Of a declaration that was checked; its segments need the reference too. Raises BadRequest."""
    features = resolve_features(declared.features, signature)
    if declared.cluster is not None and declared.cluster not in {feature.name for feature in features}:
        there = ", ".join(repr(feature.name) for feature in features) or "none"
        raise BadRequest(f"--cluster must name a feature, got {declared.cluster!r}; the features are {there}")
    return Description(
        cast("Task | None", declared.task),
        resolve_prediction(declared.prediction, signature) if declared.prediction else None,
        features,
        declared.label,
        declared.threshold,
        declared.quantile,
        declared.kpi_range,
    )


def check_name(what: str, text: str) -> None:
    """Of a model or a version. Raises BadRequest."""
    if not config.NAME.fullmatch(text):
        raise BadRequest(f"{what} {text!r} must match {config.NAME.pattern}")


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
