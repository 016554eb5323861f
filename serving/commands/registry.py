"""The registry from the command line: `publish`, `models`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.table import Table

from serving.commands.console import AsJson, ConfigFile, err, out, pair, print_json
from serving.config import load
from serving.declaration import Declaration
from serving.errors import BadRequest
from serving.manifest import REFERENCE_FILE, Manifest, check_tolerance

app = typer.Typer()

Version = Annotated[str | None, typer.Option(help="Default: the next number.")]
TaskName = Annotated[str | None, typer.Option(help="classification or regression.")]
Prediction = Annotated[str | None, typer.Option(help="OUTPUT or OUTPUT:COLUMN.")]
Features = Annotated[
    str, typer.Option(help="Names in order, with kinds: a:numeric,b:categorical. Without, it is guessed.")
]
Reference = Annotated[
    Path | None, typer.Option(help="Rows like those at training time: Parquet (a file or a folder), Arrow, CSV.")
]
Label = Annotated[str | None, typer.Option(help="The column of the reference that holds the truth.")]
Time = Annotated[str | None, typer.Option(help="The column of the reference that holds the rows' time.")]
TimeZone = Annotated[str, typer.Option(help="By whose clock hours of the week are told apart, as Europe/Berlin.")]
Cluster = Annotated[
    str | None,
    typer.Option(help="A feature that names clusters: one row of each and block counts."),
]
Threshold = Annotated[float, typer.Option(help="A probability of at least this predicts 1, for the metrics.")]
Quantile = Annotated[float, typer.Option(help="Of the label, that a regression predicts, for its metrics.")]
Kpi = Annotated[
    str | None, typer.Option(metavar="LOW:HIGH", help="Range of the KPI sent with labels, else of the label.")
]
Segments = Annotated[
    str, typer.Option(help="Features with metrics and fairness by segment; a number with edges: carrier,age:30:60.")
]
BatchTolerance = Annotated[
    float,
    typer.Option(
        callback=lambda value: _tolerance(value),
        metavar="DIFFERENCE",
        help="Requests share runs when rows run together differ by at most this x max(1, |value|); 0: no bit.",
    ),
]
Lineage = Annotated[list[str], typer.Option("--set", help="Lineage, key=value; repeatable.")]


@app.command(epilog="Example: gaugeway publish flights model.onnx --task classification --prediction probabilities:1"
                    " --features hour,carrier:categorical --reference january.parquet --label late")  # fmt: skip
def publish(
    name: str,
    file: Path,
    version: Version = None,
    task: TaskName = None,
    prediction: Prediction = None,
    features: Features = "",
    reference: Reference = None,
    label: Label = None,
    time: Time = None,
    time_zone: TimeZone = "UTC",
    cluster: Cluster = None,
    threshold: Threshold = 0.5,
    quantile: Quantile = 0.5,
    kpi: Kpi = None,
    segments: Segments = "",
    batch_tolerance: BatchTolerance = 0.0,
    settings: Lineage = [],  # noqa: B006
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Make an immutable version of an ONNX file; what is not given is not monitored, and said so."""
    from serving import publishing
    from serving.repository import Repository

    settled = load(config)
    declared = Declaration(
        version=version, task=task, prediction=prediction, features=_names(features), reference=reference, label=label,
        time=time, time_zone=time_zone, cluster=cluster or _cluster(settled.monitors.unit, features, reference),
        block_s=settled.monitors.block_s, threshold=threshold, quantile=quantile, segments=_names(segments),
        kpi_range=_range(kpi), batch_tolerance=batch_tolerance, lineage=dict(pair(text) for text in settings),
    )  # fmt: skip
    with err.status("validating in a process of its own …"):
        published = publishing.publish(Repository.of(settled), name, file, declared)
    _tell(published.manifest, published.created, published.notes, as_json)


@app.command(epilog="Example: gaugeway models --json")
def models(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Every published version, oldest first."""
    from serving.repository import Repository

    manifests = Repository.of(load(config)).manifests()
    if as_json:
        print_json([{**msgspec.to_builtins(m), "digest": m.digest} for m in manifests])
        return
    table = Table("model", "version", "digest", "task", "features", "reference", "batches")
    for m in manifests:
        table.add_row(m.model, m.version, m.digest[:12], m.task or "-", str(len(m.features) or "-"),
                      "yes" if REFERENCE_FILE in m.files else "-", _batches(m))  # fmt: skip
    out.print(table if manifests else "nothing is published yet; see `gaugeway publish --help`")


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _cluster(unit: str, features: str, reference: Path | None) -> str | None:
    """What live rows are counted by, where the version has such a feature.

    >>> [_cluster(unit, "amount,user:categorical", Path("rows.csv")) for unit in ("cluster:user", "cluster:ip", "row")]
    ['user', None, None]
    """
    named, declared = unit.partition(":")[2], {name.partition(":")[0].strip() for name in _names(features)}
    return named if reference and named in declared else None


def _range(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = map(float, text.split(":"))
    except ValueError:
        low = high = 0.0
    if not low < high:
        raise typer.BadParameter(f"expected LOW:HIGH, two numbers and the smaller one first, got {text!r}")
    return low, high


def _tell(manifest: Manifest, created: bool, notes: Sequence[str], as_json: bool) -> None:
    """What became of a publication."""
    if as_json:
        print_json({"model": manifest.model, "version": manifest.version, "digest": manifest.digest,
                     "created": created, "notes": notes, "manifest": msgspec.to_builtins(manifest)})  # fmt: skip
        return
    what = "published" if created else "already there, the same content:"
    out.print(f"{what} [bold]{manifest.model}[/] version [bold]{manifest.version}[/]  sha256:{manifest.digest[:16]}…")
    for note in notes:
        out.print(f"  note: {note}", highlight=False)


def _tolerance(value: float) -> float:
    try:
        return check_tolerance(value)
    except BadRequest as error:
        raise typer.BadParameter(str(error)) from None


def _batches(manifest: Manifest) -> str:
    if not manifest.rows_independent:
        return "no"
    return "yes" if manifest.batch_difference is None else f"yes, within {manifest.batch_tolerance:g}"
