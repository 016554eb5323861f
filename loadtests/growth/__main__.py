"""``python -m loadtests.growth --rounds 3 --out docs/growth.md``: four curves, as a page."""

import argparse
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from loadtests.growth.cases import AXES, Case, cases
from loadtests.growth.page import Point, page, plot
from loadtests.growth.worker import workers

IDLE_S, IDLE_AXES = 2.0, ("models", "versions")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtests.growth", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=1, help="of each size in each round")
    parser.add_argument("--out", type=Path, default=Path("docs/growth.md"))
    arguments = parser.parse_args()
    points = measure(cases(), arguments.rounds, arguments.seconds)
    told = f"--rounds {arguments.rounds} --seconds {arguments.seconds}"
    arguments.out.write_text(page(points, told))
    for axis in AXES:
        image = arguments.out.parent / "images" / f"growth-{axis}.svg"
        image.write_text(plot([point for point in points if point.case.axis == axis]))
    print(arguments.out.read_text())


def measure(every: list[Case], rounds: int, seconds: int) -> list[Point]:
    """Medians over interleaved rounds; one more before them warms."""
    found: defaultdict[Case, list[float]] = defaultdict(list)
    console = Console(stderr=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        Progress(console=console, disable=not console.is_terminal) as progress,
        workers(every, Path(folder)) as running,
    ):
        task = progress.add_task("sizes", total=len(running) * (rounds + 1))
        idle = {one.case: one.idle(IDLE_S) for one in running if one.case.axis in IDLE_AXES}
        for turn in range(rounds + 1):
            for worker in running:
                spent_s = worker.request_cpu_s(seconds if turn else 1)
                if turn:
                    found[worker.case].append(spent_s)
                progress.advance(task)
    return [
        Point(case, statistics.median(spent), (min(spent), max(spent)), idle.get(case)) for case, spent in found.items()
    ]


if __name__ == "__main__":
    main()
