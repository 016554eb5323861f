"""A network that goes dark between two nodes: no reset, no end of a connection, only silence.

A worker here, one replica beside it, and one in a network namespace of its own, behind a cable that is pulled.
"""

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from serving.discovery import announced, tell_of_others
from tests.replicas import SECRET, ReplicaProcess
from tests.test_worker import OF, Worker, wait

HERE, THERE = "198.18.7.1", "198.18.7.2"

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root and the command `ip`"
)


class Cable:
    """From this network namespace to another one; pulled, packets of either end are dropped without a word."""

    def __init__(self) -> None:
        self.namespace, self._near, self._far = (f"gw-{name}-{os.getpid()}" for name in ("ns", "a", "b"))
        for command in (
            f"netns add {self.namespace}",
            f"link add {self._near} type veth peer name {self._far} netns {self.namespace}",
            f"addr add {HERE}/30 dev {self._near}",
            f"link set {self._near} up",
            f"-n {self.namespace} addr add {THERE}/30 dev {self._far}",
            f"-n {self.namespace} link set lo up",
        ):
            _ip(command)
        self.plug()

    def plug(self) -> None:
        _ip(f"-n {self.namespace} link set {self._far} up")

    def pull(self) -> None:
        _ip(f"-n {self.namespace} link set {self._far} down")

    def close(self) -> None:
        _ip(f"netns del {self.namespace}")


@dataclass
class Clients:
    """Three that ask without a pause until `stop`; each answer's value and how long it took."""

    worker: Worker
    slowest_s: float = 0.0
    answered: int = 0
    wrong: list[object] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)

    def run(self) -> list[threading.Thread]:
        threads = [threading.Thread(target=self._ask, args=(n * 1_000_000,)) for n in range(1, 4)]
        for thread in threads:
            thread.start()
        return threads

    def stop(self, threads: list[threading.Thread]) -> None:
        self._stopping.set()
        for thread in threads:
            thread.join(30)

    def _ask(self, k: int) -> None:
        while not self._stopping.is_set():
            k, start = k + 1, time.monotonic()
            response = self.worker.infer(k)
            self.slowest_s = max(self.slowest_s, time.monotonic() - start)
            if response.status_code != 200 or response.json()["outputs"][0]["data"] != [2.0 * k]:
                self.wrong.append((k, response.status_code, response.text))
            self.answered += 1


@pytest.fixture
def cable() -> Iterator[Cable]:
    cable = Cable()
    yield cable
    cable.close()


def test_a_partition_costs_no_request_and_heals(tmp_path: Path, cable: Cable) -> None:
    (tmp_path / "here").mkdir()
    worker = Worker(tmp_path / "here", channel={"secret": SECRET})
    far = ReplicaProcess(
        tmp_path / "there", "far", OF, run_s=0.005, host=THERE, within=["ip", "netns", "exec", cable.namespace]
    )
    worker.replicas.append(far)
    try:
        worker.replica("near", run_s=0.005)
        worker.route()
        far.wait_ready()
        tell_of_others(worker.config.socket_dir, list(announced(tmp_path / "there").values()))
        wait(lambda: _states(worker) == {"near": "ready", "far": "ready"})
        clients = Clients(worker)
        threads = clients.run()
        wait(lambda: len(far.computed) > 20)
        cable.pull()
        pulled, seen = time.monotonic(), dict[str, float]()
        while "far" in _states(worker):
            seen.setdefault(_states(worker).get("far", "lost"), time.monotonic() - pulled)
            assert time.monotonic() - pulled < 10
            time.sleep(0.01)
        seen["lost"] = time.monotonic() - pulled
        computed, answered = len(far.computed), clients.answered
        wait(lambda: clients.answered > answered + 100)
        assert len(far.computed) == computed
        cable.plug()
        wait(lambda: _states(worker).get("far") == "ready", 15)
        wait(lambda: len(far.computed) > computed + 20)
        clients.stop(threads)
        assert clients.wrong == []
        assert 0.7 < seen["suspect"] < 1.8 and 2.7 < seen["lost"] < 4.2, seen
        assert clients.slowest_s < 4.5
    finally:
        worker.close()


def _states(worker: Worker) -> dict[str, str]:
    return {link["replica"]: link["state"] for link in worker.report["links"]}


def _ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True)
