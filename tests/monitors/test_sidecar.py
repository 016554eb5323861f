import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from monitors.labels import Label
from monitors.peers import HEADER, prove
from serving import config, record
from serving.config import Config
from serving.metrics import Page
from serving.record import Record
from serving.repository import Repository
from serving.ring import RingWriter
from tests.monitors.traffic import FEATURES, START, manifest, profile, stream
from tests.monitors.traffic import record as one_record

DAY = 86400.0


class Process:
    """A real sidecar over a real repository and real rings; of several nodes where `registry` names another folder."""

    def __init__(self, folder: Path, registry: Path | None = None, database: str = "", **monitors: Any) -> None:
        settings = {
            "event_time": "request", "slot_s": 3600, "block_s": 6 * 3600, "block_rows": 50, "lateness_s": 6 * 3600,
            "label_horizon_s": 30 * DAY, "false_pages_per_90_days": 18, "poll_s": 0.02,
        }  # fmt: skip
        self.config: Config = config.parse(
            {
                "data_dir": str(folder), "metrics": {"node_port": 0}, "monitors": settings | monitors,
                "channel": {"secret": "what all nodes of this test's cluster know"},
                "registry": {
                    "database": database or f"sqlite:///{registry or folder}/registry.db",
                    "artifacts": ((registry or folder) / "artifacts").as_uri(),
                },
            }
        )  # fmt: skip
        repository = Repository.of(self.config)
        for version in ("1", "2"):
            files = {"model.onnx": version.encode(), "reference.json": profile().encode()}
            repository.publish(manifest(version), files)
        folder.mkdir(exist_ok=True)
        self._file = folder / "config.json"
        self._file.write_text(config.dump(self.config))
        self._port = self.config.run_dir / "monitors.port"
        self.starts = 0

    def start(self) -> None:
        self._port.unlink(missing_ok=True)
        command = [sys.executable, "-m", "monitors.sidecar", str(self._file), "--node", "n"]
        self._child = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(Path.cwd())})
        self.starts += 1
        wait(lambda: self._port.exists() and self._port.read_text() != "")

    def end(self, number: signal.Signals) -> int:
        self._child.send_signal(number)
        return self._child.wait(30)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self._port.read_text()}{path}", timeout=10)

    def verdicts(self) -> dict[str, Any]:
        found: dict[str, Any] = self.get("/verdicts").json()
        return found

    def rows(self) -> int:
        return sum(version["rows"] for model in self.verdicts()["models"].values() for version in model.values())

    def counted(self) -> float:
        """Rows that this node counted, judged or not."""
        lines = self.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("gaugeway_monitor_rows_total{"))

    def done(self, records: list[Record]) -> bool:
        """Whether the rows of all records are counted and judged."""
        return self.rows() == sum(found.rows for found in records) and bool(self.verdicts()["settled"])

    def peers_address(self) -> str:
        """Where the other nodes reach it."""
        with sqlite3.connect(self.config.database_url.removeprefix("sqlite:///")) as connection:
            (address,) = connection.execute("SELECT address FROM sidecars").fetchone()
        connection.close()
        return str(address)

    def as_peer(self, path: str, body: bytes) -> httpx.Response:
        proof = prove(self.config.channel.secret.encode(), path, body, time.time())
        return httpx.post(f"http://{self.peers_address()}{path}", content=body, headers={HEADER: proof})

    def post(self, content: bytes) -> tuple[int, Any]:
        """Status and document. Raises OSError or HTTPException when the sidecar is away."""
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(10)
            stream.connect(str(self.config.socket_dir / "monitors.sock"))
            connection = HTTPConnection("sidecar")
            connection.sock = stream
            connection.request("POST", "/labels", content)
            response = connection.getresponse()
            return response.status, msgspec.json.decode(response.read())

    def label(self, labels: list[Label]) -> dict[str, Any]:
        """Send until it is answered, as a client does who wants its labels counted."""
        while True:
            try:
                status, answer = self.post(msgspec.json.encode([label._asdict() for label in labels]))
                if status == 200:
                    found: dict[str, Any] = answer
                    return found
            except (OSError, HTTPException):
                time.sleep(0.01)

    def ring(self, name: str = "worker-0", capacity_bytes: int = 2**24) -> RingWriter:
        return RingWriter(self.config.run_dir / "rings" / f"{name}.ring", capacity_bytes)


def wait(until: Callable[[], bool], timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not until():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    subject = Process(tmp_path)
    subject.start()
    yield subject
    subject.end(signal.SIGKILL)


def append(rings: list[RingWriter], records: list[Record], pause_s: float = 0.0) -> None:
    """In turn to each of the rings."""
    for k, found in enumerate(records):
        assert rings[k % len(rings)].append(record.encode(found), found.rows)
        time.sleep(pause_s)


def observe(folder: Path, kills: int, records: list[Record], labels: list[Label]) -> tuple[dict[str, Any], int]:
    """Verdicts on what goes into two rings and a client labels, while the sidecar dies `kills` times."""
    process = Process(folder)
    process.start()
    try:
        return _observe(process, kills, records, labels), process.starts
    finally:
        process.end(signal.SIGKILL)


def _observe(process: Process, kills: int, records: list[Record], labels: list[Label]) -> dict[str, Any]:
    rings = [process.ring("worker-0"), process.ring("worker-1")]
    writing = threading.Thread(target=append, args=(rings, records, 0.001))
    parts = [labels[k : k + 50] for k in range(0, len(labels), 50)]
    labelling = threading.Thread(target=lambda: [process.label(part) for part in parts])
    for thread in (writing, labelling):
        thread.start()
    rng = random.Random(5)
    for _ in range(kills):
        time.sleep(rng.uniform(0.05, 0.6))
        assert process.end(signal.SIGKILL) == -signal.SIGKILL
        process.start()
    for thread in (writing, labelling):
        thread.join()
    last = one_record(["last"], np.zeros((1, FEATURES), np.float32), [START + 90 * DAY])
    append(rings, [last])
    wait(lambda: process.done([*records, last]))
    found = process.verdicts()
    assert process.end(signal.SIGTERM) == 0
    return found | {"lag_s": 0.0}


def test_a_sidecar_killed_at_any_time_ends_with_the_numbers_of_one_that_was_not(tmp_path: Path) -> None:
    records, labels = stream(1500, spacing_s=200, shift=1.0)
    straight, _ = observe(tmp_path / "straight", 0, records, labels)
    broken, starts = observe(tmp_path / "broken", 3, records, labels)
    assert broken == straight
    assert starts == 4
    version = straight["models"]["m"]["1"]
    assert version["state"] == "alarm"
    assert version["drift"]["_all"]["blocks"] > 5
    assert version["risk"]["blocks"] > 5
    assert version["late_rows"] == straight["lost_rows"] == 0
    assert sum(v["labels"]["joined"] for v in straight["models"]["m"].values()) == len(labels)


def test_labels_are_answered_by_what_became_of_them(process: Process) -> None:
    records, _ = stream(4)
    append([process.ring()], records)
    wait(lambda: process.rows() == 7)
    body = b"""[{"model": "m", "id": "r1", "row": 1, "label": 1, "time": "2013-02-05T00:00:00Z"},
        {"model": "m", "id": "later", "label": true},
        {"model": "m", "id": "r1", "label": 7, "time": 1360000900},
        {"model": "m", "id": "r1", "label": 0, "time": "2013-02-05T00:00:00"},
        {"model": "../m", "id": "r1", "label": 0}, {"id": "r1"}, 17]"""
    status, answer = process.post(body)
    assert status == 200
    assert (answer["joined"], answer["parked"], answer["unknown"]) == (1, 1, 0)
    assert [refusal["index"] for refusal in answer["refused"]] == [2, 3, 4, 5, 6]
    assert answer["refused"][0]["reason"] == "label of a classification must be 0 or 1, got 7"
    assert process.post(b'[{"model": "m"')[0] == 400
    assert process.post(body) == (200, answer | {"doubled": 2})  # sent twice, joined once
    joined = [v["labels"]["joined"] for v in process.verdicts()["models"]["m"].values()]
    assert sum(joined) == 1


def test_labels_are_not_taken_over_tcp(process: Process) -> None:
    port = (process.config.run_dir / "monitors.port").read_text()
    assert httpx.post(f"http://127.0.0.1:{port}/labels", content=b"[]").status_code == 404


def test_metrics_hold_the_workers_and_the_monitors_numbers_and_what_was_lost(process: Process) -> None:
    process.end(signal.SIGKILL)
    records, _ = stream(900)
    ring = process.ring(capacity_bytes=2**16)
    append([ring], records)
    ring.append(b"not a record", 5)
    page = Page(process.config.run_dir / "metrics" / "worker-0.page")
    page.counter("retries_total", model="m", version="1").add(3)
    process.start()
    wait(lambda: process.verdicts()["dropped_rows"]["undecodable"] == 5)
    wait(lambda: "gaugeway_monitor_state{" in process.get("/metrics").text)  # judged after it is counted
    samples = {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for family in text_string_to_metric_families(process.get("/metrics").text)
        for s in family.samples
    }
    version = (("model", "m"), ("version", "1"))
    lost = samples["gaugeway_monitor_dropped_total", (("reason", "lost"),)]
    assert lost == sum(found.rows for found in records) - process.rows() > 0
    assert samples["gaugeway_monitor_dropped_total", (("reason", "undecodable"),)] == 5
    assert samples["gaugeway_retries_total", version] == 3
    state = process.verdicts()["models"]["m"]["1"]["state"]
    for name in ("ok", "alarm", "no_data", "stale", "unfit"):
        at = (version[0], ("state", name), version[1])
        assert samples["gaugeway_monitor_state", at] == (name == state)
    assert samples["gaugeway_monitor_cpu_seconds_total", ()] > 0
    page.close()


def test_what_was_written_before_sigterm_is_counted(process: Process) -> None:
    records, _ = stream(300)
    wait(lambda: process.get("/health").status_code == 200)
    append([process.ring()], records)
    assert process.end(signal.SIGTERM) == 0
    process.start()
    assert process.rows() == sum(found.rows for found in records)
