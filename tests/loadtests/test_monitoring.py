import pytest

from loadtests import monitoring


def test_every_part_has_a_cost_for_every_size_of_record(capsys: pytest.CaptureFixture[str]) -> None:
    monitoring.main(["--rows", "2000", "--repeats", "1", "--rows-per-record", "1", "20"])
    head, names, _, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith("CPU seconds for 100,000 rows")
    costs = [[float(cell) for cell in line.strip("| ").split("|")] for line in lines]
    assert [row[0] for row in costs] == [1, 20]
    for row in costs:
        assert len(row) == names.count("|") - 1
        assert row[-1] == pytest.approx(sum(row[1:7]), abs=0.01)
        assert row[1] > 0 and row[3] > 0
