"""Which process is which, what /proc says of them, and which bounds are said to be broken."""

import os
from pathlib import Path

import pytest

from loadtests.memory import GAUGEWAY, MOST_A_VERSION_BYTES, NOTHING, Found, Memory, by_role, page, parse, role, settled
from loadtests.processes import Seen

MB = 1_000_000


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("ray::Controller", "controller"),
        ("ray::Controller.status", "controller"),
        ("ray::ServeController.listen_for_change", "Ray: Serve's controller"),
        ("ray::Node", "node actor"),
        ("ray::ServeReplica:flights 1 cpu:replica", "replica"),
        ("python -m serving.worker run/config.json --slot 0", "gateway worker"),
        ("python -m monitors.sidecar run/config.json", "sidecar"),
        ("python -m serving.cli up", "`gaugeway up`"),
        ("site-packages/ray/core/src/ray/raylet/raylet --raylet_socket_name=x", "Ray: raylet"),
        ("ray::IDLE", "Ray: agents, log monitor, idle workers"),
    ],
)
def test_a_process_is_known_by_its_command(command: str, name: str) -> None:
    assert role(command) == name


def test_memory_is_what_the_kernel_says() -> None:
    rollup = "55d0-7ffd ---p 0 00:00 0 [rollup]\nRss: 9 kB\nPss: 5 kB\nPrivate_Clean: 1 kB\nPrivate_Dirty: 3 kB\n"
    assert parse(rollup) == Memory(9 * 1024, 5 * 1024, 4 * 1024)
    me = Seen(os.getpid(), 0, 0, 0, 0.0, "python -m serving.worker")
    gone = Seen(2**22 + 1, 0, 0, 0, 0.0, "ray::Controller")
    found = by_role([me, gone])
    assert found.keys() == {"gateway worker"}
    before = parse(Path("/proc/self/smaps_rollup").read_text())
    assert 0 < found["gateway worker"].own <= found["gateway worker"].proportional <= found["gateway worker"].resident
    assert found["gateway worker"].resident <= before.resident + 10 * MB


def test_it_waits_until_nothing_moves() -> None:
    sizes = iter([100, 60, 50, *[48] * 9])
    looks = []

    def look() -> dict[str, Memory]:
        looks.append(next(sizes) * MB)
        return dict.fromkeys(GAUGEWAY, Memory(0, 0, looks[-1]))

    assert settled(look, wait=lambda seconds: None)["controller"].own == 48 * MB
    assert looks == [size * MB for size in [100, 60, 50, *[48] * 6]]


def test_what_takes_too_much_is_said_and_only_that() -> None:
    small, large = Memory(200 * MB, 100 * MB, 90 * MB), Memory(400 * MB, 300 * MB, 290 * MB)
    grown = Memory(0, 0, small.own + 100 * MOST_A_VERSION_BYTES)
    idle = {**dict.fromkeys(GAUGEWAY, small), "Ray: Serve's controller": large}
    good = Found(idle, 100, idle, {**idle, "controller": grown})
    assert good.broken == [] and good.together == Memory(1000 * MB, 500 * MB, 450 * MB)
    heavy = dict.fromkeys(GAUGEWAY, large)
    more = {**heavy, "controller": large + Memory(0, 0, 101 * MOST_A_VERSION_BYTES)}
    broken = Found(heavy, 100, heavy, more).broken
    assert [sentence.split()[-1] for sentence in broken] == ["1,200", "50"]


def test_the_page_has_a_row_for_each_process() -> None:
    idle = {**dict.fromkeys(GAUGEWAY, Memory(3 * MB, 2 * MB, MB)), "Ray: Serve's controller": NOTHING}
    written = page(Found(idle, 10, idle, idle), "--versions 10")
    assert "| controller | 3 | 2 | 1 |" in written and "| **these together** (bound: 1,200) | 15 | 10 | 5 |" in written
    assert "10 more versions" in written and "| controller | 1.0 | 1.0 | 0.0 |" in written
