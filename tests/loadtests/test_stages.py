"""Stages name files and functions that exist, and a real run accounts for all that it saw."""

from collections import Counter
from pathlib import Path

import uvloop

import serving
from loadtests import stages

PLACES = [place for _, places in stages.STAGES for place in places]
FILES = {path.stem: path for path in Path(serving.__file__).parent.rglob("*.py")}


def test_every_place_exists() -> None:
    for place in PLACES:
        file, _, function = place.partition(".")
        assert f"def {function}" in FILES[file].read_text(), place


def test_a_function_of_its_own_goes_before_its_file() -> None:
    assert stages.stage("server", "_write") == "write to the client"
    assert stages.stage("server", "_begin") == "HTTP"
    assert stages.stage("selectors", "select") == stages.REST


def test_a_real_run(tmp_path: Path) -> None:
    found, request_s = uvloop.run(stages.measure(tmp_path, connections=4, seconds=2))
    assert found.total() > 30 and 5e-6 < request_s < 5e-3
    assert {"parse and check tensors", "infer", "write to the client"} <= found.keys()
    assert found[stages.REST] < found.total() / 2
    assert stages.table(found, request_s).count("\n") == len(found) + 2


def test_the_table_adds_up() -> None:
    lines = stages.table(Counter({"infer": 3, "HTTP": 1}), 1e-4).splitlines()
    assert lines[2:] == ["| infer | 75 % | 75.0 |", "| HTTP | 25 % | 25.0 |", "| in all | 4 looks | 100.0 |"]
