import pytest

from loadtests import labels


def test_every_part_has_a_cost_and_all_labels_are_joined(capsys: pytest.CaptureFixture[str]) -> None:
    labels.main(["--labels", "6400"])
    _, names, _, *lines = capsys.readouterr().out.splitlines()
    costs = [[float(cell.replace(",", "")) for cell in line.strip("| ").split("|")[1:]] for line in lines]
    assert len(costs) == 2 and {len(row) for row in costs} == {names.count("|") - 2}
    assert all(row[-1] > 0 for row in costs)
