"""Ten minutes at 70 % of the capacity: does anything grow, does anything fail? ``make soak``.

The capacity is measured first, with the same generator on the same machine: the highest rate of which nearly every
request is answered rightly and in time. Exit status 1 when memory, descriptors or threads of a process grow, when one
ends, or when a single request fails.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from loadtests import workloads
from loadtests.open_loop.report import Report
from loadtests.open_loop.workload import fetch
from loadtests.peers.gaugeway import GAUGEWAY
from loadtests.peers.peer import Place, free_ports
from loadtests.processes import Server, family, group, seen
from loadtests.vitals import SPAN_S, Growth, Vitals

WATCHED = ("gateway", "monitors", "replica", "controller")
FIRST_RATE, STEP, PROBE_S = 400.0, 1.4, 4.0
GOOD, DEADLINE_S = 0.99, 0.25  # share of a probe that must be answered in time for its rate to be within the capacity
READY_S = 120.0
# Predictions that wait for a label take 16 bytes each up to a bound, which is to be reached while it warms up.
SETTINGS = {"GAUGEWAY_MONITORS__LABEL_BUDGET_ROWS": "100000"}


def main() -> int:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as folder, gaugeway(Path(folder)) as (url, server):
        report = Path(folder) / "report.json"
        rate = arguments.rate or arguments.share * capacity(url, report)
        watched = {group(one.command): one.id for one in family(server.id, seen(), {}) if group(one.command) in WATCHED}
        vitals = Vitals(watched)
        start_s = time.monotonic()
        with vitals.running():
            found = load(url, rate, 60 * arguments.minutes, report)
        grown = vitals.after(start_s + 60 * min(arguments.warm_up_minutes, arguments.minutes / 4))
    Console().print(table(found, grown, rate))
    broken = verdict(found, grown, vitals.ended)
    for sentence in broken:
        Console(stderr=True).print(sentence, style="bold red")
    return 1 if broken else 0


def verdict(found: Report, grown: list[Growth], ended: list[str]) -> list[str]:
    """A sentence for each bound that does not hold."""
    said = [f"{one.name}: {one.broken} grew" for one in grown if one.broken] + [f"{name} ended" for name in ended]
    if found.statuses != {"200": found.sent} or found.wrong:
        said.append(f"of {found.sent} requests not all were answered: {found.statuses}, {found.wrong} wrong")
    return said


@contextmanager
def gaugeway(folder: Path) -> Iterator[tuple[str, Server]]:
    """Everything on, as in the benchmark, with its small model."""
    small = workloads.small()
    place = Place(folder, Path(sys.executable), free_ports(1)[0], (small,))
    launch, url = GAUGEWAY.prepare(place), f"http://127.0.0.1:{place.port}"
    server = Server(launch.command, {**launch.variables, **SETTINGS}, folder)
    try:
        _until_ready(f"{url}/v2/models/{small.name}/infer", small.body, server)
        yield url, server
    finally:
        server.stop()


def capacity(url: str, report: Path) -> float:
    """Requests a second. A rate that fails once is tried again: machines are shared."""
    rate, console = FIRST_RATE, Console(stderr=True)
    console.print("measuring the capacity …")
    while any(_within(load(url, rate * STEP, PROBE_S, report, stderr=subprocess.PIPE)) for _ in range(2)):
        rate *= STEP
    console.print(f"capacity: {rate:,.0f} requests/s, not {rate * STEP:,.0f}")
    return rate


def _within(probe: Report) -> bool:
    return probe.good >= GOOD * probe.sent


def load(url: str, rate: float, seconds: float, report: Path, stderr: int | None = None) -> Report:
    """The open loop, in a process of its own; its progress bar goes to this terminal."""
    command = [sys.executable, "-m", "loadtests.open_loop", url, "--model", "boosting", "--json", str(report)]
    options = ["--rate", f"{rate:g}", "--seconds", f"{seconds:g}", "--deadline-s", str(DEADLINE_S)]
    report.unlink(missing_ok=True)
    done = subprocess.run([*command, *options, "--no-tell-deadline"], stdout=subprocess.DEVNULL, stderr=stderr)
    if not report.exists():
        raise RuntimeError(f"the load generator ended with status {done.returncode}: {(done.stderr or b'').decode()}")
    return msgspec.json.decode(report.read_bytes(), type=Report)


def table(found: Report, grown: list[Growth], rate: float) -> Table:
    answered = f"{found.sent:,} requests at {rate:,.0f}/s, {found.good:,} right within {DEADLINE_S:g} s"
    shown = Table("process", "MiB", "then", f"MiB per {SPAN_S / 60:g} min", "descriptors", "threads", title=answered)
    for one in grown:
        sizes = [f"{size / 2**20:.2f}" for size in (one.first_bytes, one.last_bytes)]
        more = [f"{n:+g}" for n in (one.more_descriptors, one.more_threads)]
        shown.add_row(one.name, *sizes, f"{one.bytes_per_span / 2**20:+.3f}", *more)
    return shown


def _until_ready(url: str, body: bytes, server: Server) -> None:
    end = time.monotonic() + READY_S
    while True:
        try:
            fetch(url, body)
            return
        except OSError:
            if server.ended or time.monotonic() > end:
                raise RuntimeError(f"no answer; the gateway said: {server.last_words()}") from None
            time.sleep(0.2)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, epilog="Example: python -m loadtests.soak --minutes 2")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--warm-up-minutes", type=float, default=1.5, help="at the start, which does not count")
    parser.add_argument("--share", type=float, default=0.7, help="of the capacity")
    parser.add_argument("--rate", type=float, help="requests a second, instead of a share of the capacity")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
