"""The capture log of this node: `capture list`, `capture export`, `capture erase`."""

import getpass
import math
import os
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from serving.commands.console import AsJson, ConfigFile, err, out, print_json
from serving.config import Config, load
from serving.errors import BadRequest, Forbidden, NotFound
from serving.routing import Policy, hash_key
from serving.routing import Table as RoutingTable

app = typer.Typer()
capture = typer.Typer(help="What is captured of requests and predictions on this node.", no_args_is_help=True)
app.add_typer(capture, name="capture")


@capture.command("list", epilog="Example: gaugeway capture list --json")
def list_(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Rows, bytes and times of what is captured on this node, by model and version."""
    from monitors.capture import export as exporting

    found = exporting.held(captures(load(config)))
    if as_json:
        print_json([asdict(one) for one in found])
        return
    table = Table("model", "version", "segments", "rows", "bytes", "first (UTC)", "last (UTC)")
    for one in found:
        table.add_row(one.model, one.version, str(one.segments), str(one.rows), str(one.bytes), _shown(one.first),
                      _shown(one.last))  # fmt: skip
    out.print(table if found else "nothing is captured on this node; see docs/capture.md")


@capture.command(epilog="Examples: gaugeway capture export flights flights.parquet --since 2026-11-01"
                        " | gaugeway capture export flights flights/ --by-day --version 2 --labels")  # fmt: skip
def export(
    model: str,
    to: Annotated[Path, typer.Argument(help="A new Parquet file; with --by-day a new folder.")],
    version: Annotated[str | None, typer.Option(help="Default: all.")] = None,
    since: Annotated[str | None, typer.Option(help="Arrived then or later: ISO 8601, UTC where it says none.")] = None,
    until: Annotated[str | None, typer.Option(help="Arrived before.")] = None,
    by_day: Annotated[bool, typer.Option("--by-day", help="A folder day=YYYY-MM-DD for each day.")] = False,
    labels: Annotated[bool, typer.Option("--labels", help="With the labels that this node has.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Write captured rows of this node as Parquet."""
    from monitors.capture import export as exporting

    settled = load(config)
    selection = exporting.Selection(model, version, moment(since, -math.inf), moment(until, math.inf))
    with err.status("reading segments …"):
        journal = settled.run_dir / "monitors.db" if labels else None
        try:
            rows = exporting.export(captures(settled), selection, to, by_day=by_day, labels=journal)
        except OSError as error:
            raise BadRequest(f"cannot export to {to}: {error}") from None
    if as_json:
        print_json({"rows": rows, "to": str(to)})
    else:
        out.print(f"{rows} rows of {model} in {to}", highlight=False, soft_wrap=True)


@capture.command(epilog="Examples: gaugeway capture erase --id 4f1c --why 'ticket 12'"
                        " | gaugeway capture erase --key alice --model flights")  # fmt: skip
def erase(
    id: Annotated[str | None, typer.Option(help="The request whose rows go.")] = None,
    key: Annotated[str | None, typer.Option(help="The sticky key, as requests carry it, whose rows go.")] = None,
    model: Annotated[str | None, typer.Option(help="Default: all.")] = None,
    why: Annotated[str, typer.Option(help="Written beside the erasure. No personal data.")] = "",
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Take the rows of one request or one key out of this node's captures; who did it is kept, and never of whom."""
    from monitors.capture import erasure
    from serving.repository import Repository

    if (id is None) == (key is None):
        raise typer.BadParameter("expected either --id or --key")
    settled = load(config)
    models = sorted({path.parent.name for path in captures(settled).glob("*/*") if path.is_dir()})
    if model is not None and model not in models:
        raise NotFound(f"nothing is captured of model {model!r} on this node; there is {models or 'nothing'}")
    repository, by, found = Repository.of(settled), getpass.getuser(), list[erasure.Erased]()
    routed = (repository.table() or RoutingTable()).models
    for name in models if model is None else [model]:
        policy = routed[name].policy if name in routed else Policy(name, (), ())
        matches = erasure.of_id(id) if id is not None else erasure.of_key(_hash(policy, str(key)))
        with err.status(f"erasing from {name} …"):
            repository.remark(name, by=by, why=f"erasing captured rows by {'request id' if id else 'key'}: {why}")
            one = erasure.erase(settled.captures, name, matches)
            repository.remark(name, by=by, why=f"erased {one.rows} captured rows of {one.segments} segments: {why}")
        found.append(one)
    if as_json:
        print_json([one._asdict() for one in found])
        return
    for one in found:
        out.print(f"{one.model}: {one.rows} rows erased, {one.segments} segments written anew", highlight=False)


def captures(settled: Config) -> Path:
    """Raises Forbidden where they are another user's, to whom alone they are readable."""
    root = settled.captures
    if root.exists() and not os.access(root, os.R_OK | os.X_OK):
        raise Forbidden(f"{root} can be read by the user that runs the gateway alone: run this as that user")
    return root


def _hash(policy: Policy, key: str) -> int:
    """As the router hashes it, which takes headers and cookies byte by byte."""
    as_bytes = policy.sticky.startswith(("header:", "cookie:"))
    return hash_key(policy.key_salt, key.encode().decode("latin-1") if as_bytes else key)


def moment(text: str | None, default: float) -> float:
    """Seconds since 1970 of a time that people write. Raises BadParameter."""
    if text is None:
        return default
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"expected a time such as 2026-11-01 or 2026-11-01T12:00:00Z, got {text!r}") from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _shown(time: float | None) -> str:
    return "-" if time is None else datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S")
