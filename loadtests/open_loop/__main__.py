"""Open-loop load on a gateway: ``python -m loadtests.open_loop URL --model m --rate 100``."""

import argparse
import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path

import uvloop
from rich.console import Console
from rich.progress import Progress

from loadtests.open_loop import arrivals, workload
from loadtests.open_loop.arrivals import Plan
from loadtests.open_loop.generator import Behaviour, Generator
from loadtests.open_loop.outcomes import Outcomes
from loadtests.open_loop.report import report, table

EXAMPLE = (
    "python -m loadtests.open_loop http://127.0.0.1:8080 --model flights --rate 100 --shape bursty --json out.json"
)


def main() -> int:
    arguments = _arguments()
    console = Console(stderr=True)
    plan = arrivals.plan(
        arguments.shape, arguments.rate, arguments.seconds, arguments.priority_mix, arguments.clients,
        arguments.peak, arguments.seed,
    )  # fmt: skip
    behaviour = _behaviour(arguments)
    numbers = _workload(arguments, console)
    generator = Generator(arguments.url, arguments.model, plan, numbers, behaviour)
    outcomes = uvloop.run(_run(generator, plan, console))
    found = report(plan, outcomes, behaviour, arguments.seconds)
    if arguments.json:
        arguments.json.write_text(found.json())
    Console().print(table(found, behaviour.deadline_s))
    if found.too_slow:
        console.print(
            f"the generator was too slow for this rate, or its machine was: {found.too_slow}", style="bold red"
        )
    for request, body in outcomes.wrong[:3]:
        console.print(f"wrong: request {request} got {body!r}", style="bold red")
    return 1 if found.wrong else 0


async def _run(generator: Generator, plan: Plan, console: Console) -> Outcomes:
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("requests sent", total=len(plan))
        running = asyncio.ensure_future(generator.run())
        while not running.done():
            await asyncio.wait([running], timeout=0.5)
            progress.update(task, completed=generator.next)
    return running.result()


def _behaviour(arguments: argparse.Namespace) -> Behaviour:
    return Behaviour(
        deadline_s=arguments.deadline_s,
        tell_deadline=arguments.tell_deadline,
        timeout_s=arguments.timeout_s,
        leave_open=arguments.leave_open,
        retries=arguments.retries,
        honour_retry_after=arguments.honour_retry_after,
        clients=arguments.clients,
        most_connections=arguments.most_connections,
        drain_s=arguments.drain_s,
    )


def _workload(arguments: argparse.Namespace, console: Console) -> workload.Workload:
    if arguments.factor is not None:
        taken = workload.inputs(arguments.url, arguments.model)
        return workload.Multiples(taken, arguments.factor, first=arguments.seed * 7_919)
    learned = workload.learn(arguments.url, arguments.model, arguments.distinct, arguments.seed)
    if learned.told_apart < arguments.distinct / 2:
        console.print(f"{arguments.distinct} inputs have only {learned.told_apart} different answers", style="yellow")
    return learned


def _mix(text: str) -> Mapping[str, float]:
    """`critical=0.1,default=0.9` -> shares by class; they need not add up to 1."""
    pairs = [part.partition("=") for part in text.split(",")]
    return {name: float(share) for name, _, share in pairs}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m loadtests.open_loop", description=__doc__, epilog=f"Example: {EXAMPLE}")
    add = parser.add_argument
    add("url")
    add("--model", required=True)
    add("--rate", type=float, default=100.0, help="requests a second, on average")
    add("--shape", choices=sorted(arrivals.SHAPES), default="poisson")
    add("--peak", type=float, default=5.0, help="how many times the quiet rate bursts and the step have")
    add("--seconds", type=float, default=60.0)
    add("--seed", type=int, default=1, help="the same seed, the same arrivals")
    add("--deadline-s", type=float, default=1.0, help="answers after it do not count as good")
    add("--tell-deadline", action=argparse.BooleanOptionalAction, default=True, help="as x-gaugeway-deadline-s")
    add("--timeout-s", type=float, default=0.0, help="when a client gives up on an attempt; 0: never")
    add("--leave-open", action="store_true", help="a client that gives up does not close its connection")
    add("--retries", type=int, default=0, help="of a request that was refused or given up, at once")
    add("--honour-retry-after", action="store_true", help="wait as long as a refusal asks before a retry")
    add("--clients", type=int, default=8, help="each with an address and connections of its own")
    add("--priority-mix", type=_mix, default={"default": 1.0}, help="critical=0.1,default=0.8,sheddable=0.1")
    add("--factor", type=float, help="the model's answer is this times its input; else answers are learned before")
    add("--distinct", type=int, default=256, help="inputs whose answers are learned")
    add("--most-connections", type=int, default=512, help="of each client")
    add("--drain-s", type=float, default=10.0, help="wait for answers after the last arrival")
    add("--json", type=Path, help="write the report here")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
