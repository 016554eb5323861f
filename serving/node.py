"""One per node, a Ray actor: starts, watches and restarts gateway workers and the sidecar, hands them the table."""

import json
import logging
import os
import platform
import threading
from pathlib import Path
from typing import Any

import msgspec
import ray
from ray.util import get_node_ip_address

from serving import listeners, reloading
from serving.berth import claim
from serving.children import Child, sweep
from serving.config import Config, dump, restore
from serving.discovery import Announcement, announced, prepare, refusals, tell_of_others, withdraw_dead
from serving.fleet import Fleet
from serving.reloading import Revision
from serving.sleepers import may_sleep

log = logging.getLogger("gaugeway.node")

WATCH_S = 0.1
STOP_S = 35.0
CHANGING = "changing"


class Node:
    """The processes of one node. Its own death harms nobody: Ray makes a successor, which adopts them."""

    def __init__(self, config: str, node: str, revision: int = 0) -> None:
        self._node, self._told_of = node, 0  # the generation of the table here
        mine = self._berthed(config)
        self._inherit(mine)
        now = reloading.last(mine.run_dir) or Revision(revision, dump(mine))  # a predecessor was given another
        self._config, self._revision = restore(now.config), now
        self.name = name = platform.node() + (f"-{mine.berth}" if mine.berth else "")
        self._before: Revision | None = None  # while workers are replaced
        self._stopping = threading.Event()
        self._waker: Any = None  # where some pool may sleep
        self._lock = threading.Lock()
        prepare(self._config.socket_dir)
        path = _write(self._config.run_dir / "config.json", now.config)
        self._fleet = Fleet(self._config, path, now.number)
        self._fleet.start()
        self._sidecar = _sidecar(self._config, path, name)
        if self._sidecar is not None:
            self._sidecar.start()
        threading.Thread(target=self._watch, name="watch", daemon=True).start()
        self._watch_sleepers()

    def _berthed(self, config: str) -> Config:
        """The configuration with the folders and ports of this node."""
        return claim(restore(config), self._node, os.getppid())

    def _inherit(self, mine: Config) -> None:
        """What an actor of this node left goes on; what is another node's, which ended, ends here."""
        path = mine.run_dir / "actor"
        if not path.exists() or path.read_text() != self._node:
            for name in sweep(mine.run_dir / "pids"):
                log.warning("%s of a node that has ended is stopped", name)
            reloading.forget(mine.run_dir)
            _write(path, self._node)

    def exchange(self, generation: int, table: bytes, others: bytes | None) -> tuple[int, bytes]:
        """Take the table and the replicas of all nodes, each if there is news.

        Returns the generation of the table here, and the replicas that are announced here.
        """
        if table:
            self.install(table)
            self._told_of = generation
        if others is not None:
            found = msgspec.json.decode(others, type=list[Announcement])
            tell_of_others(self._config.socket_dir, [one for one in found if one.node != self._node])
        return self._told_of, msgspec.json.encode(list(announced(self._config.socket_dir).values()))

    def install(self, table: bytes) -> None:
        """The routing table for all workers of this node; they read it within a tenth of a second."""
        _write(self._config.run_dir / "table.json", table.decode())
        self._watch_sleepers()

    def configure(self, config: str, revision: int) -> None:
        """Replace workers, then the sidecar, by ones with this configuration; no request is lost to that."""
        with self._lock:
            if revision == self._revision.number:
                return
            self._before, self._revision = self._revision, Revision(revision, dump(self._berthed(config)))
            self._use(self._revision)
            self._fleet.roll(revision)

    def renewal(self) -> str:
        """CHANGING; a sentence when it could not be; else empty."""
        if self._before is not None or (self._sidecar is not None and self._sidecar.restarting):
            return CHANGING
        return self._fleet.problem

    def status(self) -> dict[str, Any]:
        """Processes, replicas and the workers' own reports."""
        return {
            "node": self.name,
            "revision": self._revision.number,
            "problem": self._fleet.problem,
            "processes": self._fleet.status() + ([_said(self._sidecar)] if self._sidecar else []),
            "replicas": [{"node": self.name, "model": r.model, "version": r.version, "pool": r.pool,
                          "replica": r.replica, "pid": r.pid, "load_s": r.load_s}
                         for r in announced(self._config.socket_dir).values()],
            "refusals": refusals(self._config.socket_dir),
            "monitors": self._verdicts(),
            "cold_starts": self._waker.report() if self._waker else {},
            "workers": self._fleet.reports(),
        }  # fmt: skip

    def _watch_sleepers(self) -> None:
        """Begin to wake pools, if the table has any that may sleep."""
        path = self._config.run_dir / "table.json"
        if self._waker is None and path.exists() and may_sleep(path.read_bytes()):
            from serving.waking import Waker

            self._waker = Waker(self._config, self._stopping)

    def _verdicts(self) -> dict[str, Any]:
        """What the sidecar says; `stale` while it does not answer: no news is not good news."""
        if not self._config.monitors.enabled:
            return {"state": "off", "models": {}}
        metrics = self._config.metrics
        try:
            with listeners.ask(listeners.url(metrics.host, metrics.node_port) + "/verdicts", 2) as answer:
                return {"state": "ok", **json.load(answer)}
        except (OSError, ValueError) as error:
            return {"state": "stale", "models": {}, "reason": str(error)}

    def stop(self) -> None:
        """Workers drain first, then the sidecar reads what they wrote."""
        self._stopping.set()
        with self._lock:
            self._fleet.stop()
            if self._sidecar is not None:
                self._sidecar.stop(STOP_S)
            reloading.forget(self._config.run_dir)

    def _watch(self) -> None:
        while not self._stopping.wait(WATCH_S):
            try:
                with self._lock:
                    self._look_after()
                for gone in withdraw_dead(self._config.socket_dir):
                    log.warning("replica %s (process %d) is gone", gone.replica, gone.pid)
            except OSError:
                log.exception("cannot look after processes and announcements; trying again")

    def _look_after(self) -> None:
        if self._stopping.is_set():
            return
        self._fleet.watch()
        if self._sidecar is not None:
            self._sidecar.watch()
        if self._before is not None and not self._fleet.rolling:
            self._settle(self._before)

    def _settle(self, before: Revision) -> None:
        """The workers are replaced: now the sidecar. Or they could not be: what they had stays."""
        if not self._fleet.renewed:
            self._use(before)
        elif self._sidecar is not None:
            self._sidecar.restart()
        self._before = None

    def _use(self, revision: Revision) -> None:
        """For the processes that start from now on."""
        _write(self._config.run_dir / "config.json", revision.config)
        reloading.keep(self._config.run_dir, revision)
        self._config = restore(revision.config)


NodeActor = ray.remote(Node)


def _said(child: Child) -> dict[str, Any]:
    state = "running" if child.running else "down"
    return {"name": child.name, "pid": child.pid, "state": state, "restarts": child.restarts}


def _sidecar(config: Config, path: Path, name: str) -> Child | None:
    if not config.monitors.enabled:
        return None
    log_path = config.logs / "sidecar.log"
    far = config.channel.host or (_own_address() if config.ray.address else "")  # as replicas listen for other nodes
    arguments = [str(path), "--node", name, *(["--address", far] if far else [])]
    return Child("sidecar", "monitors.sidecar", arguments, config.run_dir / "pids", log_path)


def _own_address() -> str:
    address: str = get_node_ip_address()  # type: ignore[no-untyped-call]
    return address


def _write(path: Path, text: str) -> Path:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_suffix(".new")
    staged.write_text(text)
    staged.rename(path)
    return path
