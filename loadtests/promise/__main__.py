"""Measure whether the promise is kept and write `docs/promise.md`: ``python -m loadtests.promise``, half an hour."""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from loadtests import environments
from loadtests.machine import machine
from loadtests.promise import delays, plot, quarter, streams, table
from loadtests.promise.page import IMAGE, page
from loadtests.promise.streams import Outcome
from loadtests.promise.table import Caught, Row
from monitors.drift.e_detector import BlockBettor

ROOT = Path(__file__).parents[2]
RIVALS = ("evidently", "alibi_detect", "river")
RIVAL_S = 1800.0
SHIFTS = {0.2: 12, 0.3: 7, 0.5: 4, 1.0: 3}  # standard deviations: blocks, at most
RISKS = {0.15: 2_500, 0.2: 700}  # labels, at most


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtests.promise", description=__doc__)
    parser.add_argument("--days", type=int, default=streams.DAYS, help="of the quarter (default: %(default)s)")
    parser.add_argument("--streams", type=int, default=40, help="a null and reference (default: %(default)s)")
    parser.add_argument("--blocks", type=int, default=400, help="of a stream (default: %(default)s)")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where the page goes (default: %(default)s)")
    arguments = parser.parse_args()
    began, missing = time.monotonic(), list[str]()
    rows = list(table.promise(arguments.streams, arguments.blocks))
    mutants = list(table.mutants(arguments.streams, arguments.blocks))
    outcomes = [*quarter.outcomes(arguments.days), *_rivals(missing)]
    shifts = [(sigma, most, *_delays(sigma)) for sigma, most in SHIFTS.items()]
    risks = [(risk, most, delays.of_risk(risk, 0.12, 20)) for risk, most in RISKS.items()]
    text = page(
        when=datetime.now(UTC).date().isoformat(), machine=machine(), minutes=(time.monotonic() - began) / 60,
        outcomes=outcomes, rows=rows, mutants=mutants, delays=shifts, risks=risks, missing=missing,
    )  # fmt: skip
    (arguments.docs / "promise.md").write_text(text)
    plot.draw(outcomes, arguments.docs / IMAGE)
    if failures := [*_failures(rows, mutants, outcomes)]:
        sys.exit("\n".join(failures))


def _failures(rows: list[Row], mutants: list[Caught], outcomes: list[Outcome]) -> Iterator[str]:
    yield from (f"the promise is broken: {row}" for row in rows if not row.kept)
    yield from (f"a mutant is not caught: {wrong}" for wrong, _, alarms, limit in mutants if alarms <= limit)
    for found in outcomes:
        if found.promised is not None and found.calls > table.limit(1, 1 / found.promised):
            yield f"the promise is broken: {found}"


def _rivals(missing: list[str]) -> Iterator[Outcome]:
    for name in RIVALS:
        try:
            python = environments.environment(ROOT / "loadtests" / "peers" / f"{name}.txt")
            command = [str(python), "-m", f"loadtests.promise.rivals.{name}"]
            said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=RIVAL_S, check=True)
        except (environments.NotInstalled, subprocess.SubprocessError) as error:
            missing.append(f"{name} ({error})")
            continue
        yield from (Outcome(**one) for one in json.loads(said.stdout.splitlines()[-1]))


def _delays(sigma: float) -> tuple[float, float]:
    """With bets on rows and on blocks."""
    return delays.of_drift(sigma, 0.02), delays.of_drift(sigma, 0.02, bettor=BlockBettor, most=600, streams=41)


if __name__ == "__main__":
    main()
