"""`gaugeway monitor`: how the monitors stand, why an alarm is on, and a new beginning."""

import math
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from serving import inquiring
from serving.commands.capture import captures, moment
from serving.commands.console import AsJson, ConfigFile, err, out, print_json
from serving.config import load
from serving.errors import BadRequest, GaugewayError, NotFound

app = typer.Typer()
group = typer.Typer(no_args_is_help=True, help="How the monitors stand, why an alarm is on, and a new beginning.")
app.add_typer(group, name="monitor")

WORST = 3  # features of a version in the table

Reason = Annotated[str, typer.Option("--reason", help="Kept beside who ordered it and when.")]


@group.command(epilog="Example: gaugeway monitor status --json")
def status(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Every version: its state, its alarms since when, its loss, its labels, its worst features."""
    document = inquiring.verdicts(load(config))
    if as_json:
        print_json(document)
        return
    table = Table("model", "version", "state", "alarm since (UTC)", "loss (allowed)\nlabelled", "evidence, of")
    for model, versions in document["models"].items():
        for version, one in versions.items():
            table.add_row(model, version, _state(one), _lines(_alarms(one)), f"{_loss(one)}\n{_labelled(one)}",
                          _lines(_worst(one)))  # fmt: skip
    out.print(table if document["models"] else "no version is monitored yet", highlight=False)


@group.command(epilog="Example: gaugeway monitor explain flights 2 distance --plot distance.svg")
def explain(
    model: str,
    version: str,
    feature: Annotated[str, typer.Argument(help="Default: all that are in alarm. `_prediction` is one.")] = "",
    plot: Annotated[Path | None, typer.Option(help="Draw it: PNG, SVG or PDF.")] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Why an alarm is on: when the data changed, which way, by how much, and what is probably broken."""
    draw = partial(_plotter(), plot) if plot else None  # before the work, since it may not be there
    found = inquiring.explanation(load(config), model, version, feature)
    if not feature and not found["alarms"]:
        raise NotFound(f"nothing to explain: no alarm is on for version {version!r} of {model!r}, it is"
                       f" {found['state']}; name a feature to see how it stands")  # fmt: skip
    if draw is not None:
        draw(*_drawn(found))
    if as_json:
        print_json(found)
        return
    told = {one["feature"] for one in found["features"]}
    alarms = [alarm for alarm in found["alarms"] if not feature and alarm["name"] not in told]
    rise = [found["rise"]] if feature and found.get("rise") else []  # of an older sidecar none
    for one in [*alarms, *found["features"], *rise]:
        out.print(escape(one["text"]), highlight=False, soft_wrap=True)


@group.command(epilog="Example: gaugeway monitor reset flights 2 --reason 'the sender of distance is repaired'")
def reset(model: str, version: str, reason: Reason, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Begin anew: the evidence is 0 and no alarm is on. What still holds will be found again."""
    done = inquiring.order(load(config), "reset", model, version, reason)
    _tell(done, f"the evidence of {model} version {version} begins anew", as_json)


@group.command(epilog="Example: gaugeway monitor rebase flights 2 --from-live --reason 'the summer schedule stays'"
                      " | gaugeway monitor rebase flights 2 --reference june.parquet --time at --reason 'as trained'"
                      " | gaugeway monitor rebase flights 2 --captured --since 2026-06-01 --reason quiet")  # fmt: skip
def rebase(
    model: str,
    version: str,
    reason: Reason,
    from_live: Annotated[bool, typer.Option("--from-live", help="The judged blocks since the change.")] = False,
    reference: Annotated[Path | None, typer.Option(help="Rows of a file, as for `publish`.")] = None,
    time: Annotated[str | None, typer.Option(help="The column of the reference that holds the rows' time.")] = None,
    captured: Annotated[bool, typer.Option("--captured", help="What this node captured of the version.")] = False,
    since: Annotated[str | None, typer.Option(help="Captured then or later: ISO 8601, UTC where it says none.")] = None,
    until: Annotated[str | None, typer.Option(help="Captured before.")] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Compare drift with other rows from now on: what they show is taken to be right. Harm is held to what it was."""
    _check_rows(from_live, reference, time, captured, since or until)
    span = moment(since, -math.inf), moment(until, math.inf)
    settled = load(config)
    if from_live:
        done = inquiring.order(settled, "rebase", model, version, reason)
    else:
        from serving import rebasing

        with err.status("running the model on the rows in a process of its own …"):
            if reference is not None:
                done = rebasing.rebase(settled, model, version, reason, reference, time)
            else:
                captures(settled)  # or it says who may read them
                done = rebasing.rebase_on_captured(settled, model, version, reason, *span)
    _tell(done, f"drift of {model} version {version} is compared with {done.get('rows', 'live rows')}", as_json)


def _check_rows(from_live: bool, file: Path | None, time: str | None, captured: bool, span: str | None) -> None:
    """Raises BadRequest unless it is said in one way which rows."""
    if from_live + (file is not None) + captured != 1:
        raise BadRequest("say which rows, in one way: --from-live, --reference FILE or --captured")
    if time is not None and file is None:
        raise BadRequest("--time names a column of the rows in --reference: of other rows the time is known")
    if span and not captured:
        raise BadRequest("--since and --until choose among captured rows: they need --captured")


def _tell(done: dict[str, Any], what: str, as_json: bool) -> None:
    if as_json:
        print_json(done)
        return
    out.print(f"order {done['order']}: {what} ({done['effect']})", highlight=False)
    for note in done["notes"] if done["kind"] == "rebase" else []:
        out.print(f"  note: {escape(note)}", highlight=False, soft_wrap=True)


def _plotter() -> Callable[[Path, dict[str, Any] | None, dict[str, Any] | None], None]:
    try:
        from monitors.explain.explanation import Carrier, Explanation
        from monitors.explain.plot import draw
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        raise GaugewayError("--plot needs matplotlib: pip install 'gaugeway[plots]'") from None
    return lambda path, one, carrier: draw(
        path, msgspec.convert(one, Explanation | None), msgspec.convert(carrier, Carrier | None)
    )


def _drawn(found: dict[str, Any]) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """What carries the most of a rise of the loss, and how it changed; else the one with the strongest evidence."""
    carriers = (found.get("rise") or {}).get("carriers", [])
    if not found["features"] and not carriers:
        raise NotFound(f"nothing to draw: no feature of version {found['version']!r} of {found['model']!r} is in alarm"
                       " by itself; name one")  # fmt: skip
    carrier = carriers[0] if carriers else None
    name = (carrier or found["features"][0])["feature"]
    return next((one for one in found["features"] if one["feature"] == name), None), carrier


def _state(version: dict[str, Any]) -> str:
    """Also by which hours features are compared, and how far a reference is learned, where they are or it is."""
    apart = Counter(one["season"] for one in version["drift"].values() if one.get("season"))
    learning = [note for note in version["notes"] if note.startswith("learning: ")]
    return "\n".join(
        [*(learning or [version["state"]]), *(f"{features} by {by}" for by, features in sorted(apart.items()))]
    )


def _alarms(version: dict[str, Any]) -> list[str]:
    """Those of features, which explain the others, together."""
    told = {"harm": version["risk"], **(version["checks"] or {}), **version["drift"]}
    on = {name: one for name, one in told.items() if one.get("alarm")}
    wide = [name for name in on if name not in version["drift"] or name.startswith("_")]
    features = [on[name]["since"] for name in on if name not in wide]
    lines = [f"{name} {_moment(on[name]['since'])}" for name in wide]
    return [*lines, f"{len(features)} features {_moment(min(features))}"] if features else lines


def _moment(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}"


def _lines(texts: list[str]) -> str:
    return escape("\n".join(texts)) or "-"


def _loss(version: dict[str, Any]) -> str:
    risk = version["risk"]
    mean = "-" if risk["mean"] is None else f"{risk['mean']:.3f}"
    return f"{mean} ({risk['bound']:.3f})" if risk["state"] != "unfit" else f"{mean}, not judged"


def _labelled(version: dict[str, Any]) -> str:
    covered = version["labels"]["coverage_ratio"]
    return "-" if covered is None else f"{covered:.2f}"


def _worst(version: dict[str, Any]) -> list[str]:
    features = {name: one for name, one in version["drift"].items() if name != "_all" and one["log_e"] > 0}
    worst = sorted(features, key=lambda name: -features[name]["log_e"])[:WORST]
    return [f"{name} {features[name]['log_e']:.1f} of {features[name]['threshold']:.1f}" for name in worst]
