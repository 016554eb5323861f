"""Measure what the monitors cost and write it into `docs/performance.md`: ``python -m loadtests.monitors``, minutes.

Records come at `--rate` rows a second of their own time, the station looks at them every `monitors.poll_s` and commits
every second, as the sidecar does. Processor time is that of the fastest of `--repeats` runs, since what else a machine
does only slows it; of a block the median. Memory is taken in a process of its own.
"""

import argparse
import gc
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from loadtests import categories
from loadtests.machine import machine
from loadtests.monitors.counting import bare, count
from loadtests.monitors.judging import judge
from loadtests.monitors.page import Figure, stated, table
from loadtests.monitors.traffic import Traffic

DOCUMENT = Path(__file__).parents[2] / "docs" / "performance.md"
TEXT_ROWS = 2  # so many rows of numbers are measured for one of texts, which take long to make
MOST_NS, MOST_CORE, MOST_US, MOST_MB = 60, 0.15, 50, 300

T = TypeVar("T")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.monitors", description=__doc__,
        epilog="Example: python -m loadtests.monitors --rows 20000 --repeats 1",
    )  # fmt: skip
    parser.add_argument("--rows", type=int, default=100_000, help="of numbers (default: %(default)s)")
    parser.add_argument("--features", type=int, default=50, help="of a row (default: %(default)s)")
    parser.add_argument("--categories", type=int, default=10_000, help="most of them rare (default: %(default)s)")
    parser.add_argument("--reference-rows", type=int, default=20_000)
    parser.add_argument("--rate", type=float, default=5_000.0, help="rows a second (default: %(default)s)")
    parser.add_argument("--rows-per-record", type=int, default=25, help="what comes in 5 ms (default: %(default)s)")
    parser.add_argument("--blocks", type=int, default=60, help="that are judged (default: %(default)s)")
    parser.add_argument("--judged", type=int, nargs="+", default=[3, 20, 200], help="features (default: %(default)s)")
    parser.add_argument(
        "--many", type=int, default=1_000, help="features in memory, 0: leave it out (default: %(default)s)"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--document", type=Path, default=DOCUMENT, help="to write into (default: %(default)s)")
    arguments = parser.parse_args(argv)
    text = table(_figures(arguments))
    print(text)
    when = f"{datetime.now(UTC).date().isoformat()}, {machine()}."
    arguments.document.write_text(stated(arguments.document.read_text(), f"{when}\n\n{text}"))


def _figures(arguments: argparse.Namespace) -> Iterator[Figure]:
    for traffic in (
        Traffic(arguments.features),
        Traffic(arguments.features, labelled=True),
        Traffic(arguments.features, categories=max(1, arguments.categories // 100)),
        Traffic(arguments.features, categories=arguments.categories),
    ):
        yield _counting(traffic, arguments)
    for features in arguments.judged:
        found = _fastest(partial(judge, features, arguments.blocks), arguments.repeats, by="us")
        said = f"{found.us:.0f} µs a feature and block ({found.judging:.0f} judging, {found.telling:.0f} telling)"
        yield Figure(f"a block of {features} features is judged and told", said, f"{MOST_US} µs")
        yield Figure(f"the state of {features} features is written", f"{found.keeping:.0f} µs a feature and slot", "")
    for numeric in (False, True) if arguments.many else ():
        grown = categories.measured(arguments.many, arguments.categories, 4, numeric=numeric)["grown_mb"]
        held = "numbers" if numeric else f"texts, each of {arguments.categories:,} categories"
        yield Figure(f"a sidecar that counts and judges {arguments.many:,} {held}", f"{grown:.0f} MB", f"{MOST_MB} MB")


def _counting(traffic: Traffic, arguments: argparse.Namespace) -> Figure:
    profile, rate = traffic.profile(arguments.reference_rows), arguments.rate
    rows = arguments.rows // (TEXT_ROWS if traffic.categories else 1)
    found = _fastest(lambda: count(traffic, profile, rows, arguments.rows_per_record, rate), arguments.repeats, by="ns")
    least = _fastest(lambda: bare(traffic, profile, rows, rate), arguments.repeats, by="ns")
    assert found.rows == rows and found.values == least.values == rows * traffic.features, found
    core = found.ns * 1e-9 * traffic.features * rate
    peer = "Counter" if traffic.categories else "searchsorted, bincount"
    return Figure(
        traffic.name,
        f"{found.ns:.0f} ns a value, {core:.1%} of a core at {rate:,.0f} rows/s",
        f"{MOST_NS} ns, {MOST_CORE:.0%}",
        f"{least.ns:.0f} ns ({peer}): {found.ns / least.ns:.1f} times",
    )


def _fastest(measure: Callable[[], T], repeats: int, by: str) -> T:
    return min((measure() for _ in range(repeats)), key=lambda one: float(getattr(one, by)))


if __name__ == "__main__":
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)  # as in the sidecar
    main()
