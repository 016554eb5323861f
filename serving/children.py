"""Processes of one node that must always run: started, watched, restarted, stopped.

They are started in sessions of their own, so that Ctrl-C in a terminal reaches only the one who stops them in order;
a file with the process id and its start lets a successor adopt them, and find what a killed predecessor left behind.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from serving.discovery import alive

log = logging.getLogger("gaugeway.node")

BACKOFF_S = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0)
KILL_S = 5.0  # a killed process is waited for this long
STEADY_S = 30.0  # a process that ran this long starts again without a wait
RESTART_S = 35.0  # a process that is to end and start again is killed after this long
FAILING = 2  # starts in a row that were of no use


@dataclass
class Child:
    """One process: ``python -m module arguments…``; its output is appended to `log_path`."""

    name: str
    module: str
    arguments: Sequence[str]
    folder: Path  # of the process-id files
    log_path: Path
    pid: int = 0
    restarts: int = 0
    _started: float = 0.0
    _failures: int = 0
    _asked_to_restart: float = 0.0
    _process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    def start(self, door: socket.socket | None = None) -> None:
        """Start it, or adopt the one that runs already. It inherits `door`, and is told as which descriptor."""
        if self._adopt():
            return
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        told = [] if door is None else ["--listen", str(door.fileno())]
        with self.log_path.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self.module, *self.arguments, *told],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=[] if door is None else [door.fileno()],
            )
        self.pid, self._started = self._process.pid, time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._pid_path.write_text(f"{self.pid} {started(self.pid)}")

    def watch(self, door: socket.socket | None = None) -> None:
        """Start it again if it is gone, after a wait that grows while it keeps failing."""
        if self.running:
            if self.restarting and time.monotonic() - self._asked_to_restart > RESTART_S:
                self._signal(signal.SIGKILL)
            return
        if self.restarting:
            self._asked_to_restart = 0.0
            self.attempt(door)
            return
        ran_s = time.monotonic() - self._started
        self._failures = 0 if ran_s > STEADY_S else self._failures
        if ran_s < BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)]:
            return
        log.warning("%s (process %d) is gone; starting it again", self.name, self.pid)
        self._failures += 1
        self.restarts += 1
        self.attempt(door)

    def restart(self) -> None:
        """Tell it to end; `watch` starts it again."""
        self._asked_to_restart = time.monotonic()
        self.terminate()

    @property
    def restarting(self) -> bool:
        return self._asked_to_restart > 0

    @property
    def failing(self) -> bool:
        return not self.running and self._failures >= FAILING

    def attempt(self, door: socket.socket | None = None) -> None:
        """Start it; what keeps it from that is logged."""
        try:
            self.start(door)
        except OSError:  # no process, no room: later perhaps
            self._started = time.monotonic()
            log.exception("cannot start %s", self.name)

    @property
    def running(self) -> bool:
        if self._process is not None:
            return self._process.poll() is None
        return self.pid > 0 and alive(self.pid)

    def stop(self, timeout_s: float) -> None:
        """SIGTERM and wait; SIGKILL when it has not ended by then."""
        self.terminate()
        self.wait(timeout_s)

    def terminate(self) -> None:
        if self.running:
            self._signal(signal.SIGTERM)

    def wait(self, timeout_s: float) -> None:
        until = time.monotonic() + timeout_s
        while self.running and time.monotonic() < until:
            time.sleep(0.02)
        if self.running:
            log.warning("%s (process %d) did not end within %g s; killed", self.name, self.pid, timeout_s)
            self._signal(signal.SIGKILL)
            while self.running and time.monotonic() < until + KILL_S:
                time.sleep(0.02)
        self._pid_path.unlink(missing_ok=True)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # it may end by itself at any time
            os.kill(self.pid, number)

    @property
    def _pid_path(self) -> Path:
        return self.folder / f"{self.name}.pid"

    def _adopt(self) -> bool:
        """Take over the process that the file names."""
        if self._process is not None or (named := _named(self._pid_path)) is None:
            return False
        self.pid, self._started = named[1], time.monotonic()
        return True


def started(pid: int) -> int:
    """When a process started, in clock ticks since the machine did; with its id, this names it. 0: it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def left(folder: Path) -> list[str]:
    """Names of the processes that a predecessor left running, the oldest first."""
    found = {path.stem: named for path in folder.glob("*.pid") if (named := _named(path))}
    return sorted(found, key=lambda name: found[name])


def sweep(folder: Path, timeout_s: float = 10.0) -> list[str]:
    """Stop what a predecessor that was killed left running; returns the names."""
    names = left(folder)
    for name in names:
        child = Child(name, "", (), folder, folder / name)
        if child._adopt():
            child.stop(timeout_s)
    for path in folder.glob("*.pid"):
        path.unlink(missing_ok=True)
    return names


def _named(path: Path) -> tuple[int, int] | None:
    """Start and id of the process that the file names, if it is still this one: ids are used again."""
    try:
        pid, start = map(int, path.read_text().split())
    except (FileNotFoundError, ValueError):
        return None
    return (start, pid) if alive(pid) and started(pid) == start else None
