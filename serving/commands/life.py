"""Start, stop, change: `up`, `down`, `reload`, `upgrade`."""

import signal
import threading

import typer
from rich.markup import escape

from serving import client
from serving.commands.console import ConfigFile, err, out
from serving.config import load
from serving.up import start

app = typer.Typer()


@app.command(epilog="Example: gaugeway up --config gaugeway.toml")
def up(config: ConfigFile = None) -> None:
    """Serve until Ctrl-C or SIGTERM, then drain and stop what was started."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    running = start(load(config), lambda text: err.print(f"[dim]{escape(text)} …"), unwanted=stop.is_set)
    out.print(f"gateway  {running.gateway_url}\nadmin    {running.admin_url}\nmetrics  {running.metrics_url}")
    out.print("[bold]ready[/]; Ctrl-C stops", highlight=False)
    try:
        while not stop.wait(0.5):
            if running.stop_asked():
                break
    finally:
        err.print("[dim]draining …")
        running.stop()


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
