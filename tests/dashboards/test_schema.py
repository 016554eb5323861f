"""Grafana's own types read the dashboards and lose nothing of them: no field is misspelt or in the wrong place."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from grafana_foundation_sdk.cog import encoder, plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.dashboards import compiled

plugins.register_default_plugins()

# Fields of annotations that the data source for Prometheus reads; the SDK has those of Grafana itself.
OF_PROMETHEUS = {"step", "titleFormat", "useValueForTime"}


def lost(board: dict[str, Any]) -> list[str]:
    """Paths in it that Grafana's types do not have."""
    read = Dashboard.from_json(board)
    written = json.loads(encoder.JSONEncoder(sort_keys=True).encode(read))
    return [path for path in _missing(board, written, "$") if path.rpartition(".")[2] not in OF_PROMETHEUS]


def _missing(ours: Any, theirs: Any, at: str) -> Iterator[str]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            yield from _missing(value, theirs[key], f"{at}.{key}") if key in theirs else [f"{at}.{key}"]
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for i, pair in enumerate(zip(ours, theirs, strict=True)):
            yield from _missing(*pair, f"{at}[{i}]")
    elif ours != theirs:
        yield at


@pytest.mark.parametrize("uid", compiled.dashboards())
def test_grafana_knows_every_field(uid: str) -> None:
    assert lost(compiled.dashboards()[uid]) == []


@pytest.mark.parametrize("where", ["fieldConfig", "options", "targets"])
def test_a_misspelt_field_is_found(where: str) -> None:
    board = copy.deepcopy(compiled.dashboards()["gaugeway-overview"])
    panel = next(panel for panel in board["panels"] if panel["type"] == "timeseries")
    part = panel[where][0] if where == "targets" else panel[where]
    part["legendFormatt"] = 1
    assert len(lost(board)) == 1


def test_every_panel_asks_a_question_and_has_a_place_of_its_own() -> None:
    for uid, board in compiled.dashboards().items():
        taken: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            at = panel["gridPos"]
            cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
            assert not cells & taken and at["x"] + at["w"] <= 24, f"{uid}: {panel['title']}"
            taken |= cells
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for where, panel in compiled.panels():
        if panel["type"] != "text":
            assert panel["description"].rstrip().endswith(("?", ".")) and "?" in panel["description"], where
            assert panel["fieldConfig"]["defaults"].get("unit") or panel["type"] == "heatmap", where
