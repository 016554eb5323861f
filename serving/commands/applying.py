"""`apply`: the models of the configuration file become what is served."""

import json
from typing import Annotated

import msgspec
import typer
from rich.markup import escape

from serving import client
from serving.applying import Difference, changed, differences
from serving.commands.console import AsJson, ConfigFile, err, out, print_json
from serving.config import load

app = typer.Typer()


@app.command(epilog="Example: gaugeway apply --config gaugeway.toml --yes --why 'a second pool for the evening'")
def apply(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
    why: Annotated[str, typer.Option(help="Written beside the change.")] = "",
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Serve models as the file says: show what changes against the registry, ask, change it, wait until it runs.

    Models that the file does not name stay as they are.
    """
    if as_json and not (yes or dry_run):
        raise typer.BadParameter("--json asks nothing: say --yes or --dry-run")
    settled = load(config)
    at, before = client.desired(settled)
    plan = differences(before, settled.models)
    for one in [] if as_json else plan:
        out.print(_line(one), highlight=False, soft_wrap=True)
    effect = "nothing changes"
    if plan and dry_run:
        effect = "not applied"
    elif plan:
        if not yes:
            typer.confirm("Apply?", abort=True, err=True)
        with err.status("waiting for replicas …"):
            effect = client.apply(settled, changed(before, settled.models), at, why)
    if as_json:
        print_json({"changes": msgspec.to_builtins(plan), "effect": effect})
    else:
        out.print(effect)


def _line(one: Difference) -> str:
    """``+`` what comes, ``-`` what goes, ``~`` what changes."""
    if one.before is None:
        return f"[green]+ {escape(f'{one.key} = {json.dumps(one.after)}')}"
    if one.after is None:
        return f"[red]- {escape(f'{one.key} = {json.dumps(one.before)}')}"
    return f"[yellow]~ {escape(f'{one.key} = {json.dumps(one.before)} -> {json.dumps(one.after)}')}"
