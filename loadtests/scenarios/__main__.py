"""One scenario without Locust's browser page: ``python -m loadtests.scenarios spike --url http://127.0.0.1:8080``.

Exit code 0 when every answer was right, 1 when one was not or nothing could be asked, 2 for wrong usage.
Options that are not listed are handed to Locust.
"""

import argparse
import os
import sys
from pathlib import Path

from loadtests.scenarios.scenario import SCENARIOS


def command(given: list[str]) -> list[str]:
    """What Locust is called with. Exits with 2 where the scenario or a value is wrong."""
    arguments, others = parser().parse_known_args(given)
    return [
        "-f", str(Path(__file__).with_name(f"{arguments.scenario}.py")),
        "--headless", "--only-summary", "--loglevel", "WARNING",
        "--host", arguments.url, "--run-time", str(arguments.seconds), "--users", str(arguments.users),
        "--rate", str(arguments.rate), "--model", arguments.model, "--event-time", arguments.event_time,
        *others,
    ]  # fmt: skip


def parser() -> argparse.ArgumentParser:
    listed = "\n".join(f"  {name:<11} {scenario.what}" for name, scenario in SCENARIOS.items())
    made = argparse.ArgumentParser(
        prog="python -m loadtests.scenarios", description=f"{__doc__}\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    made.add_argument("scenario", choices=SCENARIOS, metavar="SCENARIO", help=", ".join(SCENARIOS))
    made.add_argument("--url", default="http://127.0.0.1:8080", help="of the gateway's data plane")
    made.add_argument("--seconds", type=int, default=60, help="of the run")
    made.add_argument("--users", type=int, default=20, help="where the load's shape is 1")
    made.add_argument("--rate", type=float, default=5.0, help="requests/s of each user")
    made.add_argument("--model", default="flights")
    made.add_argument("--event-time", choices=("arrival", "request"), default="arrival", help=(
        "request: send the flights' own times, to a gateway with monitors.event_time = \"request\" (as the demo's)"
    ))  # fmt: skip
    return made


def main() -> None:
    """Becomes Locust, in a process that it patches from the start."""
    os.execv(sys.executable, [sys.executable, "-m", "locust", *command(sys.argv[1:])])


if __name__ == "__main__":
    main()
