from pathlib import Path

import pytest

from monitors.explain.plot import draw
from serving.errors import BadRequest
from tests.monitors.explain.faults import carriers, miles
from tests.monitors.explain.test_explaining import explained, watched
from tests.monitors.explain.test_rise import KNOWN, evening, rows
from tests.monitors.explain.test_rise import explained as rise


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_an_alarm_is_drawn(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"alarm.{ending}"
    draw(path, explained(watched(miles, 20, 30, times=1.609344), "distance, $"))
    assert path.stat().st_size > 10_000


@pytest.mark.parametrize("name", ["alarm.txt", "no folder/alarm.svg"])
def test_what_cannot_be_drawn_is_said(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=f"cannot draw .*{name}: "):
        draw(tmp_path / name, explained(watched(miles, 99, 5)))


def test_a_quiet_feature_is_drawn(tmp_path: Path) -> None:
    draw(tmp_path / "quiet.png", explained(watched(carriers, 99, 5)))
    assert (tmp_path / "quiet.png").stat().st_size > 10_000


@pytest.mark.parametrize("beside", [False, True])
def test_what_carries_a_rise_is_drawn_alone_and_beside_its_feature(beside: bool, tmp_path: Path) -> None:
    (carrier,) = rise(KNOWN, rows(8, 2, evening), feature="dep_hour").carriers
    draw(tmp_path / "rise.png", explained(watched(miles, 20, 30), "dep_hour") if beside else None, carrier)
    assert (tmp_path / "rise.png").stat().st_size > 10_000
