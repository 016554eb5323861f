"""The `gaugeway` command. Exit codes: 0 done, 1 failed, 2 wrong usage."""

import json
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from serving import client
from serving.config import load
from serving.errors import BadRequest, GaugewayError
from serving.manifest import REFERENCE_FILE, Manifest, check_tolerance
from serving.up import start

app = typer.Typer(help="A gateway that gauges: serve versioned ONNX models, and measure whether they are still right.",
                  no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich",
                  context_settings={"help_option_names": ["-h", "--help"]})  # fmt: skip
out, err = Console(), Console(stderr=True)

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="Configuration; default ./gaugeway.toml, else built in.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


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


@app.command(epilog="Example: gaugeway status --json")
def status(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Models, versions, weights, workers and replicas; monitors with state and losses."""
    found = client.status(load(config))
    if as_json:
        _print_json(found)
        return
    _print_versions(found)
    _print_processes(found)


@app.command(epilog="Example: gaugeway publish flights model.onnx --task classification --prediction probabilities:1"
                    " --features hour,carrier:categorical --reference january.parquet --label late")  # fmt: skip
def publish(
    name: str,
    file: Path,
    version: Annotated[str | None, typer.Option(help="Default: the next number.")] = None,
    task: Annotated[str | None, typer.Option(help="classification or regression.")] = None,
    prediction: Annotated[str | None, typer.Option(help="OUTPUT or OUTPUT:COLUMN.")] = None,
    features: Annotated[
        str, typer.Option(help="Names in order, `name:categorical` for codes: a,b,c:categorical.")
    ] = "",
    reference: Annotated[Path | None, typer.Option(help="Rows (Parquet, CSV) like those at training time.")] = None,
    label: Annotated[str | None, typer.Option(help="The column of the reference that holds the truth.")] = None,
    time: Annotated[str | None, typer.Option(help="The column of the reference that holds the rows' time.")] = None,
    batch_tolerance: Annotated[
        float,
        typer.Option(
            callback=lambda value: _tolerance(value),
            metavar="DIFFERENCE",
            help="Requests share runs when rows run together differ by at most this x max(1, |value|); 0: no bit.",
        ),
    ] = 0.0,
    settings: Annotated[list[str], typer.Option("--set", help="Lineage, key=value; repeatable.")] = [],  # noqa: B006
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Make an immutable version of an ONNX file; what is not given is not monitored, and said so."""
    from serving import publishing
    from serving.repository import Repository

    settled = load(config)
    with err.status("validating in a process of its own …"):
        published = publishing.publish(
            Repository.of(settled), name, file, version=version, task=task, prediction=prediction,
            features=[feature for feature in features.split(",") if feature], reference=reference, label=label,
            time=time, lineage=dict(_pair(text) for text in settings), block_s=settled.monitors.block_s,
            batch_tolerance=batch_tolerance,
        )  # fmt: skip
    _tell(published.manifest, published.created, published.notes, as_json)


@app.command(epilog="Example: gaugeway models --json")
def models(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Every published version, oldest first."""
    from serving.repository import Repository

    manifests = Repository.of(load(config)).manifests()
    if as_json:
        _print_json([{**msgspec.to_builtins(m), "digest": m.digest} for m in manifests])
        return
    table = Table("model", "version", "digest", "task", "features", "reference", "batches")
    for m in manifests:
        table.add_row(m.model, m.version, m.digest[:12], m.task or "-", str(len(m.features) or "-"),
                      "yes" if REFERENCE_FILE in m.files else "-", _batches(m))  # fmt: skip
    out.print(table if manifests else "nothing is published yet; see `gaugeway publish --help`")


@app.command(epilog="Example: gaugeway route flights 1=0.5 2=0.5 --why 'version 2 has the lower Brier score'")
def route(
    model: str,
    weights: Annotated[list[str], typer.Argument(help="VERSION=WEIGHT, adding up to 1.")],
    why: Annotated[str, typer.Option(help="Written beside the change.")] = "",
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Split a model's traffic between versions; keys move only as far as the weights do."""
    wanted = {version: _number(weight) for version, weight in map(_pair, weights)}
    changed = client.route(load(config), model, wanted, why)
    if as_json:
        _print_json(changed)
    else:
        out.print(f"{model}: {_shares(changed['before'])} -> {_shares(changed['weights'])} ({changed['effect']})")


@app.command(epilog="Example: gaugeway label flights labels.ndjson")
def label(
    model: str,
    file: Annotated[
        Path, typer.Argument(help="NDJSON or a JSON array of {id, row, label, time}; - for standard input.")
    ],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Send the truth that arrived later; it is joined to the predictions by request id and row."""
    text = sys.stdin.read() if str(file) == "-" else _read(file)
    with Progress(console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task("sending labels", total=None)
        counts = client.label(
            load(config), model, text, lambda done, total: progress.update(task, completed=done, total=total)
        )
    if as_json:
        _print_json(counts)
    else:
        out.print(", ".join(f"{counts[key]} {key}" for key in ("joined", "parked", "unknown")), highlight=False)
        for refused in counts["refused"]:
            out.print(f"  refused, line {refused['index'] + 1}: {escape(refused['reason'])}", highlight=False)
    if counts["refused"]:
        raise typer.Exit(1)


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


def main() -> None:
    """Every expected failure is one sentence on standard error."""
    try:
        app()
    except GaugewayError as error:
        err.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise typer.BadParameter(f"expected key=value, got {text!r}")
    return key, value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"expected a weight in 0..1, got {text!r}") from None


def _tell(manifest: Manifest, created: bool, notes: Sequence[str], as_json: bool) -> None:
    """What became of a publication."""
    if as_json:
        _print_json({"model": manifest.model, "version": manifest.version, "digest": manifest.digest,
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


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(f"cannot read {file}: {error}") from None


def _print_json(document: Any) -> None:
    print(json.dumps(document, indent=2))


def _shares(weights: dict[str, float]) -> str:
    return " ".join(f"{version}={weight:g}" for version, weight in sorted(weights.items())) or "nothing"


def _print_versions(found: dict[str, Any]) -> None:
    table = Table("model", "version", "weight", "state", "replicas (process, state, load)", "monitor")
    monitors = found["monitors"].get("models", {})
    for name, model in found["models"].items():
        for version, one in model["versions"].items():
            replicas = "  ".join(f"{r['pid']} {r['state']} {r['load']}" for r in one["replicas"]) or "none"
            silent = "no_data" if found["monitors"]["state"] == "ok" else found["monitors"]["state"]
            state = monitors.get(name, {}).get(version, {}).get("state", silent)
            table.add_row(name, version, f"{model['weights'].get(version, 0):g}", one["state"], replicas, state)
    out.print(table)


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


if __name__ == "__main__":
    main()
