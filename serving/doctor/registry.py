"""The registry: its database can be reached and has the layout of this version; every artifact is what it was."""

from dataclasses import dataclass, field

from serving.config import Config
from serving.database import layout
from serving.doctor.finding import Finding, fault, ok, warning
from serving.errors import ArtifactCorrupt, GaugewayError, Unavailable
from serving.repository import Repository


@dataclass(frozen=True)
class Facts:
    """`found` and `newest` are layouts of the database, None where there is none yet; damage by ``model version``."""

    database: str
    artifacts: str
    found: str | None = None
    newest: str = ""
    known: bool = True
    refusal: str = ""
    versions: int = 0
    damage: dict[str, str] = field(default_factory=dict)


def gather(config: Config) -> Facts:
    database, artifacts = config.database_url, config.artifacts_url
    try:
        there = layout(database)
        if there.found != there.newest:  # opening it would change it
            return Facts(database, artifacts, there.found, there.newest, there.known)
        repository = Repository.of(config)
        manifests = repository.manifests()
    except GaugewayError as error:
        return Facts(database, artifacts, refusal=str(error))
    damage = dict[str, str]()
    for manifest in manifests:
        try:
            for name in manifest.files:
                repository.read(manifest, name)
        except (ArtifactCorrupt, Unavailable) as error:
            damage[f"{manifest.model} {manifest.version}"] = str(error)
    return Facts(database, artifacts, there.found, there.newest, versions=len(manifests), damage=damage)


def check(facts: Facts) -> list[Finding]:
    if facts.refusal:
        return [fault("registry", facts.refusal, "start or repair that database, or correct [registry] database")]
    if facts.found is None:
        return [ok("registry", "empty; the first command that writes to it makes it")]
    if not facts.known:
        return [fault("registry", f"the layout of the database, {facts.found!r}, is of a newer Gaugeway",
                      "pip install --upgrade gaugeway, or restore the database from before")]  # fmt: skip
    if facts.found != facts.newest:
        return [warning("registry", f"layout {facts.found!r}, this Gaugeway has {facts.newest!r}",
                        "back up the database; `gaugeway up` or `gaugeway models` migrates it")]  # fmt: skip
    return [ok("registry", f"layout {facts.found}, {facts.versions} versions"), *_artifacts(facts)]


def _artifacts(facts: Facts) -> list[Finding]:
    if not facts.damage:
        return [ok("artifacts", "every file has the digest that it was published with")]
    return [fault("artifacts", f"{version}: {said}",
                  f"publish the same file again, which puts it back: gaugeway publish {version.split()[0]} FILE"
                  f" --version {version.split()[1]}; or restore it from the backup of {facts.artifacts}")
            for version, said in sorted(facts.damage.items())]  # fmt: skip
