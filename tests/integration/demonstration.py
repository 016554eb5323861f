"""The demo as people run it, watched by a real Prometheus with the rules and alerts that Gaugeway comes with."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from dashboards.compiling import compiled
from tests.gateway import until
from tests.prometheus import INTERVAL, Prometheus, scraping

DAYS = 4
GAUGEWAY = Path(sys.executable).with_name("gaugeway")
LATE = {"x-gaugeway-deadline-s": "0.000001"}


@dataclass
class Done:
    """A demo that ran to its end, was asked by its own curl, and was then stopped with Ctrl-C."""

    folder: Path
    summary: dict[str, Any]
    output: str
    curl: str
    code: int
    left: list[int]  # processes that should be gone
    prometheus: Prometheus  # runs on


@contextmanager
def demonstrated(folder: Path) -> Iterator[Done]:
    command: list[str | Path] = [GAUGEWAY, "demo", "--days", str(DAYS)]
    command += ["--summary", folder / "demo.json", "--data-dir", folder / "data"]
    with (folder / "stdout").open("w") as stdout, (folder / "stderr").open("w") as stderr:
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr, start_new_session=True)
    try:
        ports = until(lambda: _ports(folder, process), "the demo's gateway", 200)
        jobs = {"gaugeway-node": ports["node_port"], "gaugeway-controller": ports["controller_port"]}
        files = compiled({"short_interval": INTERVAL, "long_interval": INTERVAL})
        rules = {name: text for name, text in files.items() if name.endswith(".yaml")}
        with scraping(folder / "prometheus", jobs, rules) as prometheus:
            output = until(lambda: _said(folder, process, "gaugeway status --config"), "the demo's end", 240)
            asked = re.search(r"^curl .*?'\n", output, re.DOTALL | re.MULTILINE)
            assert asked is not None
            answer = subprocess.run(asked[0], shell=True, capture_output=True, text=True, timeout=30)
            _disturb(asked[0], ports["admin_port"], prometheus)
            children = psutil.Process(process.pid).children(recursive=True)
            started = [child.pid for child in children] + _pids(folder / "data")
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            code = process.wait(60)
            summary = json.loads((folder / "demo.json").read_text())
            left = [pid for pid in started if _runs(pid)]
            yield Done(folder, summary, output, answer.stdout, code, left, prometheus)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


def _disturb(curl: str, admin_port: int, prometheus: Prometheus) -> None:
    """What the dashboards show of a day: requests, some of which are late, and another split of traffic."""
    url, body = re.search(r"http://\S+", curl), re.search(r"-d '(.*)'", curl)
    assert url is not None and body is not None
    # A rate needs two scrapes, and the replay may be over before the first.
    failed = 'sum(rate(gaugeway_requests_total{code="504"}[1m])) > 0'
    answered = "sum(rate(gaugeway_request_duration_seconds_count[1m])) > 0"
    with httpx.Client() as http:

        def asked() -> bool:
            for headers in 50 * [LATE, {}]:
                http.post(url[0], content=body[1], headers=headers)
            return bool(prometheus.instant(f"{failed} and {answered}"))

        until(asked, "requests that Prometheus sees")
        (before,) = prometheus.instant("max(gaugeway_table_generation)")
        weights = {"weights": {"1": 0.7, "2": 0.3}}
        http.put(f"http://127.0.0.1:{admin_port}/admin/v1/routes/flights", json=weights).raise_for_status()
    spread = f"min(gaugeway_table_generation) > {before.values[0]}"
    told = 'ALERTS{alertname="ErrorBudgetBurn"}'
    until(lambda: prometheus.instant(spread) and prometheus.instant(told), "the changes in Prometheus")
    prometheus.ended = time.time()


def _ports(folder: Path, process: "subprocess.Popen[bytes]") -> dict[str, int]:
    _alive(folder, process)
    path = folder / "data" / "gaugeway.toml"
    found = tomllib.loads(path.read_text()) if path.exists() else {}
    if "controller_port" not in found.get("metrics", {}):
        return {}
    return {**found["metrics"], "admin_port": found["admin"]["port"]}


def _said(folder: Path, process: "subprocess.Popen[bytes]", text: str) -> str:
    _alive(folder, process)
    output = (folder / "stdout").read_text()
    return output if text in output else ""


def _alive(folder: Path, process: "subprocess.Popen[bytes]") -> None:
    said = [(folder / name).read_text()[-3000:] for name in ("stdout", "stderr")]
    assert process.poll() is None, f"the demo ended early with {process.returncode}: {said}"


def _pids(folder: Path) -> list[int]:
    return [int(path.read_text().split()[0]) for path in (folder / "gateway" / "run" / "pids").iterdir()]


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
