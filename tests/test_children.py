"""A child is restarted, adopted by a successor, and stopped; a process that only has its id is left alone."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from serving.children import Child, started, sweep


def _child(folder: Path) -> Child:  # serves files of an empty folder at a free port: any module that runs on will do
    (folder / "empty").mkdir(exist_ok=True)
    arguments = ["0", "--bind", "127.0.0.1", "--directory", str(folder / "empty")]
    return Child("worker-0", "http.server", arguments, folder / "pids", folder / "log")


def _wait(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_restarted_when_killed_then_stopped(tmp_path: Path) -> None:
    child = _child(tmp_path)
    child.start()
    first = child.pid
    os.kill(first, signal.SIGKILL)
    _wait(lambda: not child.running)
    _wait(lambda: child.watch() or child.running)  # type: ignore[func-returns-value]
    assert child.pid != first and child.restarts == 1
    child.stop(5)
    assert not child.running and not started(child.pid) and list((tmp_path / "pids").iterdir()) == []


def test_a_successor_adopts_and_sweeps(tmp_path: Path) -> None:
    one, two = _child(tmp_path), _child(tmp_path)
    one.start()
    two.start()
    assert two.pid == one.pid
    assert sweep(tmp_path / "pids", 5) == ["worker-0"]
    _wait(lambda: not one.running)


def test_a_stranger_with_the_same_id_is_left_alone(tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    (tmp_path / "worker-0.pid").write_text(f"{stranger.pid} {started(stranger.pid) - 1}")
    (tmp_path / "worker-1.pid").write_text("garbage")
    assert sweep(tmp_path) == [] and stranger.poll() is None and not list(tmp_path.iterdir())
    stranger.kill()
    stranger.wait()
