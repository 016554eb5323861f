"""`gaugeway backtest`: what would have alarmed, when and why, over files of the past."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import msgspec
import typer
from rich.markup import escape

from serving.commands.console import ConfigFile, err, out
from serving.config import Monitors, load
from serving.errors import BadRequest
from serving.manifest import Kind, Task

if TYPE_CHECKING:
    from monitors.backtest.document import Document

app = typer.Typer()

Rows = Annotated[Path, typer.Option(help="Rows like those at training time: Parquet, Arrow or CSV.")]
Past = Annotated[Path, typer.Option(help="Rows of the past, with the same columns.")]
Timestamp = Annotated[str | None, typer.Option(help="Column with the time of a row; without it blocks are of rows.")]
TimeZone = Annotated[str, typer.Option(help="By whose clock hours of the week are told apart, as Europe/Berlin.")]
Prediction = Annotated[str | None, typer.Option(help="Column with the model's output: a probability or a number.")]
Label = Annotated[str | None, typer.Option(help="Column with the truth; empty where it never came.")]
LabelTime = Annotated[str | None, typer.Option(help="Column with the time at which the label came.")]
Cluster = Annotated[str | None, typer.Option(help="Column that names the cluster of a row: one row of it counts.")]
Segments = Annotated[list[str], typer.Option("--segment", help="A feature by which metrics are divided; repeatable.")]
Features = Annotated[
    list[str],
    typer.Option(
        metavar="NAME[:KIND]",
        help="A feature and perhaps its kind, categorical or numeric; repeatable. Default: all other columns.",
    ),
]
OfTask = Annotated[
    str | None, typer.Option(help="classification or regression; default: classification where labels are 0 and 1.")
]
Block = Annotated[str, typer.Option(metavar="TIME", help="Length of a block: 90s, 30m, 6h, 1d.")]
BlockRows = Annotated[int | None, typer.Option(min=2, help="Rows of a block; with --timestamp the fewest.")]
Budget = Annotated[float | None, typer.Option(help="False pages and tickets in 90 days; default: as configured.")]
Json = Annotated[Path | None, typer.Option(metavar="FILE", help="Write all that was found, block by block.")]
Html = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the report, one file for any browser.")]

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST_S = 3650 * 86400.0


@app.command(epilog="Example: gaugeway backtest --reference january.parquet --data year.parquet --timestamp departs"
                    " --prediction p --label late --label-time lands --html report.html")  # fmt: skip
def backtest(
    reference: Rows,
    data: Past,
    timestamp: Timestamp = None,
    time_zone: TimeZone = "UTC",
    prediction: Prediction = None,
    label: Label = None,
    label_time: LabelTime = None,
    cluster: Cluster = None,
    feature: Features = [],  # noqa: B006
    segment: Segments = [],  # noqa: B006
    task: OfTask = None,
    block: Block = "1d",
    block_rows: BlockRows = None,
    budget: Budget = None,
    json: Json = None,
    html: Html = None,
    config: ConfigFile = None,
) -> None:
    """Run the monitors over files of the past: what would have alarmed, when and why."""
    from monitors.backtest.page import page
    from serving import backtesting

    settings = _settings(load(config).monitors, block, budget)
    columns = backtesting.Columns(
        timestamp=timestamp, prediction=prediction, label=label, label_time=label_time,
        cluster=cluster or settings.unit.partition(":")[2] or None, features=dict(map(_feature, feature)),
        segments=tuple(segment),
    )  # fmt: skip
    with err.status("judging …"):
        document = backtesting.backtest(
            reference, data, columns, settings, task=_task(task), block_rows=block_rows, time_zone=time_zone
        )
    if json is not None:
        _write(json, document.encode())
    if html is not None:
        _write(html, page(document).encode())
    _print(document)


def _settings(settings: Monitors, block: str, budget: float | None) -> Monitors:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", block)
    block_s = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not 1 <= block_s <= _LONGEST_S:
        raise typer.BadParameter(f"--block takes a second to 3650d, as 90s, 30m, 6h or 1d; got {block!r}")
    said = {"block_s": block_s} | ({} if budget is None else {"false_pages_per_90_days": budget})
    try:
        return msgspec.convert(msgspec.to_builtins(settings) | said, Monitors)
    except msgspec.ValidationError as error:
        raise typer.BadParameter(f"--budget: {error}") from None


def _feature(text: str) -> tuple[str, Kind | None]:
    name, colon, kind = text.rpartition(":")
    if not colon:
        return text, None
    if kind not in get_args(Kind):
        raise typer.BadParameter(f"the kind of feature {name!r} must be {' or '.join(get_args(Kind))}, got {kind!r}")
    return name, cast("Kind", kind)


def _task(text: str | None) -> Task | None:
    if text is not None and text not in get_args(Task):
        raise typer.BadParameter(f"--task must be {' or '.join(get_args(Task))}, got {text!r}")
    return cast("Task | None", text)


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise BadRequest(f"cannot write {path}: {error}") from None


def _print(document: "Document") -> None:
    """Pages and tickets, in their order; how many other alarms there were."""
    calling = [alarm for alarm in document.alarms if alarm.severity != "info"]
    for alarm in calling:
        out.print(
            f"[bold]{alarm.severity}[/] {alarm.raised}, {alarm.cleared}: {escape(alarm.subject)}", highlight=False
        )
        out.print(f"  {escape(alarm.explanation)}", highlight=False)
    if not calling:
        out.print("Nobody would have been called.")
    out.print(f"{len(document.alarms) - len(calling)} other alarms explain, and call nobody.", highlight=False)
