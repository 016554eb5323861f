"""Start, stop, change: `up`, `down`, `reload`, `upgrade`."""

import signal
import threading
from typing import Annotated

import typer
from rich.markup import escape

from serving import client, daemon
from serving.commands.console import ConfigFile, err, out
from serving.config import load

app = typer.Typer()


@app.command(epilog="Example: gaugeway up --config gaugeway.toml --detach")
def up(
    config: ConfigFile = None,
    detach: Annotated[bool, typer.Option(help="Return when it is ready, and leave it running.")] = False,
) -> None:
    """Serve until Ctrl-C, SIGTERM or `gaugeway down`, then drain and stop what was started."""
    if detach:
        found = daemon.start(load(config), config, _progress)
        _tell(found["gateway"], found["admin"], f"{found['metrics']}/metrics", "`gaugeway down` stops")
        return

    from serving.up import start

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    running = start(load(config), _progress, unwanted=stop.is_set)
    _tell(running.gateway_url, running.admin_url, running.metrics_url, "Ctrl-C stops")
    try:
        while not stop.wait(0.5):
            if running.stop_asked():
                break
    finally:
        err.print("[dim]draining …")
        running.stop()


def _progress(text: str) -> None:
    err.print(f"[dim]{escape(text)} …", soft_wrap=True)


def _tell(gateway: str, admin: str, metrics: str, how_to_stop: str) -> None:
    out.print(f"gateway  {gateway}\nadmin    {admin}\nmetrics  {metrics}")
    out.print(f"[bold]ready[/]; {how_to_stop}", highlight=False)


@app.command(epilog="Example: gaugeway down")
def down(config: ConfigFile = None) -> None:
    """Stop the gateway that runs on this configuration's data folder."""
    client.stop(load(config))
    out.print("stopped")


@app.command(epilog="Example: gaugeway reload --config gaugeway.toml")
def reload(config: ConfigFile = None) -> None:
    """Take changed keys of the configuration while it serves; what cannot change is named, and then nothing does."""
    with err.status("asking …") as status:
        keys = client.reload(load(config), lambda text: status.update(f"{text} …"))
    out.print(f"in effect: {', '.join(keys)}" if keys else "nothing has changed", highlight=False)


@app.command(epilog="Example: pip install --upgrade gaugeway && gaugeway upgrade")
def upgrade(config: ConfigFile = None) -> None:
    """Put the code that is installed now in place of the code that runs; no request fails."""
    with err.status("asking …") as status:
        client.upgrade(load(config), lambda text: status.update(f"{text} …"))
    out.print("upgraded: workers, sidecar, control plane; replicas when they are next replaced")
