"""Two pools on logical resources: the faster is preferred, both serve when it is full, and one goes without a failure.

Both compute the same on the CPU of this machine; the slower one is stopped three quarters of the time, so it takes four
times as long for a run, which the gateway can only know by measuring.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests import models
from tests.faults.load import Load
from tests.gateway import Gateway, running, until

FAST = '{ name = "fast", gpu = 0.5, provider = "cpu", max_batch_rows = 1 }'
SLOW = '{ name = "slow", cpu = 0.5, max_batch_rows = 1 }'
MODELS = """
[models.steps.versions."1"]
pools = [{}]
"""
STOPPED_S, RUNS_S = 0.03, 0.01
LOADED_S = 3.0


@contextmanager
def slowed(pid: int) -> Iterator[None]:
    over = threading.Event()

    def stop_and_go() -> None:
        while not over.is_set():
            os.kill(pid, signal.SIGSTOP)
            time.sleep(STOPPED_S)
            os.kill(pid, signal.SIGCONT)
            time.sleep(RUNS_S)

    thread = threading.Thread(target=stop_and_go)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def shares(up: Gateway, pids: dict[str, int], clients: int) -> tuple[float, float]:
    """CPU seconds of the fast and the slow replica for so many clients: each request takes as much of either."""
    before = {pool: _cpu_s(pid) for pool, pid in pids.items()}
    asked(up, clients)
    return _cpu_s(pids["fast"]) - before["fast"], _cpu_s(pids["slow"]) - before["slow"]


def asked(up: Gateway, clients: int) -> None:
    """For LOADED_S seconds, and all of it answered."""
    with Load(up.url, "steps", clients).running() as load:
        time.sleep(LOADED_S)
    assert load.failed == {} and load.wrong == [] and load.answered


@pytest.mark.soak
def test_the_faster_pool_is_used_until_it_is_full_and_one_goes_without_a_failure(tmp_path: Path) -> None:
    both = MODELS.format(f"{FAST}, {SLOW}")
    with running(tmp_path, {"steps": models.slow(6000)}, extra=f"[ray]\ncpus = 2\ngpus = 1\n{both}") as up:
        pids = until(lambda: _pids(up, {"fast", "slow"}), "a replica of each pool")
        with slowed(pids["slow"]):
            asked(up, 8)  # which pool is the faster must be seen first
            alone = shares(up, pids, 1)
            crowded = shares(up, pids, 8)
        assert alone[1] < 0.15 * alone[0], f"CPU seconds of fast and slow with 1 client: {alone}"
        assert crowded[1] > 0.15 * crowded[0] and crowded[0] > 0.7 * alone[0], f"with 8: {crowded}"
        _remove_under_load(up, pids["slow"])


def _remove_under_load(up: Gateway, pid: int) -> None:
    text = up.config.read_text()
    up.config.write_text(text.replace(f", {SLOW}", ""))
    with Load(up.url, "steps", 8).running() as load:
        until(lambda: load.answered > 20, "load")
        shown = up.call("apply", "--yes", "--why", "a test").stdout
        until(lambda: not psutil.pid_exists(pid), "the end of the slow replica")
        answered = load.answered
        until(lambda: load.answered > answered + 20, "answers of the other pool")
    assert "- models.steps.versions.1.pools.slow = {" in shown and "in effect" in shown
    assert load.failed == {} and load.wrong == []
    assert _pids(up, {"fast"}) and list(up.status()["models"]["steps"]["versions"]["1"]["pools"]) == ["fast"]
    assert "nothing changes" in up.call("apply").stdout


def _pids(up: Gateway, pools: set[str]) -> dict[str, int]:
    """Of the replicas that take work, by pool; nothing unless there is one of each."""
    found = {replica["pool"]: int(replica["pid"]) for replica in up.replicas("steps", "1")}
    return found if found.keys() == pools else {}


def _cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
