"""What the documents say about keys and metrics is what the code has."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from typer.core import TyperGroup
from typer.main import get_command

from monitors import exporter
from serving import cli, config, metrics
from serving.config import Config

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
ELEMENTS = {"models": "<name>", "versions": "<version>"}  # how the document names the keys of a table


def rows(document: str, columns: int) -> list[list[str]]:
    """The cells of all table rows whose first cell is code."""
    lines = [line for line in (ROOT / "docs" / document).read_text().splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return [row for row in cells if len(row) == columns]


def keys(kind: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every key of the tree with its default, as the document writes both."""
    for field in msgspec.structs.fields(kind):
        at = f"{path}{field.name}"
        if is_section(field.type):
            yield from keys(field.type, f"{at}.")
            continue
        yield at, shown(field)
        for element in filter(is_section, get_args(field.type)):
            yield from keys(element, f"{at}.{ELEMENTS[field.name]}." if field.name in ELEMENTS else f"{at}[].")


def is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def shown(field: Any) -> str:
    if field.required:
        return "required"
    default = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    if default is None:
        return "none"
    return f"`{default:g}`" if isinstance(default, float) else f"`{json.dumps(default)}`"


def test_every_key_of_the_configuration_is_documented_with_its_default() -> None:
    assert {key.strip("`"): default for key, default, _ in rows("configuration.md", 3)} == dict(keys(Config))


def test_every_metric_is_documented_with_its_type_and_labels() -> None:
    ours = {**metrics.NAMES, **metrics.CONTROL}
    declared = {name: (spec.kind, ", ".join(spec.labels)) for name, spec in ours.items()}
    declared |= {name: (spec.kind, ", ".join(spec.labels)) for name, spec in exporter.NAMES.items()}
    documented = {name.strip("`"): (kind, labels) for name, kind, labels, _ in rows("metrics.md", 4)}
    assert documented == {f"gaugeway_{name}": what for name, what in declared.items()}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_example_of_a_configuration_is_accepted(document: Path, tmp_path: Path) -> None:
    for example in re.findall(r"```toml\n(.*?)```", document.read_text(), re.DOTALL):
        path = tmp_path / "gaugeway.toml"
        path.write_text(example)
        config.load(path, environ={})


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text())
    assert [link for link in links if ":" not in link and not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_and_option_is_one_that_can_be_typed(document: Path) -> None:
    text = document.read_text().replace("\\\n", " ")
    said = re.findall(r"^ *gaugeway (.+)", text, re.MULTILINE) + re.findall(r"`gaugeway ([^`]+)`", text)
    assert [one for one in said if unknown(get_command(cli.app), one.partition(" #")[0].split())] == []


def unknown(command: Any, words: list[str]) -> list[str]:
    """Of words behind `command` those that it does not know: names of commands, and options."""
    while isinstance(command, TyperGroup) and words and not words[0].startswith("-"):
        names, words = words[0].split("|"), words[1:]
        if wrong := [name for name in names if name not in command.commands]:
            return wrong
        command = command.commands[names[0]]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    return [word for word in words if word.startswith("--") and word.partition("=")[0] not in known | {"--help"}]
