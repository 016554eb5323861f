"""`gaugeway simulate`: what a policy would do, before it is deployed."""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.table import Table

from serving.commands.console import AsJson, ConfigFile, err, out, print_json
from serving.config import Config, Replicas, load
from serving.errors import BadRequest, ConfigError, GaugewayError
from serving.simulation import load as loads
from serving.simulation.load import Trace
from serving.simulation.pool import Run, Setting, simulate
from serving.simulation.summary import Match, Summary, changes, match, summarise

app = typer.Typer()
group = typer.Typer(no_args_is_help=True, help="What a policy would do, before it is deployed.")
app.add_typer(group, name="simulate")

Pool = Annotated[
    str, typer.Option(help="A pool of the configuration whose policy is tried: MODEL/VERSION or MODEL/VERSION/POOL.")
]
Override = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="A key of `replicas`, as max=8; repeatable.")
]


@group.command(epilog="Example: gaugeway simulate autoscaling --shape diurnal --peak 400 --request-s 0.02"
                      " --set max=20 --plot day.png")  # fmt: skip
def autoscaling(
    trace: Annotated[Path | None, typer.Option(help="CSV: at_s, requests_per_s, and perhaps replicas.")] = None,
    shape: Annotated[str | None, typer.Option(help=f"Instead of a trace: {', '.join(loads.SHAPES)}.")] = None,
    quiet: Annotated[float, typer.Option(min=0, help="Requests a second of a shape at its lowest.")] = 1.0,
    peak: Annotated[float, typer.Option(min=0, help="And at its highest.")] = 100.0,
    seconds: Annotated[float | None, typer.Option(min=10, help="Length of a shape; default: its own.")] = None,
    request_s: Annotated[float, typer.Option(min=1e-6, help="Seconds of a replica that one request costs.")] = 0.02,
    cold_start_s: Annotated[float, typer.Option(min=0, help="Seconds until a new replica works.")] = 4.0,
    pool: Pool = "",
    settings: Override = [],  # noqa: B006
    seed: Annotated[int, typer.Option(help="Of the requests' arrival.")] = 1,
    plot: Annotated[Path | None, typer.Option(help="Draw load, replicas, queue and cost: PNG, SVG or PDF.")] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Drive the autoscaler with a load that was recorded or made up; the same function decides when it is deployed."""
    load_of = _load(trace, shape, quiet, peak, seconds)
    setting = Setting(_policy(load(config), pool, settings), request_s, cold_start_s, seed=seed)
    draw = partial(_plotter(), plot) if plot else None  # before the work, since it may not be there
    with err.status("simulating …"):
        run = simulate(load_of, setting)
    if draw is not None:
        draw(load_of, setting, run)
    found, matched = summarise(run), match(load_of, run) if load_of.recorded else None
    if as_json:
        print_json(_document(load_of, setting, run, found, matched))
    else:
        _print(found, matched)


def _load(trace: Path | None, shape: str | None, quiet: float, peak: float, seconds: float | None) -> Trace:
    if trace is not None and shape is None:
        return loads.read(trace)
    if trace is not None or shape not in loads.SHAPES:
        raise typer.BadParameter(f"give --trace FILE or --shape {'|'.join(loads.SHAPES)}")
    return loads.shaped(shape, quiet, peak, seconds)


def _policy(config: Config, pool: str, settings: list[str]) -> Replicas:
    """Of the pool that is named, else the defaults; with what `--set` says."""
    policy = _configured(config, pool) if pool else Replicas(max=10)
    keys = {name: getattr(policy, name) for name in Replicas.__struct_fields__}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals or key not in keys:
            raise typer.BadParameter(f"expected KEY=VALUE with a key of {', '.join(keys)}, got {text!r}")
        keys[key] = value
    try:
        return msgspec.convert(keys, Replicas, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"the policy to try: {error}") from None


def _configured(config: Config, pool: str) -> Replicas:
    model, _, rest = pool.partition("/")
    version, _, name = rest.partition("/")
    if model not in config.models or version not in config.models[model].versions:
        raise BadRequest(f"the configuration describes no pool {pool!r}; expected MODEL/VERSION or MODEL/VERSION/POOL")
    pools = config.models[model].versions[version].by_pool
    if name and name not in pools:
        raise BadRequest(f"version {version!r} of {model!r} has no pool {name!r}; it has {', '.join(pools)}")
    return pools[name] if name else next(iter(pools.values()))


def _plotter() -> Callable[[Path, Trace, Setting, Run], None]:
    try:
        from serving.simulation.plot import draw
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        raise GaugewayError("--plot needs matplotlib: pip install 'gaugeway[plots]'") from None
    return draw


def _document(trace: Trace, setting: Setting, run: Run, found: Summary, matched: Match | None) -> dict[str, Any]:
    """All of it, with the replicas as they changed."""
    return {
        "setting": {**asdict(setting), "policy": msgspec.to_builtins(setting.policy)},
        "seconds": trace.seconds,
        "summary": asdict(found),
        "recorded": asdict(matched) if matched else None,
        "wanted": [{"at_s": at, "replicas": n} for at, n in changes(run.at_s, run.wanted)],
        "working": [{"at_s": at, "replicas": n} for at, n in changes(run.at_s, run.ready)],
    }


def _print(found: Summary, matched: Match | None) -> None:
    table = Table("", "simulated", box=None, pad_edge=False)
    saved = 1.0 - found.replica_hours / found.fixed_replica_hours if found.fixed_replica_hours else 0.0
    for what, value in (
        ("requests", f"{found.requests:,}"),
        ("wait for a replica, p50 / p99 / most", f"{found.wait_p50_s:.1f} / {found.wait_p99_s:.1f}"
                                                 f" / {found.wait_most_s:.1f} s"),
        ("most requests waiting", f"{found.most_waiting:,}"),
        ("replicas, mean / most", f"{found.replicas_mean:.2f} / {found.replicas_most}"),
        ("replica hours", f"{found.replica_hours:.3g}, {saved:.0%} less than {found.replicas_most} all the time"),
        ("changes, most turns in five minutes", f"{found.changes}, {found.reversals}"),
    ):  # fmt: skip
        table.add_row(what, value)
    out.print(table)
    if matched:
        out.print(f"as recorded {matched.equal_ratio:.1%} of the time, {matched.mean_difference:.2f} replicas apart on"
                  f" average, {matched.most_difference} at most; replica hours {matched.simulated_replica_hours:.3f}"
                  f" simulated, {matched.recorded_replica_hours:.3f} recorded", highlight=False)  # fmt: skip
