"""Gaugeway beside its peers on the same models, driven by wrk in interleaved rounds: ``make bench``.

Each peer is installed once into an environment of its own, started with one worker, held against onnxruntime, and
driven in turn. One that cannot be installed or started is named with its reason. Writes docs/benchmarks.md and its
plots; only ratios of one run mean anything.
"""

import argparse
import datetime
import json
import os
import platform
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from loadtests import environments, running
from loadtests.environments import NotInstalled
from loadtests.page import Report, page
from loadtests.peers.apps.onnx_session import OnnxSession
from loadtests.peers.bentoml import BENTOML
from loadtests.peers.ceilings import CEILING_PROTOCOL, CEILING_UVICORN
from loadtests.peers.gaugeway import GAUGEWAY, GAUGEWAY_UNMONITORED
from loadtests.peers.kserve import KSERVE
from loadtests.peers.litserve import LITSERVE
from loadtests.peers.mlserver import MLSERVER
from loadtests.peers.omle import OMLE
from loadtests.peers.peer import FOLDER, ROOT, Peer
from loadtests.peers.ray_serve import SERVE, SERVE_HAPROXY
from loadtests.peers.triton import TRITON
from loadtests.rounds import Cell, Measured, Medians, medians, plan
from loadtests.running import NotRunning, Running
from loadtests.workloads import WORKLOADS, Workload

PEERS: dict[str, Peer] = {
    "gaugeway": GAUGEWAY,
    "gaugeway-unmonitored": GAUGEWAY_UNMONITORED,
    "triton": TRITON,
    "omle": OMLE,
    "mlserver": MLSERVER,
    "kserve": KSERVE,
    "serve": SERVE,
    "serve-haproxy": SERVE_HAPROXY,
    "litserve": LITSERVE,
    "bentoml": BENTOML,
    "ceiling-uvicorn": CEILING_UVICORN,
    "ceiling-protocol": CEILING_PROTOCOL,
}
QUICK_WORKLOADS = ("boosting", "image")
QUICK = ("gaugeway", "gaugeway-unmonitored", "triton", "mlserver", "serve", "ceiling-uvicorn", "ceiling-protocol")
WARM_S = 1
BARE_RUNS = 200

say = Console(stderr=True).print


def main() -> None:
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers are stopped then, too
    with tempfile.TemporaryDirectory(prefix="gaugeway-") as folder, ExitStack() as stack:
        bench = Bench(Path(folder))
        stack.callback(bench.stop)
        bench.make(arguments.workloads)
        bench.start(arguments.peers)
        bench.check()
        bench.measure(arguments.rounds, arguments.seconds)
        report = bench.report(arguments)
    arguments.out.write_text(page(report))
    say(f"Wrote {arguments.out}")


class Bench:
    """All peers of one run; who fails on the way leaves with a reason in `missing`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
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

    def start(self, names: Iterable[str]) -> None:
        """Install and start, and go on to the next: they come up together."""
        for name in names:
            peer = PEERS[name]
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

    def report(self, arguments: argparse.Namespace) -> Report:
        cells = {cell: medians(runs) for cell, runs in self._measured.items() if cell.peer in self._running}
        return Report(
            command=shlex.join(["python", "-m", "loadtests.bench", *sys.argv[1:]]),
            date=f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
            machine=_machine(),
            rounds=arguments.rounds,
            seconds=arguments.seconds,
            workloads={name: one.said for name, one in self._workloads.items()},
            cells=cells,
            bare_s=self._bare_s,
            peers={name: PEERS[name].said for name in self._running},
            versions=self._versions,
            missing=self.missing,
            images=_plots(cells, arguments.out.parent / "images"),
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


def _plots(cells: Mapping[Cell, Medians], folder: Path) -> dict[str, str]:
    """Drawn by the environment that has matplotlib; titles and paths beside the page."""
    results = environments.cache() / "results.json"
    points = [
        asdict(c) | {"requests_per_s": m.requests_per_s, "latency_s": dict(m.latency_s)} for c, m in cells.items()
    ]
    results.write_text(json.dumps(points))
    python = environments.environment(FOLDER / "plots.txt")
    folder.mkdir(exist_ok=True, parents=True)
    for old in folder.glob("bench-*.png"):
        old.unlink()
    subprocess.run([python, "-m", "loadtests.plots", results, folder], check=True, cwd=ROOT)
    return {
        path.stem.removeprefix("bench-"): f"{folder.name}/{path.name}" for path in sorted(folder.glob("bench-*.png"))
    }


def _machine() -> str:
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores ({names[0] if names else platform.machine()}), {memory_gib:.0f} GiB,"
        f" Linux {platform.release()}, Python {platform.python_version()}"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="Example: python -m loadtests.bench --peers gaugeway,triton --rounds 3"
    )
    parser.add_argument("--quick", action="store_true", help="fewer peers, two short rounds: five minutes")
    parser.add_argument("--peers", type=_names_of(PEERS), help=f"of {', '.join(PEERS)}; default: all")
    parser.add_argument("--workloads", type=_names_of(WORKLOADS), help=f"of {', '.join(WORKLOADS)}; default: all")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=int, help="of each round")
    parser.add_argument(
        "--out", type=Path, default=Path("docs/benchmarks.md"), help="its plots go to images/ beside it"
    )
    arguments = parser.parse_args()
    arguments.peers = arguments.peers or list(QUICK if arguments.quick else PEERS)
    arguments.workloads = arguments.workloads or list(QUICK_WORKLOADS if arguments.quick else WORKLOADS)
    arguments.rounds = arguments.rounds or (2 if arguments.quick else 5)
    arguments.seconds = arguments.seconds or (2 if arguments.quick else 3)
    return arguments


def _names_of(known: Iterable[str]) -> "type[list[str]]":
    """Reads a list with commas, and knows what may be in it."""

    def names(text: str) -> list[str]:
        if unknown := [name for name in text.split(",") if name not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not one of {', '.join(known)}")
        return text.split(",")

    return names  # type: ignore[return-value]


if __name__ == "__main__":
    main()
