"""Publishing: an ONNX file and what is known about it become an immutable version, or nothing happens.

Order: read the file, try it in a disposable child, work out what its columns mean, run the reference rows through it
in the child, build the reference profile, store. Only the last step changes anything.
"""

from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import NoReturn

import msgspec

from monitors.reference import Profile
from serving import agreement
from serving.declaration import Declaration, Description, check_name, declared_kinds, describe
from serving.errors import Conflict, UnknownModel
from serving.manifest import MODEL_FILE, REFERENCE_FILE, Manifest
from serving.profiling import Question, Run, profiled
from serving.protocol import Array
from serving.repository import Repository, differing
from serving.segmenting import resolve_segments
from serving.validation import Limits, Report, enough, predict, read_model, validate

_ATTEMPTS = 20  # at a number for a version, when others publish at the same time
_NOTHING = Declaration()


class Published(msgspec.Struct, frozen=True):
    """`created` is False when the same content was there; `notes` are sentences: what is not monitored, and why."""

    manifest: Manifest
    created: bool
    notes: tuple[str, ...] = ()


def publish(
    repository: Repository,
    name: str,
    model_path: Path,
    declared: Declaration = _NOTHING,
    *,
    limits: Limits | None = None,
) -> Published:
    """Make a version of model `name` from an ONNX file; `limits` are those of the child processes that run it.

    Raises PublishRefused, Conflict or BadRequest with one sentence, and then nothing has changed.
    """
    check_name("model name", name)
    declared.check()
    model, tolerance = read_model(model_path), declared.batch_tolerance

    report = validate(model, None, limits, batch_tolerance=tolerance)
    said = describe(declared, report.signature)
    files, told = {MODEL_FILE: model}, _told(model_path, model, report) | declared.lineage
    profile = None
    if declared.reference is not None:
        question = _question(declared.reference, declared, said)
        answer = profiled(question, report.signature, *_runs(model, limits, report.latency_s, tolerance))
        report, profile = answer.report, answer.profile
        said = msgspec.structs.replace(said, features=answer.features)
        files[REFERENCE_FILE] = profile.encode()
        told = {"reference": declared.reference.name, "reference_rows": str(profile.rows),
                "reference_sha256": answer.digest} | told  # fmt: skip
    said = msgspec.structs.replace(said, segments=resolve_segments(declared.segments, said.features, profile))
    unnamed = _manifest(name, declared, report, said, files, told)
    manifest, created = _store(repository, unnamed, files)
    notes = (*_notes(said, profile), *agreement.notes(manifest), *_twins(repository, manifest))
    return Published(manifest, created, notes)


def _question(rows: Path, declared: Declaration, said: Description) -> Question:
    kinds = declared_kinds(declared.features, said.features)
    return Question(
        rows, said.features, kinds, said.prediction, said.task, said.label, declared.time, declared.block_s,
        declared.cluster, declared.time_zone,
    )  # fmt: skip


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
    declared: Declaration,
    report: Report,
    said: Description,
    files: Mapping[str, bytes],
    lineage: dict[str, str],
) -> Manifest:
    """Without a version, its number is still to be given."""
    return Manifest(
        model=name,
        version=declared.version or "",
        files={file: sha256(data).hexdigest() for file, data in files.items()},
        signature=report.signature,
        rows_independent=report.rows_independent,
        batch_tolerance=declared.batch_tolerance,
        batch_difference=report.batch_difference,
        batch_times=report.batch_times,
        lineage=lineage,
        **msgspec.structs.asdict(said),
    )


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
