"""A real Prometheus for tests, on loopback, that scrapes every second."""

import json
import math
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.gateway import until

INTERVAL = "1s"


@dataclass(frozen=True)
class Found:
    """A series of an answer; `values` without NaN."""

    labels: dict[str, str]
    values: tuple[float, ...]


@dataclass
class Prometheus:
    """One that runs. `began` and `ended` are what ranges go from and to, and `ended` is when instants are."""

    url: str
    began: float
    ended: float = math.inf

    def instant(self, query: str) -> list[Found]:
        """Raises AssertionError with Prometheus' own sentence when it refuses the query."""
        found = self._ask("query", query=query, time=str(min(self.ended, time.time())))
        if found["resultType"] == "scalar":
            found = {"result": [{"metric": {}, "value": found["result"]}]}
        return [_found(series["metric"], [series["value"]]) for series in found["result"]]

    def range(self, query: str) -> list[Found]:
        """A value a second, the last of them now, or when it ended."""
        ended = min(self.ended, time.time())
        start = ended - int(ended - self.began)
        found = self._ask("query_range", query=query, start=str(start), end=str(ended), step="1")
        return [_found(series["metric"], series["values"]) for series in found["result"]]

    def series(self, selector: str) -> list[dict[str, str]]:
        """Label sets that there were between `began` and `ended`; what a variable of a dashboard asks for."""
        window = {"start": str(self.began), "end": str(min(self.ended, time.time()))}
        return list(self._ask("series", **{"match[]": selector}, **window))

    def troubles(self) -> list[str]:
        """Of rules that could not be evaluated."""
        groups = self._ask("rules")["groups"]
        return [f"{rule['name']}: {rule['lastError']}" for group in groups for rule in group["rules"]
                if rule["health"] != "ok"]  # fmt: skip

    def _ask(self, what: str, **parameters: str) -> Any:
        answer = httpx.get(f"{self.url}/api/v1/{what}", params=parameters, timeout=20).json()
        assert answer["status"] == "success", f"{parameters}: {answer.get('error')}"
        return answer["data"]


def _found(labels: dict[str, str], values: Sequence[tuple[float, str]]) -> Found:
    return Found(labels, tuple(float(value) for _, value in values if not math.isnan(float(value))))


@contextmanager
def scraping(folder: Path, jobs: Mapping[str, int], rules: Mapping[str, str]) -> Iterator[Prometheus]:
    """Job -> port on loopback; rule file -> content. Runs until the block ends."""
    folder.mkdir()
    for name, text in rules.items():
        (folder / name).write_text(text)
    config = {
        "global": {"scrape_interval": INTERVAL, "scrape_timeout": INTERVAL, "evaluation_interval": INTERVAL},
        "rule_files": [str(folder / name) for name in rules],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]} for job, port in jobs.items()
        ],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    port, log = free_port(), folder / "log"
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb",
               f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        found = Prometheus(f"http://127.0.0.1:{port}", time.time())
        until(lambda: answers(found.url) or process.poll() is not None, "Prometheus")
        assert process.poll() is None, log.read_text()
        yield found
    finally:
        process.terminate()
        process.wait(30)


def free_port() -> int:
    """Of loopback; whoever takes it first has it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def answers(url: str) -> bool:
    """Whether a Prometheus or an Alertmanager is ready."""
    try:
        return httpx.get(f"{url}/-/ready").status_code == 200
    except httpx.TransportError:
        return False
