"""`gaugeway demo`."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command(epilog="Example: gaugeway demo --days 30 --exit --summary demo.json")
def demo(
    days: Annotated[int, typer.Option(min=1, max=275, help="How many days from 1 April 2013 are replayed.")] = 60,
    speed: Annotated[float | None, typer.Option(help="Event seconds a second; default: as fast as it goes.")] = None,
    exit: Annotated[bool, typer.Option("--exit", help="Stop after the replay instead of serving on.")] = False,
    summary: Annotated[Path | None, typer.Option(help="Write the results as JSON.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where models and state are kept.")] = None,
) -> None:
    """Real flights of 2013 through two versions: labels come late, weather drifts, harm is told from drift."""
    from serving.demo import run as flights  # needs the extra `demo`

    raise typer.Exit(flights.run(days=days, speed=speed, exit=exit, summary=summary, data_dir=data_dir))
