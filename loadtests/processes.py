"""A server's processes: started as one, found through their parents, their CPU time read, stopped by their ids.

Ray's daemons and Triton's stubs are children of the process that we started, or share its session; one that was seen
once is remembered, so that it is counted and stopped although its parent is gone. Linux only: /proc.
"""

import os
import re
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
GRACE_S = 40.0
LEFT_BEHIND_S = 5.0

# The first pattern that a command line matches names the group of its process.
GROUPS = (
    (r"serving\.worker", "gateway"),
    (r"monitors\.sidecar", "monitors"),
    (r"ray::.*(Proxy|Router)|haproxy", "proxy"),
    (r"ray::.*Replica", "replica"),
    (r"raylet|gcs_server|ray/|ray::|default_worker", "ray"),
    (r"serving\.(cli|controller|node)", "controller"),
    (r"triton_python_backend_stub", "model"),
    (r"", "server"),
)


@dataclass(frozen=True)
class Seen:
    """One process as /proc shows it; `started` tells it from a later one with its id."""

    id: int
    parent: int
    session: int
    started: int
    cpu_s: float
    command: str


def seen() -> list[Seen]:
    """All processes of this machine."""
    return [one for path in Path("/proc").iterdir() if path.name.isdigit() if (one := _read(path))]


def group(command: str) -> str:
    """What a process does, by its command line.

    >>> group("ray::ServeReplica:default:Boosting"), group("/lib/raylet --x"), group("python -m serving.worker")
    ('replica', 'ray', 'gateway')
    """
    return next(name for pattern, name in GROUPS if re.search(pattern, command))


def family(root: int, processes: Iterable[Seen], known: Mapping[int, int]) -> list[Seen]:
    """`root`, its session, those in `known` (id -> started), and all descendants of these."""
    processes = list(processes)
    found = {p.id for p in processes if root in (p.id, p.session) or known.get(p.id) == p.started}
    while more := {p.id for p in processes if p.parent in found} - found:
        found |= more
    return [p for p in processes if p.id in found]


class Server:
    """One server that runs, with all its processes; what it says goes to `log`."""

    def __init__(self, command: list[str], variables: Mapping[str, str], folder: Path) -> None:
        self.log = folder / "server.log"
        self._known: dict[int, int] = {}
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, **variables},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def id(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds so far by group of processes."""
        spent: defaultdict[str, float] = defaultdict(float)
        for process in self._family():
            spent[group(process.command)] += process.cpu_s
        return dict(spent)

    def last_words(self) -> str:
        """The last line of its log that says something."""
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1][-300:] if lines else "it said nothing"

    def ask_to_end(self) -> None:
        """By SIGTERM to the process that was started."""
        self._family()
        self._process.terminate()

    def stop(self) -> None:
        """Ask and wait; ask those whom it left behind; kill what is still there, by id."""
        self.ask_to_end()
        _wait_for(lambda: self.ended, GRACE_S)
        _signal(self._family(), signal.SIGTERM)
        _wait_for(lambda: not self._family(), LEFT_BEHIND_S)
        _signal(self._family(), signal.SIGKILL)
        self._process.wait(GRACE_S)

    def _family(self) -> list[Seen]:
        found = family(self._process.pid, seen(), self._known)
        self._known |= {p.id: p.started for p in found}
        return [p for p in found if p.command]  # those without are dead and not yet waited for


def _read(path: Path) -> Seen | None:
    """None: it has just ended."""
    try:
        text = (path / "stat").read_text()
        command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name before it may hold anything
    cpu_s = (int(fields[11]) + int(fields[12])) / TICKS_PER_S
    return Seen(int(path.name), int(fields[1]), int(fields[3]), int(fields[19]), cpu_s, command)


def _wait_for(done: Callable[[], bool], timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while not done() and time.monotonic() < end:
        time.sleep(0.1)


def _signal(processes: Iterable[Seen], number: signal.Signals) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process.id, number)
