"""Gaugeway beside its peers on the same models, driven by wrk in interleaved rounds: ``make bench``.

Each peer is installed once into an environment of its own, started with one worker, held against onnxruntime, and
driven in turn. One that cannot be installed or started is named with its reason. Writes docs/benchmarks.md and its
plots; only ratios of one run mean anything.
"""

import argparse
import json
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from loadtests import environments
from loadtests.contest import Contest, say
from loadtests.environments import NotInstalled
from loadtests.page import page
from loadtests.peers.bentoml import BENTOML
from loadtests.peers.ceilings import CEILING_PROTOCOL, CEILING_UVICORN
from loadtests.peers.gaugeway import GAUGEWAY, GAUGEWAY_UNCAPTURED, GAUGEWAY_UNMONITORED
from loadtests.peers.kserve import KSERVE
from loadtests.peers.litserve import LITSERVE
from loadtests.peers.mlserver import MLSERVER
from loadtests.peers.omle import OMLE
from loadtests.peers.peer import FOLDER, ROOT, Peer
from loadtests.peers.ray_serve import SERVE, SERVE_HAPROXY
from loadtests.peers.triton import TRITON
from loadtests.workloads import WORKLOADS

PEERS: dict[str, Peer] = {
    "gaugeway": GAUGEWAY,
    "gaugeway-uncaptured": GAUGEWAY_UNCAPTURED,
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


def main() -> None:
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers are stopped then, too
    with tempfile.TemporaryDirectory(prefix="gaugeway-", ignore_cleanup_errors=True) as folder, ExitStack() as stack:
        contest = Contest({name: PEERS[name] for name in arguments.peers}, Path(folder))
        stack.callback(contest.stop)
        contest.make(arguments.workloads)
        contest.install()
        contest.hold(arguments.rounds, arguments.seconds)
    images = _drawn(contest, arguments.out.parent / "images")
    command = shlex.join(["python", "-m", "loadtests.bench", *sys.argv[1:]])
    report = contest.report(command, arguments.rounds, arguments.seconds, images)
    arguments.out.write_text(page(report))
    say(f"Wrote {arguments.out}")


def _drawn(contest: Contest, folder: Path) -> dict[str, str]:
    """Drawn by the environment that has matplotlib; titles and paths beside the page."""
    results = environments.cache() / "results.json"
    points = [
        asdict(cell) | {"requests_per_s": found.requests_per_s, "latency_s": dict(found.latency_s)}
        for cell, found in contest.measured().items()
    ]
    results.write_text(json.dumps(points))
    folder.mkdir(exist_ok=True, parents=True)
    for old in folder.glob("bench-*.png"):
        old.unlink()
    try:
        python = environments.environment(FOLDER / "plots.txt")
        subprocess.run([python, "-m", "loadtests.plots", results, folder.absolute()], check=True, cwd=ROOT)
    except (NotInstalled, subprocess.SubprocessError) as error:
        contest.missing["plots"] = str(error)
    drawn = sorted(folder.glob("bench-*.png"))
    return {path.stem.removeprefix("bench-"): f"{folder.name}/{path.name}" for path in drawn}


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


def _names_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Reads a list with commas, and knows what may be in it."""

    def names(text: str) -> list[str]:
        if unknown := [name for name in text.split(",") if name not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not one of {', '.join(known)}")
        return text.split(",")

    return names


if __name__ == "__main__":
    main()
