"""A Ray cluster of several nodes on this machine: each a raylet of its own, to be killed or added.

`ray.cluster_utils.Cluster` runs in a process of its own (``python -m tests.faults.cluster FOLDER``), which does as it
is told by its standard input: parts of Ray's environment are read when it is imported.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil

NODE: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 80 * 2**20, "include_dashboard": False}
ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    # A lost node is noticed within two seconds rather than fifteen; docs/nodes.md recommends these.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


@dataclass
class Cluster:
    """The first node is the head, which has this machine's address, so that who joins from here belongs to it.

    Every call returns when it is done.
    """

    process: "subprocess.Popen[str]"
    address: str = ""
    raylets: list[int] = field(default_factory=list)

    def add(self) -> None:
        self.raylets.append(int(self._do("add")["raylet"]))

    def kill_raylet(self, number: int) -> None:
        """SIGKILL."""
        self._do("kill", number)

    def kill_head(self) -> None:
        """The control store and the raylet beside it, as when the machine is lost."""
        self._do("behead")

    def _do(self, what: str, number: int = 0) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps([what, number]), file=self.process.stdin, flush=True)
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        self.address = str(found["address"])
        return found


@contextmanager
def cluster(count: int) -> Iterator[Cluster]:
    """Of `count` nodes; who joins it needs ENVIRONMENT, which is this process's meanwhile."""
    folder = tempfile.mkdtemp(prefix="gw-ray-")  # short: Ray keeps unix sockets in it
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.cluster", folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        nodes = Cluster(process)
        for _ in range(count):
            nodes.add()
        yield nodes
    finally:
        family = psutil.Process(process.pid).children(recursive=True)
        process.communicate(timeout=60)
        for left in psutil.wait_procs(family, timeout=3)[1]:  # Ray's agents take their time
            left.kill()
        shutil.rmtree(folder, ignore_errors=True)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _main(folder: str) -> None:
    from ray.cluster_utils import Cluster as Nodes

    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Ray prints
    made, nodes = Nodes(shutdown_at_exit=True), list[Any]()

    def kill(number: int, name: str) -> None:
        process = nodes[number].all_processes[name][0].process
        process.kill()
        process.wait()  # a zombie would keep its workers

    for line in sys.stdin:
        what, number = json.loads(line)
        if what == "add":
            own: dict[str, Any] = {"node_ip_address": f"127.0.0.{len(nodes) + 1}"} if nodes else {"temp_dir": folder}
            nodes.append(made.add_node(**NODE, **own))
        elif what == "kill":
            kill(number, "raylet")
        else:
            kill(0, "gcs_server")
            kill(0, "raylet")
        raylet = nodes[-1].all_processes["raylet"][0].process.pid
        print(json.dumps({"address": nodes[0].gcs_address, "raylet": raylet}), file=out, flush=True)
    for node in nodes:
        node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)


if __name__ == "__main__":
    _main(sys.argv[1])
