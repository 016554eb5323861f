"""`gaugeway status`: what runs, as tables or JSON, once or every second."""

import time
from contextlib import suppress
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from serving import client
from serving.commands.console import AsJson, ConfigFile, out, print_json
from serving.config import Config, load
from serving.errors import GaugewayError

app = typer.Typer()
WATCH_S = 1.0


@app.command(epilog="Example: gaugeway status --watch")
def status(
    config: ConfigFile = None,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Again every second, until Ctrl-C.")] = False,
) -> None:
    """Models, versions, weights, workers and replicas; monitors with state and losses."""
    settled = load(config)
    if watch:
        with suppress(KeyboardInterrupt):
            _watch(settled)
    elif as_json:
        print_json(client.status(settled))
    else:
        out.print(_page(client.status(settled)))


def _watch(config: Config) -> None:
    with Live(console=out, auto_refresh=False, screen=out.is_terminal) as live:
        while True:
            live.update(_now(config), refresh=True)
            time.sleep(WATCH_S)


def _now(config: Config) -> RenderableType:
    """A gateway that is away may come back."""
    moment = Text(time.strftime("%H:%M:%S  Ctrl-C ends"), style="dim")
    try:
        return Group(_page(client.status(config)), moment)
    except GaugewayError as error:
        return Group(f"[red]{escape(str(error))}", moment)


def _page(found: dict[str, Any]) -> RenderableType:
    return Group(_versions(found), _processes(found), _summary(found))


def _versions(found: dict[str, Any]) -> Table:
    table = Table(
        Column("model", overflow="fold"), "version", "weight", "state", "replicas (process, state, load)", "monitor"
    )
    monitors = found["monitors"].get("models", {})
    for name, model in found["models"].items():
        for version, one in model["versions"].items():
            silent = "no_data" if found["monitors"]["state"] == "ok" else found["monitors"]["state"]
            state = monitors.get(name, {}).get(version, {}).get("state", silent)
            weight = f"{model['weights'].get(version, 0):g}"
            table.add_row(name, version, weight, one["state"], _replicas(one), state)
    return table


def _replicas(version: dict[str, Any]) -> str:
    """One a line; of several pools each with its name, and why it has none."""
    lines = []
    for pool, how in version["pools"].items():
        here = [f"{r['pid']} {r['state']} {r['load']}" for r in version["replicas"] if r["pool"] == pool]
        named = f"{pool}: " if len(version["pools"]) > 1 else ""
        lines += [named + line for line in here or [_none(how, bool(named))]]
        if (start := how.get("cold_start")) is not None:
            lines.append(f"{named}woken in {start['total_s']:.1f} s, {start['load_s']:.1f} of them for the model")
    return "\n".join(lines)


def _none(pool: dict[str, Any], named: bool) -> str:
    """Why a pool has no replica."""
    if pool["state"] == "RUNNING" and pool["wanted_replicas"] == 0:
        return "asleep"
    return f"none, {pool['state']}" if named else "none"


def _processes(found: dict[str, Any]) -> Table:
    table = Table("process", Column("node", overflow="fold"), "pid", "state", "restarts", "table", "revision")
    for process in found["workers"]:
        table.add_row(process["name"], process["node"], str(process["pid"]), process["state"],
                      str(process["restarts"]), str(process.get("generation", "-")),
                      str(process.get("revision", "-")))  # fmt: skip
    return table


def _summary(found: dict[str, Any]) -> Text:
    monitors = found["monitors"]
    lost, problem = monitors.get("lost_rows", 0), f"; {found['problem']}" if found["problem"] else ""
    return Text(f"monitors: {monitors['state']}, {lost} rows lost; table generation {found['generation']}{problem}")
