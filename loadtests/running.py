"""One peer that runs: installed, started, its answers held against onnxruntime's."""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loadtests import answers, environments, wrk
from loadtests.answers import WrongAnswer
from loadtests.environments import NotInstalled
from loadtests.peers.peer import FOLDER, Peer, Place, free_ports
from loadtests.processes import Server
from loadtests.rounds import Measured
from loadtests.workloads import Workload

READY_S = 120.0


class NotRunning(Exception):
    """A peer that cannot be measured; the message is the reason for the page."""


@dataclass(frozen=True)
class Running:
    """A server and where it is asked for each workload."""

    server: Server
    peer: Peer
    urls: Mapping[str, str]
    folder: Path

    def check(self, workload: Workload, expected: Path) -> None:
        """Wait for the first answer and hold it against onnxruntime's run of the file `expected`.

        Raises:
            NotRunning: there is none in time, or it is another one.
        """
        url = self.urls[workload.name]
        try:
            answer = answers.first_answer(url, self.peer.reworded(workload), lambda: self.server.ended, READY_S)
            answers.compare(answer, workload.expected(str(expected)), self.peer.outputs)
        except OSError as error:
            raise NotRunning(
                f"no answer on {workload.name}: {error}; its log ends: {self.server.last_words()}"
            ) from error
        except (WrongAnswer, AttributeError, LookupError, TypeError, ValueError) as error:  # or not of the protocol
            raise NotRunning(f"wrong answer on {workload.name}: {error}") from error

    def drive(self, workload: str, connections: int, seconds: int) -> Measured:
        """Load it, and take what its processes spent on it.

        Raises:
            NotRunning: wrk could not connect, or got stuck.
        """
        before = self.server.cpu_s()
        try:
            run = wrk.drive(self.urls[workload], self.folder / f"{workload}.lua", connections, seconds)
        except (subprocess.SubprocessError, ValueError) as error:
            raise NotRunning(f"{error}; its log ends: {self.server.last_words()}") from error
        spent = {group: at - before.get(group, 0.0) for group, at in self.server.cpu_s().items()}
        return Measured(run, spent)


def install(peer: Peer) -> Path:
    """The interpreter of its environment, made now where it is missing.

    Raises:
        NotRunning: it cannot be installed.
    """
    if peer.requirements is None:
        return Path(sys.executable)
    try:
        return environments.environment(FOLDER / f"{peer.requirements}.txt")
    except (NotInstalled, subprocess.SubprocessError, OSError) as error:
        raise NotRunning(f"not installed: {error}") from error


def start(peer: Peer, python: Path, folder: Path, workloads: Mapping[str, Workload]) -> Running:
    """Its process, without waiting for it.

    Raises:
        NotRunning: what must be there before it starts could not be made.
    """
    folder.mkdir()
    able = tuple(one for one in workloads.values() if one.name not in peer.lacks)
    port = free_ports(1)[0]
    try:
        launch = peer.prepare(Place(folder, python, port, able))
        server = Server(launch.command, launch.variables, folder)
    except subprocess.CalledProcessError as error:
        said = (error.stderr or b"").decode(errors="replace") if isinstance(error.stderr, bytes) else error.stderr
        raise NotRunning(f"could not be prepared: {error}: {(said or '').strip()[-300:]}") from error
    except OSError as error:
        raise NotRunning(f"could not be started: {error}") from error
    for workload in able:
        _write_script(folder, peer.reworded(workload))
    urls = {one.name: f"http://127.0.0.1:{port}{launch.path.format(model=one.name)}" for one in able}
    return Running(server, peer, urls, folder)


def _write_script(folder: Path, workload: Workload) -> None:
    body = folder / f"{workload.name}.body"
    body.write_bytes(workload.body)
    (folder / f"{workload.name}.lua").write_text(wrk.script(body, workload.headers))
