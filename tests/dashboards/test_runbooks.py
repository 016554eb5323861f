"""Each alert has a runbook with the same four parts, whose commands exist."""

import re
from pathlib import Path

import pytest
from typer.main import get_group

from serving.cli import app
from tests.dashboards import compiled

RUNBOOKS = sorted(compiled.RUNBOOKS.iterdir())


def commands(path: Path) -> list[list[str]]:
    """What is to be typed, as words."""
    blocks = re.findall(r"```sh\n(.*?)```", path.read_text(), re.DOTALL)
    return [line.split() for block in blocks for line in block.strip().splitlines()]


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert [path.stem for path in RUNBOOKS] == sorted({rule["alert"] for rule in compiled.alerts()})


@pytest.mark.parametrize("path", RUNBOOKS, ids=lambda path: path.stem)
def test_a_runbook_says_what_it_means_whom_it_harms_how_to_see_and_what_to_do(path: Path) -> None:
    text = path.read_text()
    parts = re.findall(r"^(?:# (.*)|\*\*(\w+)\.\*\* .*|## (.*))$", text, re.MULTILINE)
    named = [next(filter(None, part)) for part in parts]
    assert named == [path.stem, "Meaning", "Impact", "Diagnosis", "Mitigation"]
    assert "```promql\n" in text


@pytest.mark.parametrize("path", RUNBOOKS, ids=lambda path: path.stem)
def test_the_commands_of_a_runbook_exist(path: Path) -> None:
    group = get_group(app)
    for program, *words in commands(path):
        assert program in ("gaugeway", "curl", "promtool", "amtool", "python"), program
        if program == "gaugeway":
            options = {name for parameter in group.commands[words[0]].params for name in parameter.opts}
            assert {word for word in words if word.startswith("--")} <= options, words


@pytest.mark.parametrize("path", RUNBOOKS, ids=lambda path: path.stem)
def test_grafana_fills_in_every_name(path: Path) -> None:
    variables = {variable["name"] for variable in compiled.dashboards()["gaugeway-runbooks"]["templating"]["list"]}
    assert set(re.findall(r"\$(\w+)", path.read_text())) <= variables
