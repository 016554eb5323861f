"""The nodes of a cluster as the controller sees them: an actor on each Ray node, whatever joins or leaves.

All nodes get the routing table and the replicas of the others; what one of them has to say goes to all. A node that
does not answer keeps nobody waiting: it is asked again once it has.
"""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from serving.discovery import Announcement
from serving.node import NodeActor
from serving.routing import Table

log = logging.getLogger("gaugeway.nodes")

ANSWER_S = 1.0  # that all are waited for, each time
STATUS_S = 5.0
FAILED_S = 20.0  # an actor that Ray starts again is heard of by then
STOP_S = 80.0  # for a node's processes to drain and end
# Ray's processes kill their children when they end: gateway workers would not finish what they have.
_OUTLIVED = {"RAY_kill_child_processes_on_worker_exit": "0"}
FIRST_S = 10.0  # for a node that joined to say what it has, before others are told without it


@dataclass
class Member:
    """One node: its actor, the question it has not answered yet, the replicas that it announced last."""

    node: str
    actor: Any
    host: str
    since: float
    heard: float
    asked: Any = None
    replicas: bytes | None = None
    installed: int = 0  # generation of the table


class Nodes(Mapping[str, Any]):
    """The actors by their nodes' ids. `look` for who is there, then `exchange`."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._members: dict[str, Member] = {}
        self._table, self._generation = b"", 0

    def __getitem__(self, node: str) -> Any:
        return self._members[node].actor

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._members))

    def __len__(self) -> int:
        return len(self._members)

    def look(self, config: str, revision: int) -> None:
        """Start an actor on every node that joined, or find the one that a predecessor of this controller made."""
        alive = {
            node["NodeID"]: node["NodeManagerHostname"]
            for node in ray.nodes()  # type: ignore[no-untyped-call]
            if node["Alive"]
        }
        for node in self._members.keys() - alive:
            log.warning("node %s (%s) left the cluster", node, self._members[node].host)
            ray.kill(self._members.pop(node).actor)  # Ray would keep it in mind for ever
        for node in alive.keys() - self._members.keys():
            now = time.monotonic()
            self._members[node] = Member(node, self._actor(node, config, revision), alive[node], now, now)

    def exchange(self, table: Table) -> None:
        """Tell every node the table and the replicas of all, and hear what it announces."""
        if table.generation != self._generation:
            self._table, self._generation = msgspec.json.encode(table), table.generation
        others = self._others()
        for member in self._members.values():
            if member.asked is None:
                news = self._table if member.installed != self._generation else b""
                member.asked = member.actor.exchange.remote(self._generation, news, others)
        for member, answer in _answers(self._members.values(), ANSWER_S):
            if answer is not None:
                member.heard = time.monotonic()
                member.installed, member.replicas = answer
            elif time.monotonic() - member.heard > FAILED_S:  # it could not even be made: `look` tries again
                self._members.pop(member.node, None)

    def status(self) -> list[dict[str, Any]]:
        """Of every node. An actor that does not answer is being started again; what it watches runs on meanwhile."""
        members = list(self._members.values())
        asked = [member.actor.status.remote() for member in members]
        done = set(ray.wait(asked, num_returns=len(asked), timeout=STATUS_S)[0]) if asked else set()
        return [_status(reference, reference in done) for reference in asked]

    def stop(self) -> None:
        """Drain the workers of all nodes at the same time."""
        members = list(self._members.values())
        asked = [member.actor.stop.remote() for member in members]
        if asked:
            ray.wait(asked, num_returns=len(asked), timeout=STOP_S)
        for member in members:  # who starts the next gateway there ends what a node left that did not answer
            with suppress(RayError):
                ray.kill(member.actor)

    def _others(self) -> bytes | None:
        """The replicas of all nodes; None while one that joined a moment ago has not yet said what it has."""
        now = time.monotonic()
        if any(member.replicas is None and now - member.since < FIRST_S for member in self._members.values()):
            return None
        known = [msgspec.json.decode(m.replicas, type=list[Announcement]) for m in self._members.values() if m.replicas]
        return msgspec.json.encode(sorted((one for own in known for one in own if one.address), key=_name))

    def _actor(self, node: str, config: str, revision: int) -> Any:
        return NodeActor.options(
            name=f"node-{node}", namespace=self._namespace, lifetime="detached", get_if_exists=True, num_cpus=0,
            max_restarts=-1, max_concurrency=4, runtime_env={"env_vars": _OUTLIVED},
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        ).remote(config, node, revision)  # fmt: skip


def _name(one: Announcement) -> str:
    return one.replica


def _answers(members: Iterable[Member], timeout_s: float) -> list[tuple[Member, Any]]:
    """Of those that answer in time; None from one whose actor is being started again."""
    asking = {member.asked: member for member in members}
    done = ray.wait(list(asking), num_returns=len(asking), timeout=timeout_s)[0] if asking else []
    found = []
    for reference in done:
        member = asking[reference]
        member.asked = None
        found.append((member, _get(reference)))
    return found


def _get(reference: Any) -> Any:
    with suppress(RayError):
        return ray.get(reference)
    return None


def _status(reference: Any, answered: bool) -> dict[str, Any]:
    status: dict[str, Any] | None = _get(reference) if answered else None
    if status is None:
        monitors = {"state": "stale", "models": {}, "reason": "the node's actor does not answer"}
        status = {"node": "", "processes": [], "replicas": [], "workers": [], "refusals": 0, "monitors": monitors}
    return status
