"""All peers of one run of the benchmark: each in a bout of its own with ours, alone on the machine.

A dozen servers that only wait take more of two cores than a request does: in one run with all of them up, every one
was half as fast.
"""

import datetime
import shutil
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from loadtests import environments, running
from loadtests.environments import NotInstalled
from loadtests.machine import machine
from loadtests.page import OURS, Report
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
        self._pythons: dict[str, Path] = {}
        self._running: dict[str, Running] = {}
        self._measured: defaultdict[Cell, list[Measured]] = defaultdict(list)
        self._beside: defaultdict[Cell, list[Measured]] = defaultdict(list)
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

    def install(self) -> None:
        """Everybody's environment, before anybody is measured."""
        for name, peer in self._peers.items():
            self.missing |= {f"{name}, {w}": why for w, why in peer.lacks.items() if w in self._workloads}
            try:
                say(f"{name}: environment")
                self._pythons[name] = running.install(peer)
                self._versions[name] = environments.versions(self._pythons[name], peer.packages)
            except NotRunning as error:
                self._leave(name, error)

    def hold(self, rounds: int, seconds: int) -> None:
        """Every other peer in a bout with ours; without ours, all of them in one."""
        others = [name for name in self._pythons if name != OURS]
        bouts = [[name] for name in others] if OURS in self._pythons and others else [others]
        if OURS in self._pythons:
            self._start(OURS)
        with Progress() as progress:
            task = progress.add_task("bouts", total=len(bouts))
            for bout in bouts:
                for name in bout:
                    self._start(name)
                self._bout(rounds, seconds)
                for name in bout:
                    self._end(name)
                progress.advance(task)
        self._end(OURS)

    def measured(self) -> dict[Cell, Medians]:
        """Of those who stayed to the end."""
        return {cell: medians(runs) for cell, runs in self._measured.items() if cell.peer not in self.missing}

    def ratios(self) -> dict[Cell, float]:
        """Our requests/s over a peer's, in their own bout."""
        return {
            cell: 1.0 if cell.peer == OURS else medians(self._beside[cell]).requests_per_s / found.requests_per_s
            for cell, found in self.measured().items()
            if self._beside[cell] and found.requests_per_s
        }

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
            ratios=self.ratios(),
            peers={name: self._peers[name].said for name in self._pythons if name not in self.missing},
            versions=self._versions,
            missing=self.missing,
            images=images,
        )

    def stop(self) -> None:
        for name in list(self._running):
            self._end(name)

    def _start(self, name: str) -> None:
        """Start it, and hold its answers against onnxruntime's."""
        try:
            say(f"{name}: start")
            one = running.start(self._peers[name], self._pythons[name], self._folder / name, self._workloads)
            self._running[name] = one
            for workload in one.urls:
                one.check(self._workloads[workload], self._folder / f"{workload}.onnx")
            say(f"{name}: answers as onnxruntime does")
        except NotRunning as error:
            self._leave(name, error)

    def _end(self, name: str) -> None:
        if name in self._running:
            self._running.pop(name).server.stop()

    def _bout(self, rounds: int, seconds: int) -> None:
        """All who run, in rounds, of which the first warms; ours is kept beside those it was driven with."""
        found: defaultdict[Cell, list[Measured]] = defaultdict(list)
        for turn in range(rounds + 1):
            for cell in list(self._plan(turn)):
                self._drive(cell, seconds if turn else WARM_S, found if turn else None)
        for cell, runs in found.items():
            self._measured[cell] += runs
            self._beside[cell] = found[replace(cell, peer=OURS)]

    def _plan(self, turn: int) -> Iterable[Cell]:
        connections = {name: one.connections for name, one in self._workloads.items()}
        peers = {w: [name for name, one in self._running.items() if w in one.urls] for w in connections}
        both = {w: names for w, names in peers.items() if len(names) > 1 or names != [OURS]}
        return plan({w: connections[w] for w in both}, both, turn)

    def _drive(self, cell: Cell, seconds: int, found: defaultdict[Cell, list[Measured]] | None) -> None:
        if cell.peer not in self._running:
            return
        try:
            measured = self._running[cell.peer].drive(cell.workload, cell.connections, seconds)
        except NotRunning as error:
            self._leave(cell.peer, error)
            return
        if found is not None:
            found[cell].append(measured)

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
