"""All peers of one run of the benchmark: made, checked, driven in rounds, stopped."""

import datetime
import shutil
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from loadtests import environments, running
from loadtests.environments import NotInstalled
from loadtests.machine import machine
from loadtests.page import Report
from loadtests.peers.apps.onnx_session import OnnxSession
from loadtests.peers.peer import Peer
from loadtests.rounds import Cell, Measured, Medians, medians, plan
from loadtests.running import NotRunning, Running
from loadtests.workloads import WORKLOADS, Workload

WARM_S = 1
BARE_RUNS = 200

say = Console(stderr=True).print


class Contest:
    """All peers of one run; who fails on the way leaves with a reason in `missing`."""

    def __init__(self, peers: Mapping[str, Peer], folder: Path) -> None:
        self._peers, self._folder = peers, folder
        self._workloads: dict[str, Workload] = {}
        self._bare_s: dict[str, float] = {}
        self._running: dict[str, Running] = {}
        self._measured: defaultdict[Cell, list[Measured]] = defaultdict(list)
        self._versions: dict[str, dict[str, str]] = {}
        self.missing: dict[str, str] = {}

    def make(self, names: Iterable[str]) -> None:
        """The workloads' models, and what their bare run takes."""
        for name in names:
            try:
                self._workloads[name] = WORKLOADS[name]()
                self._bare_s[name] = self._bare(self._workloads[name])
            except NotInstalled as error:
                self._leave(name, error)

    def start(self) -> None:
        """Install and start, and go on to the next: they come up together."""
        for name, peer in self._peers.items():
            self.missing |= {f"{name}, {w}": why for w, why in peer.lacks.items() if w in self._workloads}
            try:
                say(f"{name}: environment")
                python = running.install(peer)
                say(f"{name}: start")
                self._running[name] = running.start(peer, python, self._folder / name, self._workloads)
                self._versions[name] = environments.versions(python, peer.packages)
            except NotRunning as error:
                self._leave(name, error)

    def check(self) -> None:
        """Hold every answer against onnxruntime's."""
        for name, one in list(self._running.items()):
            try:
                for workload in one.urls:
                    one.check(self._workloads[workload], self._folder / f"{workload}.onnx")
                say(f"{name}: answers as onnxruntime does")
            except NotRunning as error:
                self._leave(name, error)

    def measure(self, rounds: int, seconds: int) -> None:
        with Progress() as progress:
            task = progress.add_task("rounds of wrk", total=(rounds + 1) * len(list(self._plan(0))))
            for turn in range(rounds + 1):  # the first warms
                for cell in list(self._plan(turn)):
                    self._drive(cell, seconds if turn else WARM_S, keep=turn > 0)
                    progress.advance(task)

    def measured(self) -> dict[Cell, Medians]:
        """Of those who are still there."""
        return {cell: medians(runs) for cell, runs in self._measured.items() if cell.peer in self._running}

    def report(self, command: str, rounds: int, seconds: int, images: Mapping[str, str]) -> Report:
        return Report(
            command=command,
            date=f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
            machine=machine(),
            rounds=rounds,
            seconds=seconds,
            workloads={name: one.said for name, one in self._workloads.items()},
            cells=self.measured(),
            bare_s=self._bare_s,
            peers={name: self._peers[name].said for name in self._running},
            versions=self._versions,
            missing=self.missing,
            images=images,
        )

    def stop(self) -> None:
        say("stop")
        for one in self._running.values():
            one.server.ask_to_end()
        for one in self._running.values():
            one.server.stop()

    def _plan(self, turn: int) -> Iterable[Cell]:
        connections = {name: one.connections for name, one in self._workloads.items()}
        peers = {w: [name for name, one in self._running.items() if w in one.urls] for w in connections}
        return plan(connections, peers, turn)

    def _drive(self, cell: Cell, seconds: int, keep: bool) -> None:
        if cell.peer not in self._running:
            return
        try:
            measured = self._running[cell.peer].drive(cell.workload, cell.connections, seconds)
        except NotRunning as error:
            self._leave(cell.peer, error)
            return
        if keep:
            self._measured[cell].append(measured)

    def _leave(self, name: str, why: NotRunning | NotInstalled) -> None:
        self.missing[name] = str(why)
        say(f"{name}: left out: {why}", style="bold red")
        if name in self._running:
            server = self._running.pop(name).server
            server.stop()
            shutil.copy(server.log, environments.cache() / f"{name}.log")

    def _bare(self, workload: Workload) -> float:
        """Median seconds of the model's run with nothing around it; leaves the model's file, too."""
        path = self._folder / f"{workload.name}.onnx"
        path.write_bytes(workload.model)
        session = OnnxSession(str(path))
        return statistics.median(_timed(session, workload) for _ in range(BARE_RUNS))


def _timed(session: OnnxSession, workload: Workload) -> float:
    start = time.perf_counter()
    session.run(workload.inputs)
    return time.perf_counter() - start
