"""A new reference for a version that is served: the rows of a file, or those that this node captured.

The profile is built by the code that `publish` uses, and stored beside the one that it replaces. What the loss is held
to stays: a rebase says that the data are right as they are, not that harm is.
"""

import tempfile
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from monitors.capture.export import Selection, export
from monitors.features import clustering
from monitors.profile import decode
from monitors.reference import Profile
from serving import inquiring
from serving.config import Config
from serving.errors import ArtifactCorrupt, BadRequest, NotFound
from serving.manifest import MODEL_FILE, REFERENCE_FILE, Manifest
from serving.profiling import Question, profiled
from serving.protocol import Array
from serving.repository import Repository
from serving.validation import Report, enough, predict, validate

_OF_RISK = "risk is not judged"  # how a note of a profile about risk begins


def rebase(config: Config, model: str, version: str, why: str, rows: Path, time: str | None = None) -> dict[str, Any]:
    """Order that a version be compared with the rows of a file; the answer is that of `serving.inquiring.order`.

    `time` is the column with the rows' time. Raises UnknownModel, UnknownVersion, BadRequest, PublishRefused; then
    nothing has changed.
    """
    of = Repository.of(config).manifest(model, version)
    return _ordered(config, of, why, rows, time, rows.name)


def rebase_on_captured(
    config: Config, model: str, version: str, why: str, since: float, until: float
) -> dict[str, Any]:
    """As `rebase`, with what this node captured in [since, until), seconds since 1970, and the monitors count.

    Also raises NotFound.
    """
    repository = Repository.of(config)
    of = repository.manifest(model, version)
    _check_captured(repository, of)
    time = "event_time" if config.monitors.event_time == "request" else "arrival_time"
    with tempfile.TemporaryDirectory(prefix="gaugeway-rebase-") as folder:
        rows = Path(folder) / "captured.parquet"
        if not export(config.captures, Selection(model, version, since, until, counted=True), rows):
            raise NotFound(f"no row of {model!r} version {version!r} is captured on this node in that span of time")
        return _ordered(config, of, why, rows, time, "the capture log")


def profile_of(repository: Repository, of: Manifest, question: Question) -> Profile:
    """Rows as a reference of a version, with the risk of the reference before; without one risk is not judged."""
    data = repository.read(of, MODEL_FILE)

    @cache
    def report() -> Report:  # once the rows are known to be of its schema
        return validate(data, batch_tolerance=of.batch_tolerance)

    def run(rows: Mapping[str, Array], together: bool) -> list[Array]:
        return predict(data, rows, together, enough(data, rows, report().latency_s))

    def tried(rows: Mapping[str, Array]) -> Report:
        return msgspec.structs.replace(report(), predictions=run(rows, of.rows_independent))

    there = _before(repository, of)
    question = msgspec.structs.replace(question, zone=there.zone if there else question.zone)
    built = profiled(question, of.signature, tried, run).profile
    before = there or built
    notes = [note for note in built.notes if not note.startswith(_OF_RISK)]
    notes += [note for note in before.notes if note.startswith(_OF_RISK)]
    return msgspec.structs.replace(built, risk=before.risk, notes=tuple(notes))


def _before(repository: Repository, of: Manifest) -> Profile | None:
    """The reference that holds, or where its bytes are damaged the one that was published, if that can be read."""
    for under in (repository.under_reference(of), of):
        with suppress(ArtifactCorrupt):
            if REFERENCE_FILE in under.files:
                return decode(repository.read(under, REFERENCE_FILE))
    return None


def _ordered(config: Config, of: Manifest, why: str, rows: Path, time: str | None, name: str) -> dict[str, Any]:
    inquiring.check_reason(why)
    if not of.features:
        raise BadRequest(f"version {of.version!r} of {of.model!r} declares no features: publish it with --features")
    kinds = {feature.name: feature.kind for feature in of.features}
    named = clustering(config.monitors.unit, of.features)
    question = Question(
        path=rows, features=of.features, kinds=kinds, prediction=of.prediction, task=of.task, label=None, time=time,
        block_s=config.monitors.block_s, cluster=named.name if named else None,
    )  # fmt: skip
    built = profile_of(Repository.of(config), of, question)
    said, reference = f"{built.rows} rows of {name}", built.encode()
    done = inquiring.order(config, "rebase", of.model, of.version, why, reference=reference, rows=said)
    return {**done, "rows": said, "reference": built.digest, "notes": done["notes"] or list(built.notes)}


def _check_captured(repository: Repository, of: Manifest) -> None:
    """Raises BadRequest where captured features are not what the model is fed."""
    desired = repository.desired().models.get(of.model)
    redact = desired.capture.redact if desired else {}
    for feature in of.features:
        if rule := redact.get(feature.name, redact.get(feature.input)):
            raise BadRequest(
                f"feature {feature.name!r} of {of.model!r} is captured under the rule {rule!r}, a reference needs it as"
                " the model is fed: give the rows of a file with --reference"
            )
