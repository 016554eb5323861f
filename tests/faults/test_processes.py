"""Every other process killed or stopped: sidecar, worker, node actor, controller, and `up` itself."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests import models
from tests.faults import processes
from tests.faults.load import Load, body
from tests.gateway import Gateway, running, until

AGENTS = {"ray::DashboardAgent", "ray::RuntimeEnvAgent"}
TINY = "ring_bytes = 65536\n"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running(tmp_path_factory.mktemp("processes"), {"same": models.slow(1)}) as up:
        yield up


def test_a_killed_sidecar_costs_no_request_and_no_row(gateway: Gateway) -> None:
    before = _answered(gateway)
    with Load(gateway.url, "same").running() as load:
        until(lambda: load.answered > 100, "load")
        os.kill(gateway.process_id("sidecar"), signal.SIGKILL)
        until(lambda: gateway.status()["monitors"]["state"] == "stale", "the state `stale`", 10)
        until(lambda: gateway.status()["monitors"]["state"] == "ok", "the next sidecar", 15)
    assert json.loads(gateway.call("status", "--json").stdout)["monitors"]["state"] == "ok"
    assert load.failed == {} and load.wrong == []
    assert _answered(gateway) - before == load.answered
    until(lambda: _rows(gateway) == _answered(gateway), "every row", 10)
    assert gateway.verdicts()["lost_rows"] == 0


def test_a_killed_worker_is_replaced_and_its_counters_go_on(gateway: Gateway) -> None:
    before, killed = _answered(gateway), gateway.process_id("worker-0")
    os.kill(killed, signal.SIGKILL)
    until(lambda: _status(gateway) == 200, "an answer", 5)
    assert gateway.process_id("worker-0") != killed
    assert _answered(gateway) == before + 1


@pytest.mark.parametrize("name", ["Node", "Controller"])
def test_without_its_control_plane_serving_goes_on(gateway: Gateway, name: str) -> None:
    worker = gateway.process_id("worker-0")
    with Load(gateway.url, "same", clients=2).running() as load:
        until(lambda: load.answered > 20, "load")
        killed = processes.actor(gateway, name)
        os.kill(killed, signal.SIGKILL)
        until(lambda: _succeeded(gateway, name, killed), f"the next {name}", 30)
        until(lambda: _worker(gateway) == worker, "the status, with the same worker", 20)
        answered = load.answered
        until(lambda: load.answered > answered + 20, "more answers")
    assert load.failed == {} and load.wrong == []
    if name == "Node":  # the adopted are watched
        os.kill(worker, signal.SIGKILL)
        until(lambda: _status(gateway) == 200, "an answer of the next worker", 10)


def test_after_up_was_killed_the_next_one_ends_what_is_left(gateway: Gateway) -> None:
    left = {name: gateway.process_id(name) for name in ("worker-0", "sidecar")}
    first = gateway.process.pid
    os.kill(first, signal.SIGKILL)
    gateway.process.wait(10)
    # Ray ends with the one who started it, but for two agents that take their time.
    until(lambda: set(processes.of_session(first)) <= AGENTS, "the end of Ray", 20)
    with _again(gateway):
        assert _status(gateway) == 200
        assert not set(left.values()) & {p["pid"] for p in gateway.status()["workers"]}
        lines = processes.of_folder(gateway)
        assert sum("serving.worker" in line for line in lines) == 1
        assert sum("monitors.sidecar" in line for line in lines) == 1
    assert processes.of_folder(gateway) == []


def test_what_a_full_ring_loses_is_counted_to_the_row(tmp_path: Path) -> None:
    with running(tmp_path, {"same": models.slow(1)}, extra=TINY) as up:
        sidecar = up.process_id("sidecar")
        with Load(up.url, "same").running() as load:
            until(lambda: load.answered > 50, "load")
            os.kill(sidecar, signal.SIGSTOP)
            until(lambda: load.answered > 2000, "more rows than the ring holds", 60)
            os.kill(sidecar, signal.SIGCONT)
        assert load.failed == {}
        until(lambda: _rows(up) + up.verdicts()["lost_rows"] == load.answered, "every row, counted or lost", 15)
        assert up.verdicts()["lost_rows"] > 0


@contextmanager
def _again(gateway: Gateway) -> Iterator[None]:
    """`up` once more on the same data folder, until the block ends."""
    up = gateway.data / "run" / "up.json"
    killed = json.loads(up.read_text())["pid"]
    command = [sys.executable, "-m", "serving.cli", "up", "--config", str(gateway.config)]
    log = gateway.data.parent / "again.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        until(lambda: _pid(up) not in (0, killed) or process.poll() is not None, "`gaugeway up`", 90)
        assert process.poll() is None, log.read_text()
        gateway.url = json.loads(up.read_text())["gateway"]
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)


def _pid(path: Path) -> int:
    return int(json.loads(path.read_text())["pid"]) if path.exists() else 0


def _status(gateway: Gateway) -> int:
    try:
        return httpx.post(f"{gateway.url}/v2/models/same/infer", content=body(1.0), timeout=5).status_code
    except httpx.TransportError:
        return 0


def _answered(gateway: Gateway) -> int:
    """Requests answered with 200, by the metrics; they outlive the worker."""
    found = re.search(r'requests_total\{code="200",model="same",.*\} (\S+)', gateway.metrics())
    return int(float(found[1])) if found else 0


def _rows(gateway: Gateway) -> int:
    return int(gateway.verdicts()["models"].get("same", {}).get("1", {}).get("rows", 0))


def _succeeded(gateway: Gateway, name: str, killed: int) -> bool:
    try:
        return processes.actor(gateway, name) != killed
    except StopIteration:
        return False


def _worker(gateway: Gateway) -> int:
    try:
        return gateway.process_id("worker-0")
    except (httpx.TransportError, StopIteration, KeyError):
        return 0
