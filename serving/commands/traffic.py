"""Traffic and the truth about it: `route`, `label`."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import Progress

from serving import client
from serving.commands.console import AsJson, ConfigFile, err, out, pair, print_json, read
from serving.config import load

app = typer.Typer()


@app.command(epilog="Example: gaugeway route flights 1=0.5 2=0.5 --why 'version 2 has the lower Brier score'")
def route(
    model: str,
    weights: Annotated[list[str], typer.Argument(help="VERSION=WEIGHT, adding up to 1.")],
    why: Annotated[str, typer.Option(help="Written beside the change.")] = "",
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Split a model's traffic between versions; keys move only as far as the weights do."""
    wanted = {version: _number(weight) for version, weight in map(pair, weights)}
    changed = client.route(load(config), model, wanted, why)
    if as_json:
        print_json(changed)
    else:
        out.print(f"{model}: {_shares(changed['before'])} -> {_shares(changed['weights'])} ({changed['effect']})")


@app.command(epilog="Example: gaugeway label flights labels.ndjson")
def label(
    model: str,
    file: Annotated[
        Path, typer.Argument(help="NDJSON or a JSON array of {id, row, label, time}; - for standard input.")
    ],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Send the truth that arrived later; it is joined to the predictions by request id and row."""
    text = sys.stdin.read() if str(file) == "-" else read(file)
    with Progress(console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task("sending labels", total=None)
        counts = client.label(
            load(config), model, text, lambda done, total: progress.update(task, completed=done, total=total)
        )
    told = {outcome: n for outcome, n in counts.items() if outcome not in ("refused", "refused_total")}
    if as_json:
        print_json(counts)
    else:
        out.print(", ".join(f"{n} {outcome}" for outcome, n in told.items()), highlight=False)
        for refused in counts["refused"]:
            out.print(f"  refused, line {refused['index'] + 1}: {escape(refused['reason'])}", highlight=False)
        if unnamed := counts.get("refused_total", 0) - len(counts["refused"]):
            out.print(f"  and {unnamed} more", highlight=False)
    if counts["refused"]:
        raise typer.Exit(1)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"expected a weight in 0..1, got {text!r}") from None


def _shares(weights: dict[str, float]) -> str:
    return " ".join(f"{version}={weight:g}" for version, weight in sorted(weights.items())) or "nothing"
