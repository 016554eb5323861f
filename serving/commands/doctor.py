"""`gaugeway doctor`: what is wrong, and what to do."""

import os
from dataclasses import asdict

import typer
from rich.markup import escape

from serving.commands.console import AsJson, ConfigFile, err, out, print_json
from serving.doctor.finding import Finding

app = typer.Typer()
_COLOURS = {"ok": "green", "warning": "yellow", "fault": "red"}


@app.command(epilog="Example: gaugeway doctor --config gaugeway.toml")
def doctor(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Look at machine, packages, configuration, ports, Ray, gateway and registry; exit code 1 when there is a fault."""
    from serving.doctor.examination import examine

    with err.status("looking …") as status:
        found = list(examine(config, os.environ, lambda text: status.update(f"looking at {text} …")))
    if as_json:
        print_json([asdict(one) for one in found])
    else:
        _print(found)
    if any(one.state == "fault" for one in found):
        raise typer.Exit(1)


def _print(found: list[Finding]) -> None:
    for one in found:
        out.print(f"[{_COLOURS[one.state]}]{one.state:<8}[/]{escape(one.check)}: {escape(one.found)}",
                  highlight=False, soft_wrap=True)  # fmt: skip
        if one.remedy:
            out.print(f"        [bold]do:[/] {escape(one.remedy)}", highlight=False, soft_wrap=True)
    faults, warnings = (sum(one.state == state for one in found) for state in ("fault", "warning"))
    out.print(f"{len(found)} checks, {faults} faults, {warnings} warnings")
