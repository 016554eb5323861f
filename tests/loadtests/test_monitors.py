"""The figures are of work that was done; how fast it was is not tested here."""

from pathlib import Path

import pytest

from loadtests.monitors.__main__ import main
from loadtests.monitors.counting import bare, count
from loadtests.monitors.judging import BLOCK_ROWS, WARM, judge
from loadtests.monitors.page import BEGIN, END, Figure, stated, table
from loadtests.monitors.traffic import Traffic

ROWS = 1_510  # no whole number of records


@pytest.mark.parametrize("traffic", [Traffic(3), Traffic(3, labelled=True), Traffic(2, categories=40)])
def test_every_row_that_was_written_is_counted_in_every_feature(traffic: Traffic) -> None:
    profile = traffic.profile(2_000)
    found, floor = count(traffic, profile, ROWS, 25, 5_000.0), bare(traffic, profile, ROWS, 5_000.0)
    assert (found.rows, found.values) == (floor.rows, floor.values) == (ROWS, ROWS * traffic.features)
    assert found.spent_s > 0 and floor.spent_s > 0


def test_every_block_is_judged_and_told() -> None:
    found = judge(features=2, blocks=3)
    assert found.verdict.blocks == WARM + 3
    assert found.verdict.n == 10 * BLOCK_ROWS
    assert min(found.judging, found.telling, found.keeping) > 0


def test_a_run_prints_what_it_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = tmp_path / "performance.md"
    document.write_text(f"# Performance\n\n{BEGIN}\n{END}\n\nThe end.\n")
    sizes = ["--rows", "400", "--features", "2", "--categories", "20", "--reference-rows", "1000", "--repeats", "1"]
    main([*sizes, "--blocks", "1", "--judged", "2", "--many", "2", "--document", str(document)])
    printed, written = capsys.readouterr().out.strip(), document.read_text()
    assert printed in written and written.startswith("# Performance") and written.endswith("The end.\n")
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines()[2:]]
    assert [line[0] for line in lines] == [
        "2 numbers",
        "2 numbers, rows wait for labels",
        "2 texts, each of 1 categories",
        "2 texts, each of 20 categories",
        "a block of 2 features is judged and told",
        "the state of 2 features is written",
        "a sidecar that counts and judges 2 texts, each of 20 categories",
        "a sidecar that counts and judges 2 numbers",
    ]


def test_a_document_without_a_place_for_the_figures_is_left_as_it_is() -> None:
    with pytest.raises(ValueError, match="has no <!-- figures"):
        stated("# Performance\n", table([Figure("rows", "1 ns", "")]))
