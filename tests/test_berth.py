"""Nodes of one machine keep out of each other's way, and a process ends some time after its node."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.berth import claim, held, holder
from serving.config import Config, dump, parse

WATCHES = """
import sys, threading
from serving.berth import end_with_node
from serving.config import restore
end_with_node(restore(sys.argv[1]), lambda lost: print(lost, flush=True))
print("watching", flush=True)
threading.Event().wait(30)
"""


@pytest.fixture
def raylets() -> "Iterator[list[subprocess.Popen[bytes]]]":
    """Three processes, to be killed as raylets are."""
    processes = [subprocess.Popen(["sleep", "60"]) for _ in range(3)]
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def _config(folder: Path) -> Config:
    return parse({"data_dir": str(folder), "ray": {"orphan_s": 1.0}})


def test_each_node_has_its_own_folders_and_ports(tmp_path: Path, raylets: "list[subprocess.Popen[bytes]]") -> None:
    config = _config(tmp_path)
    mine = [claim(config, f"node-{n}", raylet.pid) for n, raylet in enumerate(raylets)]
    assert [one.berth for one in mine] == [0, 1, 2]
    assert mine[0] == config, "one node alone sees nothing of this"
    assert len({one.run_dir for one in mine}) == len({one.socket_dir for one in mine}) == 3
    assert len({one.metrics.node_port for one in mine}) == 3 and {one.gateway.port for one in mine} == {8080}
    again = [claim(config, f"node-{n}", raylet.pid) for n, raylet in enumerate(raylets)]
    assert again == mine, "whoever of a node asks, and when, gets the same"
    assert [berth.berth for berth in held(config)] == [0, 1, 2]


def test_a_berth_is_free_when_its_raylet_has_ended(tmp_path: Path, raylets: "list[subprocess.Popen[bytes]]") -> None:
    config = _config(tmp_path)
    for n, raylet in enumerate(raylets[:2]):
        claim(config, f"node-{n}", raylet.pid)
    raylets[0].kill()
    raylets[0].wait()
    assert claim(config, "node-0", raylets[0].pid).berth == 0, "its own processes still find it"
    assert claim(config, "new", raylets[2].pid).berth == 0
    found = holder(config)
    assert found is not None and found.node == "new" and found.alive


def test_nodes_that_start_at_the_same_moment_do_not_meet(tmp_path: Path) -> None:
    config, claimed = _config(tmp_path), list[int]()
    raylet = subprocess.Popen(["sleep", "60"])
    threads = [
        threading.Thread(target=lambda n=n: claimed.append(claim(config, f"node-{n}", raylet.pid).berth))
        for n in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    raylet.kill()
    raylet.wait()
    assert sorted(claimed) == list(range(12))


def test_a_process_ends_some_time_after_its_node_unless_another_takes_its_place(
    tmp_path: Path, raylets: "list[subprocess.Popen[bytes]]"
) -> None:
    config = claim(_config(tmp_path), "node", raylets[0].pid)
    with subprocess.Popen([sys.executable, "-c", WATCHES, dump(config)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"watching\n"
        time.sleep(1.2)  # longer than `orphan_s`
        assert process.poll() is None
        raylets[0].kill()
        raylets[0].wait()
        assert process.stdout.readline() == b"True\n"
        claim(config, "next", raylets[1].pid)
        assert process.stdout.readline() == b"False\n"
        time.sleep(1.2)
        assert process.poll() is None, "the node that followed goes on with it"
        ended = time.monotonic()
        raylets[1].kill()
        raylets[1].wait()
        assert process.wait(10) == -15
        assert 0.5 < time.monotonic() - ended < 5
