"""One per cluster, a detached Ray actor: desired state (SQL) -> Ray Serve; builds the routing table.

What must last is in SQL, never here: a controller that starts again reads it and adopts what runs.
"""

import logging
import os
import re
import threading
import time
from collections.abc import Mapping
from typing import Any

import msgspec
import ray
from ray import serve
from ray.serve import context
from ray.serve.config import ProxyLocation

from serving import admin, planning, reloading
from serving.admin import ModelsChange
from serving.config import Config, Gateway, Monitors, Pool, Version, dump, restore
from serving.manifest import Manifest
from serving.node import CHANGING
from serving.nodes import Nodes
from serving.planning import RUNNING, Key, Plan, PoolKey, name_of
from serving.reloading import Revision
from serving.replica import DEPLOYMENT, application
from serving.repository import Desired, Repository
from serving.routing import Table

log = logging.getLogger("gaugeway.controller")

NAMESPACE, NAME = "gaugeway", "controller"
FAILED = "DEPLOY_FAILED"
PERIOD_S = 0.4
PORTION = 8  # applications that are handed to Serve at once: each takes 400 kB until Serve has it


class Controller:
    """Reconciles every PERIOD_S: a step that fails is logged, shown in the status, and tried again.

    All of it begins in `__init__`, which is what Ray calls on a controller that it starts again.
    """

    def __init__(self, config: str) -> None:
        self._revision = reloading.last(restore(config).run_dir) or Revision(0, config)
        self._config = restore(self._revision.config)
        self._told: dict[str, int] = {}  # by node
        self._followed = -1  # the last revision that all nodes have, or one could not have
        self._repository = Repository.of(self._config)
        self._table = self._stored = _last_table(self._repository)
        self._plan = Plan({}, {}, {})
        self._manifests: dict[Key, Manifest] = {}
        self._deployed: dict[PoolKey, Pool] = {}  # what Serve was told
        self._states: dict[PoolKey, str] = {}
        self._nodes = Nodes(NAMESPACE)
        self._problem, self._connected, self._reconciled = "", False, False
        self._stamp = (-1, -1)  # of the desired state that the plan follows
        self._done = -1  # its generation, once Serve was told and its states were seen
        self._stopping = threading.Event()
        self._stop_asked = threading.Event()
        self._retired: dict[PoolKey, float] = {}
        self._reconciling = threading.Thread(target=self._run, name="reconcile", daemon=True)
        self._reconciling.start()
        threading.Thread(target=admin.serve, args=(self._config, self), name="admin", daemon=True).start()

    def status(self) -> dict[str, Any]:
        """What `gaugeway status --json` prints."""
        nodes = self._nodes.status()
        problems = [self._problem, *self.failures(), *(node.get("problem", "") for node in nodes)]
        return {
            "generation": self._table.generation, "problem": "; ".join(filter(None, problems)),
            "revision": self._revision.number, "controller": os.getpid(),
            "desired_generation": self._done, "waiting": self.ready(),
            "changing": self._followed != self._revision.number,
            "nodes": [{"node": n["node"], "state": "ready" if n["node"] else "silent", "refusals": n["refusals"]}
                      for n in nodes],
            "models": {name: self._model_status(name, nodes) for name in sorted(self._plan.weights)},
            "workers": [{**process, "node": node["node"], **_report(node, process)} for node in nodes
                        for process in node["processes"]],
            "monitors": nodes[0]["monitors"] if nodes else {"state": "stale", "models": {}},
        }  # fmt: skip

    def route(self, model: str, weights: dict[str, float], by: str, why: str) -> dict[str, Any]:
        """Change a model's weights in SQL; returns its old weights, the new ones and the generation of SQL."""
        before = dict(self._plan.weights.get(model, {}))
        generation = self._repository.set_weights(model, weights, by=by, why=why)
        return {"model": model, "before": before, "weights": weights, "desired_generation": generation}

    def desired(self) -> Desired:
        return self._repository.desired()

    def apply(self, change: ModelsChange) -> int:
        """Write how models are to be served; returns the generation of SQL, which `status` reaches soon after."""
        return self._repository.apply(change.models, change.at, by=change.by, why=change.why)

    def renew(self, wanted: Config | None) -> dict[str, Any]:
        """Have every node replace its workers and its sidecar, for another configuration or for other code."""
        config, keys = reloading.reload(self._config, wanted or self._config)
        if keys or wanted is None:
            self._revision = Revision(self._revision.number + 1, dump(config))
            self._config = config
            reloading.keep(config.run_dir, self._revision)
        return {"revision": self._revision.number, "keys": keys}

    def succeed(self) -> None:
        """End the nodes' actors and this one: Ray starts successors, with the code that is installed now."""
        for node in self._nodes.values():
            ray.kill(node, no_restart=False)
        threading.Timer(0.5, os._exit, [1]).start()  # after the answer

    def ready(self) -> str:
        """Empty when all that is wanted runs and is routed to; else what is waited for."""
        if self._problem:
            return self._problem
        if not self._reconciled:
            return "Ray Serve and the gateway's processes"
        if not self._table.generation:
            return "the routing table"
        waiting = [name_of(*key) for key, pool in self._plan.pools.items()
                   if self._deployed.get(key) != pool or self._states.get(key) not in (RUNNING, FAILED)]  # fmt: skip
        return f"replicas of {', '.join(waiting)}" if waiting else ""

    def failures(self) -> list[str]:
        """A sentence for each pool whose replicas cannot start."""
        failed = {key for key in self._plan.pools if self._states.get(key) == FAILED}
        messages = _messages() if failed else {}
        return [f"version {version!r} of {model!r} does not start in pool {pool!r}:"
                f" {messages.get((model, version, pool), '')}" for model, version, pool in sorted(failed)]  # fmt: skip

    def ask_to_stop(self) -> None:
        self._stop_asked.set()

    def stop_asked(self) -> bool:
        return self._stop_asked.is_set()

    def stop(self) -> None:
        """Drain the workers, then the replicas."""
        self._stopping.set()
        self._reconciling.join(10.0)
        self._nodes.stop()
        for key in _states():
            serve.delete(name_of(*key), _blocking=False)
        until = time.monotonic() + self._config.ray.drain_s + 10.0
        while _states() and time.monotonic() < until:  # Serve itself stays: others may use it
            time.sleep(0.05)

    def _run(self) -> None:
        while not self._stopping.wait(PERIOD_S):
            try:
                if not self._connected:
                    self._connect()
                self._nodes.look(self._revision.config, self._revision.number)
                self._reconcile()
                self._problem, self._reconciled = "", True
            except Exception as error:  # the edge of the control plane: it must not end, serving goes on meanwhile
                if (problem := f"{type(error).__name__}: {error}") != self._problem:
                    log.exception("reconciling failed; trying again")
                    self._problem = problem

    def _connect(self) -> None:
        """To Serve, started here if need be, and to what it already runs."""
        serve.start(proxy_location=ProxyLocation.Disabled, logging_config={"enable_access_log": False})
        states = _states()
        told = _told(self._config)
        self._deployed = {key: told[key] for key in states.keys() - _leaving(states) if key in told}
        self._connected = True

    def _reconcile(self) -> None:
        if (stamp := self._repository.stamp()) != self._stamp:
            desired, published = self._repository.desired(), self._repository.manifests()
            self._manifests = {(m.model, m.version): m for m in published}
            self._plan = planning.plan(desired.models, published)
            self._stamp = stamp
        self._configure()
        self._states = _states()
        pools = self._plan.pools
        changed = {key: pool for key, pool in pools.items() if self._deployed.get(key) != pool}
        self._deploy(changed)
        running = planning.running(self._plan, self._states)
        able = planning.able(self._plan, self._states, self._table)
        self._publish(planning.table(self._plan, self._manifests, able, self._table))
        kept = _routed(self._table) - running  # what was wanted for them stays until all that is wanted runs
        present = self._states.keys() - _leaving(self._states)
        self._delete({key for key in present - pools.keys() if key[:2] not in kept})
        if not changed:
            self._done = self._stamp[0]

    def _deploy(self, missing: Mapping[PoolKey, Pool]) -> None:
        """Those that are new, and those that change: Serve starts replicas as they should be beside those that are.

        What is just leaving is deployed anew once it is gone.
        """
        config = dump(_for_replicas(self._config)) if missing else ""
        able = sorted(missing.keys() - _leaving(self._states))
        for portion in (able[at : at + PORTION] for at in range(0, len(able), PORTION)):
            targets = [serve.RunTarget(self._application(config, key, missing[key]), name=name_of(*key),
                                       route_prefix=None) for key in portion]  # fmt: skip
            serve.run_many(targets, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
        if able:
            self._states = _states()
            self._deployed |= {key: missing[key] for key in able}
            _tell(self._config, self._deployed)

    def _application(self, config: str, key: PoolKey, pool: Pool) -> Any:
        model, version, _ = key
        return application(
            config, model, version, pool, self._config.ray.health_check_period_s, self._config.ray.drain_s
        )

    def _delete(self, unwanted: set[PoolKey]) -> None:
        """Only once they have been unwanted for a while: every worker has the table without them by then."""
        now = time.monotonic()
        self._retired = {key: self._retired.get(key, now) for key in unwanted}
        for key, since in self._retired.items():
            if now - since > 2.0:
                serve.delete(name_of(*key), _blocking=False)
                self._deployed.pop(key, None)

    def _configure(self) -> None:
        """Tell the nodes of a new revision, each when the one before it has it."""
        now = self._revision
        if self._followed == now.number:
            return
        for name, node in self._nodes.items():
            if self._told.get(name) != now.number:
                ray.get(node.configure.remote(now.config, now.number), timeout=10)
                self._told[name] = now.number
            state = ray.get(node.renewal.remote(), timeout=10)
            if state == CHANGING:
                return
            if state:
                break
        self._followed = now.number

    def _publish(self, table: Table) -> None:
        """In SQL first: its intervals say which keys are where, so that whoever starts next moves none."""
        if table.generation != self._stored.generation:
            self._repository.keep_table(table)
        self._table = self._stored = table
        self._nodes.exchange(table)

    def _model_status(self, name: str, nodes: list[dict[str, Any]]) -> dict[str, Any]:
        entry = self._table.models.get(name)
        versions = {version: self._version_status((model, version), how, nodes)
                    for (model, version), how in self._plan.versions.items() if model == name}  # fmt: skip
        return {"weights": entry.policy.weights if entry else {}, "wanted": self._plan.weights[name],
                "sticky": self._plan.models[name].sticky, "versions": versions}  # fmt: skip

    def _version_status(self, key: Key, how: Version, nodes: list[dict[str, Any]]) -> dict[str, Any]:
        links = {link["replica"]: link for node in nodes for worker in node["workers"] for link in worker["links"]}
        replicas = [{**replica, **links.get(replica["replica"], {"state": "unlinked", "load": 0})}
                    for node in nodes for replica in node["replicas"]
                    if (replica["model"], replica["version"]) == key]  # fmt: skip
        cold = {name: start for node in nodes for name, start in node.get("cold_starts", {}).items()}
        pools = {name: {"state": self._states.get((*key, name), "PENDING"), "wanted_replicas": pool.min,
                        "max_replicas": pool.max, "cpu": pool.cpu, "gpu": pool.gpu,
                        "cold_start": cold.get(name_of(*key, name))} for name, pool in how.by_pool.items()}  # fmt: skip
        state = next((pool["state"] for pool in pools.values() if pool["state"] != RUNNING), RUNNING)
        return {"digest": self._manifests[key].digest, "state": state, "pools": pools,
                "wanted_replicas": sum(pool.min for pool in how.by_pool.values()), "replicas": replicas}  # fmt: skip


ControllerActor = ray.remote(Controller)


def _states() -> dict[PoolKey, str]:
    """Serve's state of each of our applications; none while Serve does not run.

    `serve.status()` says the same and checks every field of every deployment: with a hundred versions that took 0.7 s
    of a processor a call, and this 2 ms.
    """
    client = context._get_global_client(raise_if_no_controller_running=False)
    overviews = client.list_serve_statuses() if client else []
    keys = {one.name: one.name.split(" ") for one in overviews if one.name.count(" ") == 2}
    states = {one.name: str(one.app_status.status.value) for one in overviews}
    return {(key[0], key[1], key[2]): states[name] for name, key in keys.items()}


def _messages() -> dict[PoolKey, str]:
    """Why an application does not run: the last line of what Serve says, which is the exception's."""
    found: dict[PoolKey, str] = {}
    applications = serve.status().applications
    for key in _states():
        text = applications[name_of(*key)].deployments[DEPLOYMENT].message
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        named = [line for line in lines if re.match(r"[\w.]*(Error|Corrupt|Failure|Exception|Refused)\b", line)]
        found[key] = (named or lines or ["Serve does not say why"])[-1][:500]
    return found


def _leaving(states: Mapping[PoolKey, str]) -> set[PoolKey]:
    return {key for key, state in states.items() if state == "DELETING"}


def _for_replicas(config: Config) -> Config:
    """Without what is none of their business: it may change, and they should not be started anew for that."""
    return msgspec.structs.replace(config, models={}, gateway=Gateway(), monitors=Monitors())


def _told(config: Config) -> dict[PoolKey, Pool]:
    """What a predecessor told Serve; where that is not known, Serve is told again, and changes what differs."""
    path = config.run_dir / "deployed.json"
    found = msgspec.json.decode(path.read_bytes(), type=dict[str, Pool]) if path.exists() else {}
    parts = {name: name.split(" ") for name in found}
    return {(parts[name][0], parts[name][1], parts[name][2]): pool for name, pool in found.items()}


def _tell(config: Config, deployed: Mapping[PoolKey, Pool]) -> None:
    staged = config.run_dir / "deployed.new"
    staged.write_bytes(msgspec.json.encode({name_of(*key): pool for key, pool in deployed.items()}))
    staged.rename(config.run_dir / "deployed.json")


def _routed(table: Table) -> set[Key]:
    return {(name, version) for name, entry in table.models.items() for version in entry.versions}


def _last_table(repository: Repository) -> Table:
    """Of the controller before: a new start moves no sticky key to another version."""
    return repository.table() or Table()


def _report(node: dict[str, Any], process: dict[str, Any]) -> dict[str, Any]:
    """What the worker of this name last said of itself."""
    for worker in node["workers"]:
        if f"worker-{worker['slot']}" == process["name"] and worker["pid"] == process["pid"]:
            return {"generation": worker["generation"], "links": len(worker["links"])}
    return {}
