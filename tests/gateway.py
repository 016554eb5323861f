"""A whole gateway for tests: `gaugeway up` as a user types it, on free ports, with a data folder of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

from serving.config import load
from serving.publishing import publish
from serving.repository import Repository

T = TypeVar("T")

CONFIG = """
data_dir = "{data}"
[gateway]
port = 0
retries = {retries}
{gateway}
[admin]
port = 0
[metrics]
node_port = 0
controller_port = 0
[monitors]
slot_s = 1.0
block_s = 10.0
"""


def gaugeway(*arguments: str, check: bool = True, **options: Any) -> "subprocess.CompletedProcess[str]":
    """The command line, as a process of its own."""
    command = [sys.executable, "-m", "serving.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, **options)
    assert not check or done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done


def until(probe: Callable[[], T | None], what: str, timeout_s: float = 30.0) -> T:
    """The first true answer of `probe`."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if found := probe():
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited {timeout_s:g} s in vain for {what}")


@dataclass
class Gateway:
    """One that runs. `url` is the data plane's."""

    config: Path
    data: Path
    process: "subprocess.Popen[bytes]"
    url: str

    def call(self, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        return gaugeway(*arguments, "--config", str(self.config), check=check)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self._up()['admin']}/admin/v1/status", timeout=20).json()
        return found

    def replicas(self, model: str, version: str) -> list[dict[str, Any]]:
        """Those that take work."""
        one = self.status()["models"][model]["versions"].get(version, {"replicas": []})
        return [replica for replica in one["replicas"] if replica["state"] == "ready"]

    def process_id(self, name: str) -> int:
        return int(next(p["pid"] for p in self.status()["workers"] if p["name"] == name))

    def metrics(self) -> str:
        return httpx.get(f"{self._up()['metrics']}/metrics", timeout=10).text

    def verdicts(self) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self._up()['metrics']}/verdicts", timeout=10).json()
        return found

    def ready(self, model: str) -> bool:
        return httpx.get(f"{self.url}/v2/models/{model}/ready").status_code == 200

    def _up(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.data / "run" / "up.json").read_text())
        return found


@contextmanager
def running(
    folder: Path, models: Mapping[str, bytes], *, extra: str = "", gateway: str = "", retries: int = 1
) -> Iterator[Gateway]:
    """Publish `models` as version 1 of their names; `gaugeway up` with CONFIG and `extra`, until the block ends.

    `gateway` are more keys of that section.
    """
    data, config = folder / "data", folder / "gaugeway.toml"
    config.write_text(CONFIG.format(data=data, retries=retries, gateway=gateway) + extra)
    repository = Repository.of(load(config, {}))
    for name, model in models.items():
        file = folder / f"{name}.onnx"
        file.write_bytes(model)
        publish(repository, name, file)
    with started(config, data) as up:
        yield up


@contextmanager
def started(config: Path, data: Path) -> Iterator[Gateway]:
    """`gaugeway up`, until the block ends."""
    log, up = config.parent / "up.log", data / "run" / "up.json"
    up.unlink(missing_ok=True)  # of one that was killed
    with log.open("ab") as output:
        command = [sys.executable, "-m", "serving.cli", "up", "--config", str(config)]
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        until(lambda: up.exists() or process.poll() is not None, "`gaugeway up`", 90)
        assert process.poll() is None, log.read_text()
        yield Gateway(config, data, process, json.loads(up.read_text())["gateway"])
    finally:
        _stop(process)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
