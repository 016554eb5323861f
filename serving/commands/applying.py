"""`apply`: the models of the configuration file become what is served."""

import json
from typing import Annotated, Any

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

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
    settled = load(config)
    at, before = client.desired(settled)
    plan = differences(before, settled.models)
    if not as_json:
        _show(plan)
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


def _show(plan: list[Difference]) -> None:
    if not plan:
        return
    table = Table("key", "registry", "file")
    for one in plan:
        table.add_row(escape(one.key), _text(one.before), _text(one.after))
    out.print(table)


def _text(value: Any) -> str:
    return "-" if value is None else escape(json.dumps(value))
