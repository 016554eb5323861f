"""The model repository: immutable versions, and the desired state of what is served. SQL is the truth.

Publishing stores the files first and then, in one transaction, the row that makes the version exist: whenever it is
killed, the version is absent or complete. The desired state carries a generation that rises with every change.
"""

import time
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import msgspec
import sqlalchemy as sa

from serving import config, manifest
from serving.artifacts import Artifacts
from serving.config import Config
from serving.database import Database, changes, desired, generation, orders, routing, versions
from serving.errors import BadRequest, Conflict, NotFound, UnknownModel, UnknownVersion
from serving.manifest import REFERENCE_FILE, Manifest
from serving.routing import Table

# What people say and what they give; lineage may be told anew, and what was measured stays as it was measured.
_COMPARED = (
    "files", "signature", "task", "prediction", "features", "label", "batch_tolerance", "threshold", "quantile",
    "segments", "kpi_range",
)  # fmt: skip


class Desired(msgspec.Struct, frozen=True):
    """What should be served: for each model that somebody decided on, how."""

    generation: int
    models: dict[str, config.Model]


class Change(msgspec.Struct, frozen=True):
    """Who changed the desired state of a model, when (seconds since 1970 UTC), why, and how.

    Where both are the same it is a remark: something was done that changes nothing in how the model is served.
    """

    generation: int
    time: float
    by: str
    why: str
    model: str
    before: config.Model | None
    after: config.Model


class Repository:
    """Published versions and the desired state, by a SQL URL and an artifact URL; `cache` is `Artifacts`'.

    Every method raises Unavailable when one of the two cannot be reached.
    """

    def __init__(
        self, database: str | Database, artifacts_url: str, cache: Path | None = None, cache_bytes: int = 0
    ) -> None:
        self._database = Database(database) if isinstance(database, str) else database
        self._artifacts = Artifacts(artifacts_url, cache, cache_bytes)

    @classmethod
    def of(cls, config: Config, database: Database | None = None) -> "Repository":
        cache = config.data / "cache"
        return cls(database or config.database_url, config.artifacts_url, cache, config.registry.cache_bytes)

    def publish(self, new: Manifest, files: Mapping[str, bytes]) -> bool:
        """Make a version: True when it is new, False when the same content was there.

        Raises Conflict for other content under the same model and version, BadRequest for names that are none.
        """
        _check_names(new, files)
        self._refuse_other(new)
        for data in files.values():
            self._artifacts.store(data)
        row = {"model": new.model, "version": new.version, "digest": new.digest, "manifest": new.encode().decode()}
        with self._database.writing() as connection:
            if (existing := _find(connection, new.model, new.version)) is not None:
                return _same(existing, new)
            connection.execute(versions.insert().values(**row, published_at=time.time()))
        return True

    def manifest(self, model: str, version: str) -> Manifest:
        """Raises UnknownModel or UnknownVersion, which name what there is."""
        with self._database.reading() as connection:
            found = _find(connection, model, version)
            if found is None:
                raise _unknown(connection, model, version)
            return found

    def manifests(self, model: str | None = None) -> list[Manifest]:
        """All versions, or those of one model (UnknownModel where it has none), in the order of publication."""
        query = sa.select(versions.c.manifest).order_by(versions.c.position)
        with self._database.reading() as connection:
            if model is None:
                return [manifest.decode(text) for text in connection.scalars(query)]
            if not (found := connection.scalars(query.where(versions.c.model == model)).all()):
                raise UnknownModel(model, _models(connection))
            return [manifest.decode(text) for text in found]

    def newest(self, model: str) -> str:
        """The version that was published last."""
        return self.manifests(model)[-1].version

    def published_at(self, model: str, version: str) -> float:
        """Seconds since 1970 UTC."""
        query = sa.select(versions.c.published_at).where(versions.c.model == model, versions.c.version == version)
        with self._database.reading() as connection:
            moment: float | None = connection.scalar(query)
            if moment is None:
                raise _unknown(connection, model, version)
            return moment

    def read(self, of: Manifest, name: str) -> bytes:
        """The bytes of a version's file, verified: ArtifactCorrupt when they are not those that were published."""
        if name not in of.files:
            there = ", ".join(map(repr, sorted(of.files)))
            raise NotFound(f"version {of.version!r} of {of.model!r} has no file {name!r}; it has {there}")
        return self._artifacts.read(of.files[name])

    def store(self, data: bytes) -> str:
        """Keep bytes that no version names, as a reference that comes later is; their digest."""
        return self._artifacts.store(data)

    def stamp(self) -> tuple[int, int]:
        """Changes whenever `desired` or `manifests` would answer something else; cheap enough to ask often."""
        with self._database.reading() as connection:
            newest = connection.scalar(sa.select(sa.func.max(versions.c.position)))
            return _generation(connection), newest or 0

    def desired(self) -> Desired:
        """The models that were decided on, and the generation of that decision, as of one moment."""
        with self._database.reading() as connection:
            return Desired(_generation(connection), _desired(connection))

    def import_models(self, models: Mapping[str, config.Model], *, by: str = "import") -> list[str]:
        """Take over the models that SQL does not have yet; returns their names. All or, when one is wrong, none."""
        with self._database.writing() as connection:
            new = [name for name in models if name not in _desired(connection)]
            for name in new:
                _decide(connection, name, models[name], by, "imported from the configuration")
            return new

    def set_model(self, name: str, model: config.Model, *, by: str, why: str) -> int:
        """Decide how `name` is served; returns the generation, which is the old one when nothing changes.

        Raises UnknownModel, UnknownVersion, and BadRequest for weights that do not add up to 1.
        """
        with self._database.writing() as connection:
            return _decide(connection, name, model, by, why)

    def set_weights(self, name: str, weights: Mapping[str, float], *, by: str, why: str) -> int:
        """As `set_model`, changing the weights only."""
        with self._database.writing() as connection:
            before = _desired(connection).get(name) or config.Model()
            _check_weights(name, weights)
            return _decide(connection, name, msgspec.structs.replace(before, weights=dict(weights)), by, why)

    def apply(self, models: Mapping[str, config.Model], at: int, *, by: str, why: str) -> int:
        """As `set_model`, all of them or none. Raises Conflict when the state is no longer that of generation `at`."""
        with self._database.writing() as connection:
            if (now := _generation(connection)) != at:
                raise Conflict(f"the registry changed meanwhile: it is at generation {now}, the plan was made at {at}")
            for name, model in models.items():
                now = _decide(connection, name, model, by, why)
            return now

    def remark(self, name: str, *, by: str, why: str) -> None:
        """Write among the changes what was done to a model's data."""
        with self._database.writing() as connection:
            now = msgspec.json.encode(_desired(connection).get(name) or config.Model()).decode()
            remark = {"generation": _generation(connection), "time": time.time(), "by": by, "why": why, "model": name}
            connection.execute(changes.insert().values(**remark, before=now, after=now))

    def changes(self) -> list[Change]:
        """All changes of the desired state and all remarks, oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(changes).order_by(changes.c.position)).mappings().all()
        return [
            Change(
                generation=row["generation"],
                time=row["time"],
                by=row["by"],
                why=row["why"],
                model=row["model"],
                before=None if row["before"] is None else _model(row["before"]),
                after=_model(row["after"]),
            )
            for row in rows
        ]

    def order(
        self, model: str, version: str, kind: str, *, by: str, why: str, reference: bytes = b"", rows: str = ""
    ) -> int:
        """Write what the monitors' judge is to do with a version; its number, which is higher than any before.

        `reference` is a profile that the order brings, made of `rows`: it is stored beside the one that it replaces.
        Raises UnknownModel, UnknownVersion.
        """
        row = {"model": model, "version": version, "kind": kind, "by": by, "why": why, "rows": rows, "replaced": ""}
        row["reference"] = self._artifacts.store(reference) if reference else ""
        with self._database.writing() as connection:  # one after the other, so that numbers rise as they are seen
            if (found := _find(connection, model, version)) is None:
                raise _unknown(connection, model, version)
            if reference:
                row["replaced"] = _reference(connection, found)
            written = orders.insert().values(**row, time=time.time()).returning(orders.c.number)
            return int(connection.execute(written).scalar_one())

    def under_reference(self, of: Manifest) -> Manifest:
        """The version under the reference that an order brought last, else as it was published."""
        with self._database.reading() as connection:
            digest = _reference(connection, of)
        return of.with_reference(digest) if digest else of

    def table(self) -> Table | None:
        """The routing table that was kept last."""
        with self._database.reading() as connection:
            document = connection.scalar(sa.select(routing.c.document))
        return None if document is None else msgspec.json.decode(document, type=Table)

    def keep_table(self, table: Table) -> None:
        """Raises Conflict when one of the same or a later generation is kept: another controller goes on."""
        document = msgspec.json.encode(table).decode()
        with self._database.writing() as connection:
            kept = connection.scalar(sa.select(routing.c.generation)) or 0
            if kept >= table.generation:
                raise Conflict(f"routing table {table.generation}: generation {kept} is kept already")
            connection.execute(routing.delete())
            connection.execute(routing.insert().values(generation=table.generation, document=document))

    def _refuse_other(self, new: Manifest) -> None:
        with self._database.reading() as connection:
            if (existing := _find(connection, new.model, new.version)) is not None:
                _same(existing, new)


def _check_names(new: Manifest, files: Mapping[str, bytes]) -> None:
    for what, name in (("model name", new.model), ("version", new.version)):
        if not config.NAME.fullmatch(name):
            raise BadRequest(f"{what} {name!r} must match {config.NAME.pattern}")
    digests = {name: sha256(data).hexdigest() for name, data in files.items()}
    if digests != new.files:
        raise BadRequest(f"the manifest of {new.model!r} declares files {new.files}, got {digests}")


def differing(existing: Manifest, new: Manifest) -> list[str]:
    """In what the content of two versions differs, whatever their numbers are."""
    said = {"batch_tolerance": f"batch tolerance ({existing.batch_tolerance:g}, got {new.batch_tolerance:g})"}
    return [said.get(name, name) for name in _COMPARED if getattr(existing, name) != getattr(new, name)]


def _same(existing: Manifest, new: Manifest) -> bool:
    """False, or Conflict with what differs."""
    if differ := differing(existing, new):
        raise Conflict(
            f"version {new.version!r} of {new.model!r} exists with other {', '.join(differ)}: got digest"
            f" {new.digest[:12]}, it has {existing.digest[:12]}; publish under another version"
        )
    return False


def _find(connection: sa.Connection, model: str, version: str) -> Manifest | None:
    query = sa.select(versions.c.manifest).where(versions.c.model == model, versions.c.version == version)
    text = connection.scalar(query)
    return None if text is None else manifest.decode(text)


def _models(connection: sa.Connection) -> list[str]:
    return list(connection.scalars(sa.select(versions.c.model).distinct()))


def _versions(connection: sa.Connection, model: str) -> list[str]:
    query = sa.select(versions.c.version).where(versions.c.model == model).order_by(versions.c.position)
    return list(connection.scalars(query))


def _unknown(connection: sa.Connection, model: str, version: str) -> NotFound:
    known = _versions(connection, model)
    return UnknownVersion(model, version, known) if known else UnknownModel(model, _models(connection))


def _reference(connection: sa.Connection, of: Manifest) -> str:
    """The digest of the profile that holds; empty where there is none. What was learned holds if it came first, and
    until people bring another.
    """
    brought = sa.select(orders.c.kind, orders.c.reference).order_by(orders.c.number)
    of_version = (orders.c.model == of.model, orders.c.version == of.version, orders.c.reference != "")
    found = connection.execute(brought.where(*of_version)).all()
    given = [str(digest) for kind, digest in reversed(found) if kind != "learn"]
    learned = [str(digest) for kind, digest in found if kind == "learn"]
    return [*given, *learned, of.files.get(REFERENCE_FILE, "")][0]


def _generation(connection: sa.Connection) -> int:
    return int(connection.execute(sa.select(generation.c.value)).scalar_one())


def _desired(connection: sa.Connection) -> dict[str, config.Model]:
    rows = connection.execute(sa.select(desired.c.model, desired.c.document).order_by(desired.c.model))
    return {name: _model(document) for name, document in rows}


def _model(document: str) -> config.Model:
    return msgspec.json.decode(document, type=config.Model)


def _decide(connection: sa.Connection, name: str, model: config.Model, by: str, why: str) -> int:
    """Write the new state of one model, its change and the next generation."""
    _check_model(connection, name, model)
    before, now = _desired(connection).get(name), _generation(connection)
    if before == model:
        return now
    document = msgspec.json.encode(model).decode()
    old = None if before is None else msgspec.json.encode(before).decode()
    connection.execute(desired.delete().where(desired.c.model == name))
    connection.execute(desired.insert().values(model=name, document=document))
    connection.execute(generation.update().values(value=now + 1))
    change = {"generation": now + 1, "time": time.time(), "by": by, "why": why, "model": name}
    connection.execute(changes.insert().values(**change, before=old, after=document))
    return now + 1


def _check_model(connection: sa.Connection, name: str, model: config.Model) -> None:
    known = _versions(connection, name)
    for version in (*model.weights, *(shadow.version for shadow in model.shadows), *model.versions):
        if version not in known:
            raise _unknown(connection, name, version)
    if model.weights:
        _check_weights(name, model.weights)


def _check_weights(name: str, weights: Mapping[str, float]) -> None:
    for version, weight in weights.items():
        if not 0 <= weight <= 1:
            raise BadRequest(f"the weight of version {version!r} of {name!r} must lie in 0..1, got {weight:g}")
    if abs((total := sum(weights.values())) - 1) > 1e-6:
        raise BadRequest(f"the weights of {name!r} must add up to 1, got {total:g}")
