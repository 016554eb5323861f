"""Where a Ray node has its folders and ports on its machine: its berth.

A machine mostly has one node, and its berth is `run/`. Where Ray runs several, each takes the first berth that nobody
holds: `run/`, `run-1/`, and so on. Whoever of a node asks first claims it for the node, be it its actor or one of its
replicas. It is the node's until the node's raylet has ended; its processes know by it whether they still have a node.
"""

import fcntl
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from serving.children import started
from serving.config import Config
from serving.discovery import alive

log = logging.getLogger("gaugeway.node")

LOOK_S = 0.5
_MOST = 1024


class Holder(msgspec.Struct, frozen=True):
    """A Ray node by its id and its raylet's process. `metrics_port` is its sidecar's, where not the configured one."""

    node: str
    pid: int
    started: int
    metrics_port: int = 0

    @property
    def alive(self) -> bool:
        return alive(self.pid) and started(self.pid) == self.started


def claim(config: Config, node: str, raylet: int) -> Config:
    """The configuration of the berth that `node` holds, or takes now; `raylet` is the process id of the node's."""
    with _alone(config):
        free: list[Config] = []
        for berth in berths(config):
            held = holder(berth)
            if held is not None and held.node == node:
                return _with_port(berth, held)
            if held is None or not held.alive:
                free.append(berth)
                if held is None:
                    break  # none of those that follow was ever held
        berth = free[0]
        mine = Holder(node, raylet, started(raylet), _free_port(config.metrics.host) if berth.berth else 0)
        _write(_path(berth), msgspec.json.encode(mine))
        return _with_port(berth, mine)


def holder(config: Config) -> Holder | None:
    """Who held this berth last."""
    try:
        return msgspec.json.decode(_path(config).read_bytes(), type=Holder)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def berths(config: Config) -> Iterator[Config]:
    """All that there could be, in order."""
    return (msgspec.structs.replace(config, berth=number) for number in range(_MOST))


def held(config: Config) -> list[Config]:
    """The berths that somebody ever held, and the first."""
    others = (berth for berth in berths(config) if berth.berth and berth.run_dir.exists())
    return [msgspec.structs.replace(config, berth=0), *others]


def end_with_node(config: Config, orphaned: Callable[[bool], None] = lambda lost: None) -> None:
    """End this process, as SIGTERM does, once its node has been gone for `ray.orphan_s` and none took its place.

    `orphaned` is told, from a thread, whenever the node is gone or there is one again.
    """
    threading.Thread(target=_watch, args=(config, orphaned), name="berth", daemon=True).start()


def _watch(config: Config, orphaned: Callable[[bool], None]) -> None:
    seen, lost = time.monotonic(), False
    while time.monotonic() - seen < config.ray.orphan_s:
        time.sleep(LOOK_S)
        found = holder(config)
        if (found is not None and not found.alive) != lost:  # without a berth there is no node to end with
            lost = not lost
            orphaned(lost)
        seen = seen if lost else time.monotonic()
    log.warning("the Ray node of this process ended %g s ago, and there is no other: draining", config.ray.orphan_s)
    os.kill(os.getpid(), signal.SIGTERM)


def _path(config: Config) -> Path:
    return config.run_dir / "node.json"


def _with_port(config: Config, holder: Holder) -> Config:
    port = holder.metrics_port or config.metrics.node_port
    return msgspec.structs.replace(config, metrics=msgspec.structs.replace(config.metrics, node_port=port))


def _free_port(host: str) -> int:
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        return int(sock.getsockname()[1])


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o700)  # the configuration that will lie there has secrets in it
    staged = path.with_suffix(".new")
    staged.write_bytes(data)
    staged.rename(path)


@contextmanager
def _alone(config: Config) -> Iterator[None]:
    """Among all nodes of this machine."""
    config.data.mkdir(parents=True, exist_ok=True)
    with (config.data / "berths.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
