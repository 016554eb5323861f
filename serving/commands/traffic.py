"""Traffic and the truth about it: `route`, `label`."""

import os
from io import BufferedReader
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import Progress

from serving import client
from serving.commands.console import AsJson, ConfigFile, err, out, pair, print_json
from serving.config import load
from serving.errors import BadRequest

SHOWN = 20  # refused labels; --json has up to 1,000

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


@app.command(epilog="Example: gaugeway label flights labels.ndjson.gz")
def label(
    model: str,
    file: Annotated[
        Path,
        typer.Argument(help="NDJSON or a JSON array of {id, row, label, time}, or gzip of it; - is standard input."),
    ],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Send the truth that arrived later; it is joined to the predictions by request id and row.

    It goes in pieces, and a piece that is not answered goes again. Exits with 1 when a label was refused or not all
    could be sent; to send all again is harmless.
    """
    with _opened(file) as labels, Progress(console=err, transient=True, disable=not err.is_terminal) as progress:
        size = os.fstat(labels.fileno()).st_size or None  # None of a pipe
        task = progress.add_task("sending labels", total=size)

        def show(answered: int, waiting: str) -> None:
            if waiting:
                progress.console.print(f"{escape(waiting)}; trying again", highlight=False, soft_wrap=True)
            progress.update(task, description=f"{answered:,} labels", completed=labels.tell() if size else 0)

        counts = client.label(load(config), model, labels, show)
    if as_json:
        print_json(counts)
    else:
        _tell(counts)
    if counts["refused_total"]:
        raise typer.Exit(1)


def _tell(counts: dict[str, Any]) -> None:
    told = {outcome: n for outcome, n in counts.items() if outcome not in ("refused", "refused_total")}
    out.print(", ".join(f"{n} {outcome}" for outcome, n in told.items()), highlight=False)
    for refused in counts["refused"][:SHOWN]:
        place = f"line {refused['line']}" if "line" in refused else f"label {refused['index'] + 1}"
        out.print(f"  refused, {place}: {escape(refused['reason'])}", highlight=False)
    if unnamed := counts["refused_total"] - len(counts["refused"][:SHOWN]):
        out.print(f"  and {unnamed} more", highlight=False)


def _opened(file: Path) -> BufferedReader:
    """Raises BadRequest."""
    try:
        return open(0, "rb", closefd=False) if str(file) == "-" else file.open("rb")
    except OSError as error:
        raise BadRequest(f"cannot read {file}: {error}") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"expected a weight in 0..1, got {text!r}") from None


def _shares(weights: dict[str, float]) -> str:
    return " ".join(f"{version}={weight:g}" for version, weight in sorted(weights.items())) or "nothing"
