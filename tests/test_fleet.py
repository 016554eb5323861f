"""Workers as processes, over a replica that is one: replaced under load, adopted, restarted; nobody fails."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from serving.config import Config, dump, parse
from serving.fleet import Fleet
from serving.handover import listen
from serving.routing import ModelEntry, Policy, Table, VersionEntry, initial
from tests.faults.load import storm
from tests.replicas import ReplicaProcess, manifest

OF = manifest()


class Door:
    """A fleet with a replica behind it. `pass_time` is what the node's actor does ten times a second."""

    def __init__(self, folder: Path, workers: int) -> None:
        with listen("127.0.0.1", 0) as probe:
            port = probe.getsockname()[1]
        self.config: Config = parse({"data_dir": str(folder / "data"), "gateway": {"port": port, "workers": workers},
                                     "monitors": {"ring_bytes": 2**20}})  # fmt: skip
        self.config.run_dir.mkdir(parents=True)
        self.url = f"http://127.0.0.1:{port}"
        self.path = self.config.run_dir / "config.json"
        self.path.write_text(dump(self.config))
        self.replica = ReplicaProcess(self.config.socket_dir, "only", OF)
        self.replica.wait_ready()
        table = Table(1, {"m": ModelEntry(Policy("m", initial({"1": 1.0}), ("1",)), {"1": VersionEntry(OF)})})
        (self.config.run_dir / "table.json").write_bytes(msgspec.json.encode(table))
        self.fleet, self._before = Fleet(self.config, self.path), list[Fleet]()
        self.fleet.start()

    def pass_time(self, until: Callable[[], object], timeout_s: float = 60.0) -> None:
        end = time.monotonic() + timeout_s
        while not until():
            assert time.monotonic() < end, f"in vain: {self.fleet.status()}"
            self.fleet.watch()
            time.sleep(0.02)

    def roll(self, revision: int) -> None:
        self.fleet.roll(revision)
        self.pass_time(lambda: not self.fleet.rolling)

    @property
    def ready(self) -> bool:
        """Every worker listens, and the fleet has a copy of its socket."""
        listening = [report["listening"] for report in self.fleet.reports()]
        return listening == [True] * self.config.gateway.workers and all(place.door for place in self.fleet._places)

    @property
    def workers(self) -> list[dict[str, Any]]:
        return self.fleet.status()

    def succeed(self, revision: int) -> None:
        """Another fleet takes over, as that of a node's actor which was started again."""
        for place in self.fleet._places:
            self.fleet._close(place)
        self._before.append(self.fleet)
        self.fleet = Fleet(self.config, self.path, revision)
        self.fleet.start()

    def close(self) -> None:
        self.fleet.stop()
        for fleet in self._before:  # the processes are their children
            fleet.stop()
        self.replica.kill()


@pytest.fixture
def door(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Door]:
    door = Door(tmp_path, getattr(request, "param", 1))
    door.pass_time(lambda: door.ready)
    yield door
    door.close()


@pytest.mark.parametrize("door", [2], indirect=True)
def test_every_worker_is_replaced_and_no_request_fails(door: Door, tmp_path: Path) -> None:
    before = {worker["pid"] for worker in door.workers}
    with storm(door.url, "m", tmp_path, connections=16) as counted:
        for revision in (1, 2):
            door.roll(revision)
            assert [worker["revision"] for worker in door.workers] == [revision] * 2
    assert counted.requests > 100 and (counted.refused, counted.broken) == (0, 0)
    assert not before & {worker["pid"] for worker in door.workers}
    slots = [worker["name"] for worker in door.workers]
    assert len(set(slots)) == 2 and set(slots) < {"worker-0", "worker-1", "worker-2"}
    assert {path.name for path in (door.config.run_dir / "workers").iterdir()} == {f"{name}.json" for name in slots}


def test_who_comes_while_a_killed_worker_starts_again_is_answered(door: Door) -> None:
    (worker,) = door.workers
    os.kill(worker["pid"], signal.SIGKILL)
    with httpx.Client(base_url=door.url, timeout=20) as client:
        asked = client.build_request("GET", "/v2/health/live")
        door.fleet.watch()
        assert client.send(asked).status_code == 200
    assert door.workers[0]["pid"] != worker["pid"] and door.workers[0]["restarts"] == 1


def test_a_successor_goes_on_with_the_workers_and_their_sockets(door: Door, tmp_path: Path) -> None:
    before = [worker["pid"] for worker in door.workers]
    door.roll(3)
    after = [worker["pid"] for worker in door.workers]
    assert after != before
    door.succeed(3)
    door.pass_time(lambda: door.ready)
    assert [(worker["pid"], worker["revision"]) for worker in door.workers] == [(after[0], 3)]
    with storm(door.url, "m", tmp_path, connections=4) as counted:
        door.roll(4)
    assert counted.requests > 10 and (counted.refused, counted.broken) == (0, 0)


def test_a_successor_ends_a_replacement_that_was_begun(door: Door) -> None:
    door.fleet.roll(1)
    door.pass_time(lambda: len(door.workers) == 2)
    (_, heir) = door.workers
    door.succeed(1)
    door.pass_time(lambda: not door.fleet.rolling and door.ready)
    assert [worker["pid"] for worker in door.workers] == [heir["pid"]]


def test_workers_that_cannot_start_replace_nobody(door: Door) -> None:
    (before,) = door.workers
    good = door.path.read_text()
    door.path.write_text("{")
    door.roll(1)
    assert "did not start" in door.fleet.problem and not door.fleet.renewed
    assert [(worker["pid"], worker["state"]) for worker in door.workers] == [(before["pid"], "running")]
    assert httpx.get(f"{door.url}/v2/health/ready", timeout=5).status_code == 200
    door.path.write_text(good)
    door.roll(2)
    assert door.fleet.problem == "" and door.workers[0]["pid"] != before["pid"]


def test_nobody_waits_at_the_door_of_a_worker_that_fails_again_and_again(door: Door) -> None:
    door.path.write_text("{")
    os.kill(door.workers[0]["pid"], signal.SIGKILL)
    door.pass_time(lambda: door.fleet._places[0].worker.child.failing and door.fleet._places[0].door is None)
    with pytest.raises(httpx.ConnectError):
        httpx.get(door.url, timeout=5)
    door.path.write_text(dump(door.config))
    door.pass_time(lambda: door.ready)
    assert httpx.get(f"{door.url}/v2/health/ready", timeout=5).status_code == 200
