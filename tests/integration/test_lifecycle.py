"""One data folder, started and stopped in every way: what is stored serves on, what ran has ended."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from math import sqrt
from pathlib import Path

import pytest

from serving.discovery import alive
from tests import models
from tests.faults import processes
from tests.faults.load import storm
from tests.gateway import Gateway, running, until
from tests.integration.calls import versions

STICKY = """
[models.split]
sticky = "header:x-user-id"
"""
USERS = [f"user-{i}" for i in range(2000)]


@pytest.mark.timeout(300)
def test_versions_share_traffic_by_key_and_a_restart_moves_nobody(tmp_path: Path) -> None:
    with running(tmp_path, {"split": models.linear(), "same": models.slow(1)}) as up:
        _publish(up, tmp_path, "split", models.linear((3.0, 4.0)))
        until(lambda: _weights(up, "split") == {"2": 1.0}, "the newest version", 60)
        changed = up.call("route", "split", "1=0.8", "2=0.2")
        assert "in effect" in changed.stdout
        before = versions(up.url, "split", "x-request-id", USERS)
        share = Counter(before.values())["2"] / len(USERS)
        assert abs(share - 0.2) < 2.58 * sqrt(0.2 * 0.8 / len(USERS))  # 99 % of the binomial
        assert versions(up.url, "split", "x-request-id", USERS[:200]).items() <= before.items()
        _roll_over_under_load(up, tmp_path)
        digests = _digests(up)
        _ends(up, lambda: up.call("down"))

    config = up.config.read_text()
    up.config.write_text(config + STICKY)  # the registry knows the model: it stays as it is
    again, pid = _detached(up)
    try:
        assert _weights(again, "split") == {"1": 0.8, "2": 0.2} and _digests(again) == digests
        assert versions(again.url, "split", "x-request-id", USERS[:500]).items() <= before.items()
        again.call("down")
        assert not alive(pid) and processes.of_folder(again) == []
        assert not any(_socket_dir(again).rglob("*.sock"))
        until(lambda: processes.of_session(pid) == [], "the end of Ray", 20)
    finally:
        if alive(pid):
            os.killpg(pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_start_that_is_interrupted_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    config = tmp_path / "gaugeway.toml"
    config.write_text(f'data_dir = "{tmp_path / "data"}"\n[gateway]\nport = 0\n[admin]\nport = 0\n'
                      "[metrics]\nnode_port = 0\ncontroller_port = 0\n")  # fmt: skip
    log = tmp_path / "up.log"
    command = [sys.executable, "-m", "serving.cli", "up", "--config", str(config)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        until(lambda: b"starting the controller" in log.read_bytes(), "Ray", 60)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does: Ray's processes get it too
        else:
            process.send_signal(number)
        assert process.wait(60) in (0, 130)
        until(lambda: processes.of_session(process.pid) == [], "the end of Ray", 20)
        left = [line for line in processes.naming(str(tmp_path / "data")) if "-m serving" in line or "-m monit" in line]
        assert left == [] and "ready" not in log.read_text()
    finally:
        if process.poll() is None:
            process.kill()


def _roll_over_under_load(up: Gateway, folder: Path) -> None:
    """From version 1 to 2 and back while wrk asks: no request is refused or broken."""
    _publish(up, folder, "same", models.slow(2))
    with storm(up.url, "same", folder, connections=16) as counted:
        for weights in (["1=0.5", "2=0.5"], ["2=1"], ["1=1"], ["2=1"]):
            up.call("route", "same", *weights)
    assert counted.requests > 100 and (counted.refused, counted.broken) == (0, 0)


def _ends(up: Gateway, stop: "object") -> None:
    """After `stop`, every process of it is gone, and its sockets."""
    assert callable(stop)
    session, sockets = up.process.pid, _socket_dir(up)
    assert any(sockets.rglob("*.sock"))
    stop()
    assert up.process.wait(60) == 0
    until(lambda: processes.of_session(session) == [], "the end of Ray", 20)
    assert processes.of_folder(up) == [] and not any(sockets.rglob("*.sock"))


def _socket_dir(up: Gateway) -> Path:
    from serving.config import load

    return load(up.config, {}).socket_dir


def _publish(up: Gateway, folder: Path, name: str, model: bytes) -> None:
    file = folder / f"{name}-2.onnx"
    file.write_bytes(model)
    up.call("publish", name, str(file))


def _weights(up: Gateway, model: str) -> dict[str, float]:
    found: dict[str, float] = up.status()["models"][model]["weights"]
    return {version: round(weight, 6) for version, weight in found.items()}


def _digests(up: Gateway) -> dict[str, list[str]]:
    return {name: sorted(v["digest"] for v in m["versions"].values()) for name, m in up.status()["models"].items()}


def _detached(before: Gateway) -> tuple[Gateway, int]:
    """`up --detach` on the same data folder, and its process; a second one is told that it runs."""
    said = before.call("up", "--detach").stdout.splitlines()
    found = json.loads((before.data / "run" / "up.json").read_text())
    assert [line.split() for line in said[:3]] == [["gateway", found["gateway"]], ["admin", found["admin"]],
                                                   ["metrics", f"{found['metrics']}/metrics"]]  # fmt: skip
    assert said[3].startswith("ready") and len(said) == 4
    second = before.call("up", "--detach", check=False)
    assert second.returncode == 1 and "a gateway runs already" in second.stderr
    return replace(before, url=found["gateway"]), found["pid"]
