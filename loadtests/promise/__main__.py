"""Measure whether the promise is kept, write `docs/promise.md`: ``python -m loadtests.promise``, a quarter of an hour.

What is done is kept below the user's cache folder, so a run that was stopped goes on, and one after a change of the
code does what the change concerns.
"""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from loadtests import environments
from loadtests.machine import machine
from loadtests.promise import plan, plot
from loadtests.promise.kept import ROOT
from loadtests.promise.page import IMAGE, page
from loadtests.promise.steps import run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtests.promise", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a little of everything, in two minutes, below build/")
    parser.add_argument("--folder", type=Path, help="where the page goes (default: docs; with --quick build/promise)")
    arguments = parser.parse_args()
    size = plan.QUICK if arguments.quick else plan.FULL
    folder = arguments.folder or (ROOT / "build" / "promise" if arguments.quick else ROOT / "docs")

    found = plan.findings(run(plan.steps(size), environments.cache() / "promise"), size)
    (folder / IMAGE).parent.mkdir(parents=True, exist_ok=True)
    (folder / "promise.md").write_text(page(found, machine(), datetime.now(UTC).date().isoformat()))
    plot.draw(found.outcomes, folder / IMAGE)
    print(f"{folder / 'promise.md'}: {found.seconds / 60:.1f} minutes of measuring", file=sys.stderr)
    if broken := [*found.broken()]:
        sys.exit("\n".join(broken))


if __name__ == "__main__":
    main()
