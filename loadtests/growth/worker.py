"""A gateway worker of one case: started as the control plane would, loaded, its processor time and memory read."""

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from loadtests import wrk
from loadtests.growth.cases import ASKED, Case
from loadtests.growth.page import Idle
from loadtests.growth.replicas import Replica
from loadtests.peers.peer import free_ports
from serving.config import Config, Gateway, Monitors, dump
from serving.discovery import prepare

CONNECTIONS = 8
READY_S = 60.0


@dataclass(frozen=True)
class Worker:
    case: Case
    process: "psutil.Process"
    url: str
    script: Path

    def cpu_s(self) -> float:
        spent = self.process.cpu_times()
        return float(spent.user + spent.system)

    def request_cpu_s(self, seconds: int) -> float:
        """Of a request, under load for so long. Raises RuntimeError when one fails."""
        before = self.cpu_s()
        run = wrk.drive(f"{self.url}/infer", self.script, CONNECTIONS, seconds)
        if run.failed:
            raise RuntimeError(f"{run.failed} requests failed at {self.case}")
        return (self.cpu_s() - before) / run.requests

    def idle(self, seconds: float) -> Idle:
        """While nobody asks. Its memory is without what it shares with others: rings, pages, libraries."""
        before = self.cpu_s()
        time.sleep(seconds)
        return Idle((self.cpu_s() - before) / seconds, int(self.process.memory_full_info().uss))


@contextmanager
def workers(cases: Sequence[Case], folder: Path) -> Iterator[list[Worker]]:
    """One for each case, all ready; stopped at the end, and their replicas after them."""
    configs = [_prepare(case, folder / f"{case.axis}-{case.size}") for case in cases]
    spec = folder / "replicas.json"
    replicas = [Replica(str(c.socket_dir), of) for case, c in zip(cases, configs, strict=True) for of in case.served()]
    spec.write_bytes(msgspec.json.encode(replicas))
    commands = [["serving.worker", str(config.run_dir / "config.json")] for config in configs]
    with (folder / "log").open("wb") as log:
        started: list[subprocess.Popen[bytes]] = []
        try:
            for module, argument in (["loadtests.growth.replicas", str(spec)], *commands):
                started.append(subprocess.Popen([sys.executable, "-m", module, argument], stdout=log, stderr=log))
            yield [
                _ready(case, config, process.pid, folder / f"{case.axis}-{case.size}")
                for case, config, process in zip(cases, configs, started[1:], strict=True)
            ]
        finally:
            for process in reversed(started):
                process.terminate()
            for process in started:
                process.wait(60)


def _prepare(case: Case, folder: Path) -> Config:
    port = free_ports(1)[0]
    wide = Gateway(port=port, max_queue_rows=2**17, queue_target_s=5.0)  # cost is measured here, not refusals
    config = Config(data_dir=str(folder), gateway=wide, monitors=Monitors(ring_bytes=2**22))
    prepare(config.socket_dir)
    config.run_dir.mkdir(parents=True)
    (config.run_dir / "config.json").write_text(dump(config))
    (config.run_dir / "table.json").write_bytes(msgspec.json.encode(case.table()))
    body, headers = case.request()
    (folder / "body").write_bytes(body)
    (folder / "request.lua").write_text(wrk.script(folder / "body", headers))
    return config


def _ready(case: Case, config: Config, pid: int, folder: Path) -> Worker:
    """Waits until every version that is asked has its replica."""
    url = f"http://127.0.0.1:{config.gateway.port}/v2/models/{ASKED}"
    until = time.monotonic() + READY_S
    while True:
        try:
            with urllib.request.urlopen(f"{url}/ready", timeout=5):
                return Worker(case, psutil.Process(pid), url, folder / "request.lua")
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
