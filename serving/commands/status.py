"""`gaugeway status`: what runs, as tables or JSON."""

from typing import Any

import typer
from rich.table import Table

from serving import client
from serving.commands.console import AsJson, ConfigFile, out, print_json
from serving.config import load

app = typer.Typer()


@app.command(epilog="Example: gaugeway status --json")
def status(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Models, versions, weights, workers and replicas; monitors with state and losses."""
    found = client.status(load(config))
    if as_json:
        print_json(found)
        return
    _print_versions(found)
    _print_processes(found)


def _print_versions(found: dict[str, Any]) -> None:
    table = Table("model", "version", "weight", "state", "replicas (process, state, load)", "monitor")
    monitors = found["monitors"].get("models", {})
    for name, model in found["models"].items():
        for version, one in model["versions"].items():
            silent = "no_data" if found["monitors"]["state"] == "ok" else found["monitors"]["state"]
            state = monitors.get(name, {}).get(version, {}).get("state", silent)
            weight = f"{model['weights'].get(version, 0):g}"
            table.add_row(name, version, weight, one["state"], _replicas(one), state)
    out.print(table)


def _replicas(version: dict[str, Any]) -> str:
    """One a line; of several pools each with its name, and why it has none."""
    lines = []
    for pool, how in version["pools"].items():
        here = [f"{r['pid']} {r['state']} {r['load']}" for r in version["replicas"] if r["pool"] == pool]
        named = f"{pool}: " if len(version["pools"]) > 1 else ""
        lines += [named + line for line in here or [f"none, {how['state']}" if named else "none"]]
    return "\n".join(lines)


def _print_processes(found: dict[str, Any]) -> None:
    table = Table("process", "node", "pid", "state", "restarts", "table")
    for process in found["workers"]:
        table.add_row(process["name"], process["node"], str(process["pid"]), process["state"],
                      str(process["restarts"]), str(process.get("generation", "-")))  # fmt: skip
    out.print(table)
    monitors = found["monitors"]
    lost, problem = monitors.get("lost_rows", 0), f"; {found['problem']}" if found["problem"] else ""
    out.print(
        f"monitors: {monitors['state']}, {lost} rows lost; table generation {found['generation']}{problem}",
        highlight=False,
    )
