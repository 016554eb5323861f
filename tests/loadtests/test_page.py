"""The page says what was measured, and by name what was not."""

import re

from loadtests.page import Report, page
from loadtests.rounds import Cell, Medians


def medians(requests_per_s: float, p50_s: float = 1e-3) -> Medians:
    return Medians(requests_per_s, {50: p50_s, 99: 5e-3}, 0, {"server": 3.0, "model": 1.5})


def report(**changes: object) -> Report:
    cells = {
        Cell("small", 1, "gaugeway"): medians(3000, p50_s=0.3e-3),
        Cell("small", 1, "triton"): medians(1500),
        Cell("small", 32, "triton"): medians(9000),
    }
    fields: dict[str, object] = {
        "command": "python -m loadtests.bench --rounds 3",
        "date": "2026-01-02",
        "machine": "2 cores",
        "rounds": 3,
        "seconds": 5,
        "workloads": {"small": "16 floats"},
        "cells": cells,
        "ratios": {Cell("small", 1, "gaugeway"): 1.0, Cell("small", 1, "triton"): 2.0},
        "bare_s": {"small": 0.1e-3},
        "peers": {"triton": "the server | of a wheel"},
        "versions": {"triton": {"nvidia-pytriton": "0.7.0"}},
        "missing": {"bentoml": "not installed: pip: ERROR: no such\nversion"},
        "images": {"small": "images/small.png"},
    }
    return Report(**(fields | changes))  # type: ignore[arg-type]


def rows(text: str) -> dict[str, list[str]]:
    """The last row of each first cell."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {cells[0]: cells[1:] for cells in lines}


def test_a_ratio_above_one_says_that_gaugeway_is_faster() -> None:
    text = page(report()).split("**32 connections**")[0]
    assert rows(text)["triton"] == ["1,500", "2.00", "1.000", "5.00", "0", "4.5", "server 3.0, model 1.5"]
    assert rows(text)["gaugeway"][1] == "1.00"


def test_without_a_bout_with_gaugeway_there_is_no_ratio() -> None:
    text = page(report()).split("**32 connections**")[1].split("## How")[0]
    assert rows(text)["triton"][:2] == ["9,000", "-"]


def test_the_overhead_is_over_the_bare_call_at_one_connection() -> None:
    said = re.findall(r"Gaugeway's p50 is (.*) ms above", page(report()))
    assert said == ["0.200"]


def test_who_was_not_measured_is_named_with_the_reason() -> None:
    text = page(report())
    assert "| bentoml | not installed: pip: ERROR: no such version |" in text
    assert "Not measured" not in page(report(missing={}))


def test_a_percentile_that_nobody_can_tell_is_a_dash() -> None:
    slow = Medians(10, {50: 0.1}, 0, {"server": 1.0})
    assert rows(page(report(cells={Cell("small", 1, "slow"): slow})))["slow"][2:4] == ["100.000", "-"]


def test_a_cell_cannot_break_its_table() -> None:
    assert "| triton | the server / of a wheel | nvidia-pytriton 0.7.0 |" in page(report())


def test_the_command_stands_on_the_page() -> None:
    assert "`python -m loadtests.bench --rounds 3` on 2026-01-02" in page(report())
