"""One per node, a Ray actor: starts, watches and restarts gateway workers and the sidecar, hands them the table."""

import json
import logging
import threading
from pathlib import Path
from typing import Any

import ray

from serving import listeners
from serving.children import Child
from serving.config import Config, restore
from serving.discovery import announced, prepare, withdraw_dead

log = logging.getLogger("gaugeway.node")

WATCH_S = 0.1
STOP_S = 35.0


class Node:
    """The processes of one node. Its own death harms nobody: Ray makes a successor, which adopts them."""

    def __init__(self, config: str, name: str) -> None:
        self._config, self.name = restore(config), name
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        prepare(self._config.socket_dir)
        path = _write(self._config.run_dir / "config.json", config)
        self._children = _children(self._config, path, name)
        for child in self._children:
            child.start()
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def install(self, table: bytes) -> None:
        """The routing table for all workers of this node; they read it within a tenth of a second."""
        _write(self._config.run_dir / "table.json", table.decode())

    def status(self) -> dict[str, Any]:
        """Processes, replicas and the workers' own reports."""
        reports = self._config.run_dir / "workers"
        return {
            "node": self.name,
            "processes": [
                {"name": c.name, "pid": c.pid, "state": "running" if c.running else "down", "restarts": c.restarts}
                for c in self._children
            ],
            "replicas": [{"node": self.name, "model": r.model, "version": r.version, "pool": r.pool,
                          "replica": r.replica, "pid": r.pid}
                         for r in announced(self._config.socket_dir).values()],
            "monitors": self._verdicts(),
            "workers": [json.loads(path.read_text()) for path in sorted(reports.glob("*.json"))],
        }  # fmt: skip

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
            workers = [child for child in self._children if child.module == "serving.worker"]
            for child in workers:
                child.terminate()
            for child in workers:
                child.wait(STOP_S)
            for child in self._children:
                child.stop(STOP_S)

    def _watch(self) -> None:
        while not self._stopping.wait(WATCH_S):
            with self._lock:
                if self._stopping.is_set():
                    return
                for child in self._children:
                    child.watch()
            try:
                for gone in withdraw_dead(self._config.socket_dir):
                    log.warning("replica %s (process %d) is gone", gone.replica, gone.pid)
            except OSError:
                log.exception("cannot look after the announcements of replicas; trying again")


NodeActor = ray.remote(Node)


def _children(config: Config, path: Path, name: str) -> list[Child]:
    pids, logs = config.run_dir / "pids", config.data / "logs"
    children = [
        Child(f"worker-{slot}", "serving.worker", [str(path), "--slot", str(slot)], pids, logs / f"worker-{slot}.log")
        for slot in range(config.gateway.workers)
    ]
    if config.monitors.enabled:
        sidecar = Child("sidecar", "monitors.sidecar", [str(path), "--node", name], pids, logs / "sidecar.log")
        children.append(sidecar)
    return children


def _write(path: Path, text: str) -> Path:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_suffix(".new")
    staged.write_text(text)
    staged.rename(path)
    return path
