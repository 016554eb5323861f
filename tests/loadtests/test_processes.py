"""Processes are found through their parents, counted, and stopped with all that they started."""

import os
import sys
import time
from pathlib import Path

from loadtests.processes import Seen, Server, family, group, seen
from tests.gateway import until

# Starts a child in a session of its own, which outlives it and says its id, and works for a while.
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(child.pid, flush=True)
end = time.process_time() + 0.3
while time.process_time() < end: pass
print("worked", flush=True)
time.sleep(600)
"""


def process(id: int, parent: int, session: int = 0, started: int = 0) -> Seen:
    return Seen(id, parent, session, started, 0.0, "x")


def test_a_family_is_descendants_the_session_and_who_was_known() -> None:
    processes = [
        process(10, 1, session=10),
        process(11, 10),
        process(12, 11),
        process(20, 1, session=10),  # its parent is gone
        process(30, 1, started=7),  # known from before
        process(31, 30),
        process(40, 1, started=9),  # another one with a known id
        process(50, 1),
    ]
    found = family(10, processes, {30: 7, 40: 8})
    assert {p.id for p in found} == {10, 11, 12, 20, 30, 31}


def test_groups_are_named_by_the_command_line() -> None:
    assert group("/x/bin/tritonserver --model-repository /y") == "server"
    assert group("/x/backends/python/triton_python_backend_stub /y/model.py") == "model"
    assert group("python -m monitors.sidecar /x/config.json") == "monitors"
    assert group("ray::ProxyActor") == "proxy"


def test_a_server_is_measured_and_stopped_with_its_children(tmp_path: Path) -> None:
    server = Server([sys.executable, "-c", PARENT], {}, tmp_path)
    try:
        until(lambda: "worked" in server.log.read_text(), "the work")
        child = int(server.log.read_text().split()[0])
        assert 0.3 <= sum(server.cpu_s().values()) < 5
    finally:
        server.stop()
    assert server.ended
    until(lambda: child not in {p.id for p in seen() if p.command}, "the child's end", 5)


def test_a_server_that_ends_leaves_its_last_words(tmp_path: Path) -> None:
    server = Server([sys.executable, "-c", "raise SystemExit('no model')"], {"SOME": "thing"}, tmp_path)
    until(lambda: server.ended, "its end")
    assert server.last_words() == "no model"
    server.stop()


def test_this_process_is_seen_as_it_is() -> None:
    own = next(p for p in seen() if p.id == os.getpid())
    assert own.parent == os.getppid() and own.session == os.getsid(0)
    assert abs(own.cpu_s - time.process_time()) < 1.0
