"""Several nodes, each a raylet of its own on this machine: they are lost, they join, and no request is.

A gateway's process and controller belong to one of them, its own; of the others one is killed. That the head is lost
with all it has is the last test of its kind: only SQL remains.
"""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests import models
from tests.faults import processes
from tests.faults.cluster import Cluster, cluster
from tests.faults.load import Load, body, storm
from tests.gateway import Gateway, running, started, until

CONFIG = """
[ray]
address = "{address}"
orphan_s = {orphan_s}
[channel]
host = "127.0.0.1"
[models.steps.versions."1"]
replicas = {{ min = {replicas} }}
"""
RESTORED_S = 30.0


@contextmanager
def gateway(folder: Path, nodes: Cluster, replicas: int, orphan_s: float = 3.0) -> Iterator[Gateway]:
    """One that runs on all nodes: `steps`, 3 ms a run, with replicas on each."""
    extra = CONFIG.format(address=nodes.address, replicas=replicas, orphan_s=orphan_s)
    with running(folder, {"steps": models.slow(1000)}, extra=extra) as up:
        until(lambda: len(_ready(up)) == replicas, "the replicas")
        until(lambda: len(_workers(up)) == len(nodes.raylets), "a worker on each node")
        assert _own(up) == nodes.raylets[0], "the controller is not on the node that `up` joined"
        yield up


@pytest.mark.soak
def test_a_lost_node_costs_no_request_and_its_replicas_come_back(tmp_path: Path) -> None:
    with cluster(2) as nodes:
        with gateway(tmp_path, nodes, replicas=4) as up:
            with Load(up.url, "steps").running() as load, storm(up.url, "steps", tmp_path, 8) as counted:
                _lose_one(up, nodes, load)
                until(lambda: len(_workers_alive(up)) == 1, "the end of the lost node's worker", 20)
            assert load.failed == {} and load.wrong == [], load.refusals
            assert (counted.refused, counted.broken) == (0, 0)
        assert processes.of_folder(up) == []


@pytest.mark.soak
@pytest.mark.timeout(400)
def test_three_nodes_one_lost_one_joins_the_controller_killed(tmp_path: Path) -> None:
    with cluster(3) as nodes:
        with gateway(tmp_path, nodes, replicas=6) as up:
            with Load(up.url, "steps").running() as load, storm(up.url, "steps", tmp_path) as counted:
                _lose_one(up, nodes, load)
                until(lambda: len(_workers_alive(up)) == 2, "the end of the lost node's worker", 20)
                nodes.add()
                until(lambda: len(_workers(up)) == 3, "a worker on the node that joined")
                _more_replicas(up, 8)
                joined = until(lambda: _on(up, nodes.raylets[-1]), "a replica on the node that joined")
                until(lambda: _loaded(joined), "its part of the load")
                _kill_controller(up, load)
            assert load.failed == {} and load.wrong == [], load.refusals
            assert (counted.refused, counted.broken) == (0, 0)
        assert processes.of_folder(up) == []


@pytest.mark.soak
@pytest.mark.timeout(400)
def test_the_head_is_lost_and_a_fresh_start_brings_back_what_sql_has(tmp_path: Path) -> None:
    with cluster(3) as nodes, gateway(tmp_path, nodes, replicas=6, orphan_s=60.0) as up:
        _publish_second(tmp_path, up)
        up.call("route", "steps", "1=0.7", "2=0.3", "--why", "to be kept")
        before = _intervals(up)
        with Load(up.url, "steps").running() as load:
            nodes.kill_head()
            lost = time.monotonic()
            refused = until(lambda: _asked(up.url, 503), "a refusal", 150)
            print(f"503 {time.monotonic() - lost:.1f} s after the head was lost; until then {load.statuses}")
        assert refused.elapsed.total_seconds() < 1 and int(refused.headers["retry-after"]) >= 1
        assert set(load.statuses) <= {200, 503} and load.wrong == []
        up.process.kill()
        up.process.wait()
    with cluster(2) as nodes:
        up.config.write_text(up.config.read_text().replace(*_addresses(up.config, nodes.address)))
        with started(up.config, up.data) as fresh:
            until(lambda: _asked(fresh.url, 200), "an answer")
            assert _intervals(fresh) == before
        assert processes.of_folder(fresh) == []


def _lose_one(up: Gateway, nodes: Cluster, load: Load) -> None:
    """The last of those that are there, never that of `up` itself; until all replicas are there again."""
    before = load.answered
    until(lambda: load.answered > before + 100, "load")
    number = max(n for n, raylet in enumerate(nodes.raylets) if psutil.pid_exists(raylet) and raylet != _own(up))
    wanted, there = len(_ready(up)), _on(up, nodes.raylets[number])
    assert there, "the lost node has no replica"
    nodes.kill_raylet(number)
    lost = time.monotonic()
    until(lambda: len(_ready(up) - there) == wanted, "the replicas", RESTORED_S)
    print(f"{len(there)} replicas of a lost node restored in {time.monotonic() - lost:.1f} s")


def _kill_controller(up: Gateway, load: Load) -> None:
    """The one that follows knows the same replicas and workers."""
    replicas, workers = _ready(up), _workers(up)
    killed = int(up.status()["controller"])
    os.kill(killed, signal.SIGKILL)
    start, answered = time.monotonic(), load.answered
    until(lambda: _succeeded(up, killed), "the next controller", 40)
    until(lambda: _ready(up) == replicas and _workers(up) == workers, "the same replicas and workers")
    print(f"controller adopted all in {time.monotonic() - start:.1f} s")
    until(lambda: load.answered > answered + 100, "more answers")


def _more_replicas(up: Gateway, count: int) -> None:
    up.config.write_text(up.config.read_text().replace("min = 6", f"min = {count}"))
    up.call("apply", "--yes", "--why", "there is another node")
    until(lambda: len(_ready(up)) == count, "more replicas")


def _succeeded(up: Gateway, killed: int) -> bool:
    """Whether the next one answers and has read what is wanted."""
    try:
        status = up.status()
    except httpx.TransportError:
        return False
    return status["controller"] != killed and "steps" in status["models"]


def _own(up: Gateway) -> int:
    """The raylet that started the controller."""
    return int(psutil.Process(up.status()["controller"]).ppid())


def _ready(up: Gateway) -> set[int]:
    return {int(replica["pid"]) for replica in up.replicas("steps", "1")}


def _workers(up: Gateway) -> dict[str, int]:
    """By node, those that have links."""
    return {p["node"]: p["pid"] for p in up.status()["workers"] if p["name"].startswith("worker") and p.get("links")}


def _workers_alive(up: Gateway) -> list[str]:
    return [line for line in processes.of_folder(up) if "serving.worker" in line]


def _on(up: Gateway, raylet: int) -> set[int]:
    """The replicas that this raylet started."""
    return {pid for pid in _ready(up) if psutil.Process(pid).ppid() == raylet}


def _loaded(pids: set[int]) -> bool:
    """Whether each of these processes has work to do."""
    before = [sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids]
    time.sleep(1.0)
    after = [sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids]
    return all(b - a > 0.05 for a, b in zip(before, after, strict=True))


def _publish_second(folder: Path, up: Gateway) -> None:
    file = folder / "second.onnx"
    file.write_bytes(models.slow(1001))
    up.call("publish", "steps", str(file))


def _intervals(up: Gateway) -> object:
    """Which keys belong to which version, as a worker knows it."""
    table: dict[str, Any] = json.loads((up.data / "run" / "table.json").read_text())
    return table["models"]["steps"]["policy"]["intervals"]


def _addresses(config: Path, new: str) -> tuple[str, str]:
    old = next(line for line in config.read_text().splitlines() if line.startswith("address = "))
    return old, f'address = "{new}"'


def _asked(url: str, status: int) -> httpx.Response | None:
    response = httpx.post(f"{url}/v2/models/steps/infer", content=body(1.0), timeout=10)
    return response if response.status_code == status else None
