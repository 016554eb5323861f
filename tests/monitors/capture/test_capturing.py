"""The thread begins with the first model that is captured, rests without one, and outlives what goes wrong."""

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from monitors.capture import capturing
from monitors.capture.capturing import Capturing
from serving.config import Capture
from serving.ring import RingWriter
from tests.monitors.capture.captured import append, expected, places, records

ON, OFF = {"m": Capture(enabled=True, retention_days=36500)}, {"m": Capture(retention_days=36500)}


class Site:
    def __init__(self, folder: Path) -> None:
        self.captures = folder / "captures"
        self.settings: dict[str, Capture] | None = OFF
        self.ring = RingWriter(folder / "rings" / "worker-0.ring", 2**16)
        self.subject = Capturing(folder / "rings", self.captures, lambda: self.settings)

    @property
    def written(self) -> int:
        return sum(found.rows for found in self.subject.figures.written.values())


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(capturing, "POLL_S", 0.005)
    monkeypatch.setattr(capturing, "TIDY_S", 0.02)
    found = Site(tmp_path)
    yield found
    found.subject.stop()


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_nothing_is_touched_while_nothing_is_captured(site: Site) -> None:
    append(site.ring, records(5))
    site.subject.start()
    site.subject.stop()
    assert not site.captures.exists() and site.subject.figures.lag_s is None


def test_it_begins_rests_and_begins_again(site: Site) -> None:
    site.subject.start()
    append(site.ring, records(5))
    site.settings = ON
    until(lambda: site.written == len(expected(records(5))))
    site.settings = OFF
    until(lambda: not site.subject._following)
    append(site.ring, [record for record in records(3000, first=5) if record.inputs])
    site.settings = ON
    append(site.ring, last := records(1, first=9000))
    until(lambda: places(site.captures)[-1:] == expected(last))
    assert site.subject.figures.dropped["lost"] == 0
    assert len(set(places(site.captures))) == len(places(site.captures))


def test_a_successor_that_knows_no_table_yet_forgets_nothing(site: Site, tmp_path: Path) -> None:
    site.settings = ON
    append(site.ring, records(5))
    site.subject.start()
    until(lambda: site.written > 0)
    site.subject.stop()
    append(site.ring, found := [record for record in records(3000, first=5) if record.inputs])
    again = site.subject = Capturing(tmp_path / "rings", site.captures, lambda: site.settings)
    site.settings = None
    again.start()
    time.sleep(0.05)
    site.settings = ON
    until(lambda: again.figures.dropped.get("lost", 0) > 0)
    until(lambda: site.written + again.figures.dropped["lost"] == len(expected([*records(5), *found])))


def test_what_goes_wrong_is_said_once_and_tried_again(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.settings = ON
    site.captures.write_text("in the way")
    append(site.ring, records(5))
    with caplog.at_level(logging.ERROR):
        site.subject.start()
        until(lambda: "nothing is captured" in caplog.text)
        time.sleep(0.05)
        assert caplog.text.count("nothing is captured; trying again") == 1
        site.captures.unlink()
        until(lambda: site.written == len(expected(records(5))))
    assert places(site.captures) == expected(records(5))
