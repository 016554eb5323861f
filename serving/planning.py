"""From desired state to what runs: which versions, which routing table. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from serving.config import Capture, Model, Pool, Replicas, Resources, Version
from serving.manifest import Manifest
from serving.routing import ModelEntry, Policy, Table, VersionEntry, initial, rebalance
from serving.speed import batch_rows

Key = tuple[str, str]  # model, version
PoolKey = tuple[str, str, str]  # model, version, pool
BATCH_ROWS = 256  # of a run, where nobody said and nothing was measured
RUNNING = "RUNNING"  # as Ray Serve calls it


def name_of(model: str, version: str, pool: str) -> str:
    """The Serve application of a pool; unique, because names hold no blank."""
    return f"{model} {version} {pool}"


@dataclass(frozen=True)
class Plan:
    """Every version to serve and how, and each model's weights, which add up to 1."""

    versions: dict[Key, Version]
    weights: dict[str, dict[str, float]]
    models: dict[str, Model]

    @property
    def pools(self) -> dict[PoolKey, Pool]:
        return {(*key, name): pool for key, how in self.versions.items() for name, pool in how.by_pool.items()}


def plan(desired: Mapping[str, Model], published: Sequence[Manifest]) -> Plan:
    """A published model that nobody described is served at its newest version.

    `published` in the order of publication. Versions that are desired but not published are left out.
    """
    newest = {manifest.model: manifest.version for manifest in published}
    known = {(manifest.model, manifest.version): manifest for manifest in published}
    models = {name: desired.get(name, Model()) for name in newest}
    weights = {name: dict(model.weights) or {newest[name]: 1.0} for name, model in models.items()}
    wanted = [(name, version) for name, model in models.items() for version in _named(model, weights[name])]
    versions = {key: _resolved(models[key[0]].version(key[1]), known[key]) for key in wanted if key in known}
    return Plan(versions, weights, models)


def _resolved(how: Version, manifest: Manifest) -> Version:
    """With all its pools, and the bounds of their batches: what was measured, when published, on a CPU.

    Nothing is known of a GPU: there it stays 0, and the replica measures.
    """
    measured = batch_rows(manifest.batch_times) if manifest.batch_times else BATCH_ROWS
    pools = [
        replace(p, max_batch_rows=p.max_batch_rows or (measured if p.resources.runs_on == "cpu" else 0))
        for p in how.by_pool.values()
    ]
    return replace(how, resources=Resources(), replicas=Replicas(), pools=tuple(pools))


def _sleepers(how: Version) -> tuple[tuple[str, ...], bool]:
    """The pools that may have no replica, and whether they are all there are."""
    names = tuple(name for name, pool in how.by_pool.items() if pool.min == 0)
    return names, len(names) == len(how.by_pool)


def _named(model: Model, weights: Mapping[str, float]) -> list[str]:
    """Every version that a model's description mentions, once."""
    return list(dict.fromkeys([*weights, *(shadow.version for shadow in model.shadows), *model.versions]))


def running(plan: Plan, states: Mapping[PoolKey, str]) -> set[Key]:
    """The versions of which every pool runs: only then they can take what their pools are there for."""
    down = {key[:2] for key in plan.pools if states.get(key) != RUNNING}
    return set(plan.versions) - down


def able(plan: Plan, states: Mapping[PoolKey, str], before: Table) -> set[Key]:
    """The versions that may get more traffic: those that run, and of those that get some already a part is enough.

    Whoever takes traffic from a bad version must not have to wait for a GPU that is gone.
    """
    parts = {key[:2] for key in plan.pools if states.get(key) == RUNNING}
    some = {(name, v) for name, entry in before.models.items() for v, w in entry.policy.weights.items() if w > 0}
    return running(plan, states) | (parts & some)


def table(plan: Plan, manifests: Mapping[Key, Manifest], running: set[Key], before: Table) -> Table:
    """The table with one generation more than `before`, or `before` itself when nothing changed.

    A model's weights change only when every version that gets traffic runs: until then its entry stays.
    """
    models = {name: _entry(name, plan, manifests, running, before.models.get(name)) for name in sorted(plan.weights)}
    kept = {name: entry for name, entry in models.items() if entry is not None}
    return before if kept == before.models and before.generation else Table(before.generation + 1, kept)


def _entry(
    name: str, plan: Plan, manifests: Mapping[Key, Manifest], running: set[Key], before: ModelEntry | None
) -> ModelEntry | None:
    weights = {v: w for v, w in plan.weights[name].items() if (name, v) in manifests}
    ready = all((name, version) in running for version, weight in weights.items() if weight > 0)
    if not weights or (before is not None and not ready):
        return before
    versions = {
        v: _entry_of(how, manifests[name, v], plan.models[name].capture)
        for (model, v), how in sorted(plan.versions.items())
        if model == name
    }
    intervals = rebalance(before.policy.intervals, weights) if before else initial(weights)
    return ModelEntry(Policy(name, intervals, tuple(versions), plan.models[name].sticky), versions)


def _entry_of(how: Version, manifest: Manifest, capture: Capture) -> VersionEntry:
    """Requests are parted for the pool with the smallest batches; the others join the parts again."""
    rows = min(pool.max_batch_rows or BATCH_ROWS for pool in how.by_pool.values())
    return VersionEntry(manifest, rows, how.cache, *_sleepers(how), capture)
