"""A gateway whose capacity is known: two replicas that sleep `RUN_S` for every request, whatever else the machine does.

Of ONNX Runtime no model sleeps, and two that compute would need both cores of a small machine. So a whole `gaugeway
up` serves y = 2x, and its replica makes room for two real engines that answer the same after a sleep.
"""

import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from loadtests import vitals
from serving import config
from serving.manifest import Manifest
from serving.repository import Repository
from tests import models
from tests.gateway import Gateway, running, until
from tests.replicas import ReplicaProcess

MODEL, FACTOR = "exact", 2.0
REPLICAS, RUN_S = 2, 0.02
CAPACITY_PER_S = REPLICAS / RUN_S
ONE_ROW = f"""
[models.{MODEL}.versions."1"]
max_batch_rows = 1
"""


@dataclass
class Site:
    """The gateway and its replicas."""

    gateway: Gateway
    replicas: list[ReplicaProcess]

    @property
    def computed(self) -> int:
        """Runs so far, of all replicas."""
        return sum(len(replica.computed) for replica in self.replicas)

    def answered(self) -> "Counter[str]":
        """Requests of the model by the status that they got, by the metrics."""
        found: Counter[str] = Counter()
        for labels, value in self.series("requests_total"):  # of the version, and of those that never got to one
            found[labels["code"]] += int(value)
        return found

    def series(self, name: str) -> list[tuple[dict[str, str], float]]:
        """Labels and values of a metric of the model."""
        lines = re.findall(rf"^gaugeway_{name}\{{(.*)\}} (\S+)", self.gateway.metrics(), re.M)
        found = [(dict(re.findall(r'(\w+)="(.*?)"', labels)), float(value)) for labels, value in lines]
        return [(labels, value) for labels, value in found if labels["model"] == MODEL]

    def metric(self, name: str) -> float:
        return sum(value for _, value in self.series(name))


@contextmanager
def exact(folder: Path, gateway: str = "", extra: str = "") -> Iterator[Site]:
    """`gateway` are more keys of the section, `extra` more sections."""
    with running(folder, {MODEL: models.linear((FACTOR,))}, extra=ONE_ROW + extra, gateway=gateway) as up:
        settings = config.load(up.config, environ={})
        manifest = Repository.of(settings).manifest(MODEL, "1")
        with ExitStack() as stack:
            replicas = [_sleeper(stack, settings.socket_dir, f"sleeper-{n}", manifest) for n in range(REPLICAS)]
            for announcement in (settings.socket_dir / "replicas").glob(f"{MODEL}-1-*.json"):
                announcement.unlink()
            until(lambda: _names(up) == {replica.name for replica in replicas}, "the replicas that sleep")
            yield Site(up, replicas)


def _sleeper(stack: ExitStack, folder: Path, name: str, manifest: Manifest) -> ReplicaProcess:
    replica = ReplicaProcess(folder, name, manifest, run_s=RUN_S, max_batch_rows=1)
    stack.callback(replica.kill)
    replica.wait_ready()
    return replica


def _names(gateway: Gateway) -> set[str]:
    return {one["replica"] for one in gateway.replicas(MODEL, "1")}


@dataclass
class Watch:
    """Health, the queue and memory of a site, looked at every tenth of a second."""

    site: Site
    health_s: list[float] = field(default_factory=list)  # how long the health routes took
    unhealthy: list[int] = field(default_factory=list)  # statuses other than 200
    inflight: list[float] = field(default_factory=list)
    limit_rows: list[float] = field(default_factory=list)
    worker_bytes: list[int] = field(default_factory=list)  # of its own, without what is mapped from files
    _stopping: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Iterator["Watch"]:
        thread = threading.Thread(target=self._look)
        thread.start()
        try:
            yield self
        finally:
            self._stopping.set()
            thread.join(30)

    def _look(self) -> None:
        worker = self.site.gateway.process_id("worker-0")
        with httpx.Client(base_url=self.site.gateway.url, timeout=10) as client:
            while not self._stopping.wait(0.1):
                for path in ("/v2/health/live", "/v2/health/ready", f"/v2/models/{MODEL}/ready"):
                    start = time.monotonic()
                    status = client.get(path).status_code
                    self.health_s.append(time.monotonic() - start)
                    self.unhealthy += [status] * (status != 200)
                self.inflight.append(self.site.metric("inflight_requests"))
                self.limit_rows.append(self.site.metric("admission_limit_rows"))
                self.worker_bytes.append(vitals.read(worker, 0.0).own_bytes)
