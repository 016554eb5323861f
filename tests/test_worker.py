"""The worker as a process, over replicas that are processes: it follows files, drains on SIGTERM, loses nothing."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from serving.config import Config, Model, dump, parse
from serving.handover import listen
from serving.planning import Plan, table
from serving.record import decode
from serving.ring import RingReader
from serving.routing import Table
from tests.replicas import ReplicaProcess, manifest

OF = manifest()


class Worker:
    """``python -m serving.worker``, its replicas, and a client of it."""

    def __init__(self, folder: Path, **sections: dict[str, Any]) -> None:
        with listen("127.0.0.1", 0) as probe:
            port = probe.getsockname()[1]
        self.config: Config = parse({"data_dir": str(folder), "gateway": {"port": port}, **sections})
        self.config.run_dir.mkdir()
        path = self.config.run_dir / "config.json"
        path.write_text(dump(self.config))
        self.log = folder / "worker.log"
        self.replicas: list[ReplicaProcess] = []
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([sys.executable, "-m", "serving.worker", str(path)], stderr=log)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20)

    def replica(self, name: str, run_s: float = 0.0) -> ReplicaProcess:
        self.replicas.append(ReplicaProcess(self.config.socket_dir, name, OF, run_s=run_s))
        self.replicas[-1].wait_ready()
        return self.replicas[-1]

    def route(self) -> None:
        plan = Plan({("m", "1"): Model().version("1")}, {"m": {"1": 1.0}}, {"m": Model()})
        self.write(msgspec.json.encode(table(plan, {("m", "1"): OF}, {("m", "1")}, Table())))

    def write(self, text: bytes) -> None:
        staged = self.config.run_dir / "table.new"
        staged.write_bytes(text)
        staged.rename(self.config.run_dir / "table.json")

    def infer(self, x: float) -> httpx.Response:
        sent = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [x]}]}
        return self.client.post("/v2/models/m/infer", json=sent)

    @property
    def report(self) -> dict[str, Any]:
        path = self.config.run_dir / "workers" / "worker-0.json"
        found: dict[str, Any] = msgspec.json.decode(path.read_bytes()) if path.exists() else {"links": []}
        return found

    def ready(self) -> bool:
        try:
            return self.client.get("/v2/models/m/ready").status_code == 200
        except httpx.TransportError:
            return False

    def close(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.wait()
        for replica in self.replicas:
            replica.kill()


def wait(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come"
        time.sleep(0.01)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    worker = Worker(tmp_path)
    yield worker
    worker.close()


def _value(response: httpx.Response) -> float:
    assert response.status_code == 200, response.text
    return float(response.json()["outputs"][0]["data"][0])


def test_sigterm_answers_what_is_open_and_ends_with_0(worker: Worker) -> None:
    slow = worker.replica("slow", run_s=0.5)
    worker.route()
    wait(worker.ready)
    answers: list[httpx.Response] = []
    client = threading.Thread(target=lambda: answers.append(worker.infer(21)))
    client.start()
    wait(lambda: slow.computed)
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(10) == 0
    client.join()
    assert _value(answers[0]) == 42
    with pytest.raises(httpx.TransportError):
        worker.infer(1)


def test_labels_may_be_longer_than_any_other_body(worker: Worker) -> None:
    """Blank lines, which are no labels: 66 MiB, where 64 are the bound."""
    worker.route()
    wait(lambda: worker.report.get("generation") and worker.report["listening"])
    blank = (b" " * (2**20 - 1) + b"\n" for _ in range(66))
    kind = {"content-type": "application/x-ndjson"}
    answer = worker.client.post("/v1/models/m/labels", content=blank, headers=kind)
    assert answer.status_code == 200 and answer.json()["refused_total"] == 0


def test_garbage_in_the_table_stops_nothing_and_is_said_once(worker: Worker) -> None:
    first = worker.replica("first")
    worker.route()
    wait(worker.ready)
    worker.write(b"garbage")
    wait(lambda: b"is no routing table" in worker.log.read_bytes())
    worker.replica("second")  # linked although the table cannot be read
    wait(lambda: [link["state"] for link in worker.report["links"]] == ["ready", "ready"])
    first.kill()
    wait(lambda: len(worker.report["links"]) == 1)
    assert [_value(worker.infer(k)) for k in range(5)] == [0, 2, 4, 6, 8]
    assert worker.log.read_bytes().count(b"is no routing table") == 1
    assert worker.report["generation"] == 1


def test_replicas_come_and_go(worker: Worker) -> None:
    worker.route()
    one = worker.replica("one")
    wait(worker.ready)
    worker.replica("two")
    wait(lambda: len(worker.report["links"]) == 2)
    one.signal(signal.SIGTERM)  # it withdraws itself and drains
    wait(lambda: [link["replica"] for link in worker.report["links"]] == ["two"])
    assert _value(worker.infer(3)) == 6
    worker.replicas[1].kill()
    wait(lambda: not worker.ready())
    start = time.monotonic()
    assert worker.infer(3).status_code == 503 and time.monotonic() - start < 0.5
    worker.replicas[1].announcement.unlink()
    worker.replica("three")
    wait(worker.ready)
    assert _value(worker.infer(4)) == 8
    assert os.path.exists(worker.config.run_dir / "metrics" / "worker-0.page")


def test_a_worker_killed_goes_on_counting_as_its_successor(worker: Worker, tmp_path: Path) -> None:
    worker.replica("one")
    worker.route()
    wait(worker.ready)
    worker.infer(1)
    ring = worker.config.run_dir / "rings" / "worker-0.ring"
    wait(lambda: RingReader(ring).read())  # written after the answer
    worker.process.kill()
    worker.process.wait()
    path = str(worker.config.run_dir / "config.json")
    worker.process = subprocess.Popen([sys.executable, "-m", "serving.worker", path])
    wait(worker.ready)
    assert _value(worker.infer(1)) == 2
    wait(lambda: len(RingReader(ring).read()) == 2)
    frames = RingReader(ring).read()
    assert [frame.number for frame in frames] == [0, 1]
    assert [decode(frame.payload).statuses for frame in frames] == [[200], [200]]
