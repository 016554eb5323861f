"""What all commands share: where they print, and the options that most of them have."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

out, err = Console(), Console(stderr=True)

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="Configuration; default ./gaugeway.toml, else built in.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def print_json(document: Any) -> None:
    print(json.dumps(document, indent=2))


def pair(text: str) -> tuple[str, str]:
    """``key=value``. Raises BadParameter."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise typer.BadParameter(f"expected key=value, got {text!r}")
    return key, value
