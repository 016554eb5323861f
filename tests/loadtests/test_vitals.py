"""Growth of processes: a leak is found, noise is not, and a process that ends is named."""

import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from loadtests.open_loop.report import Report
from loadtests.soak import verdict
from loadtests.vitals import MOST_GROWTH_BYTES, Growth, Sample, Vitals, growth, read
from serving.discovery import alive

FLAT = Growth("gateway", 50e6, 50e6, 0.0, 0, 0)
FINE = Report(1.0, 1.0, 5, 5, 5, {"200": 5}, (), (), 0, 0, (), (), (), 1, 1e-5, 0.1, "")


def samples(bytes_per_s: float, noise_bytes: float = 0.0, seconds: int = 500) -> list[Sample]:
    rng = np.random.default_rng(1)
    own = [50e6 + bytes_per_s * at + noise_bytes * rng.normal() for at in range(seconds)]
    return [Sample(float(at), int(one), 20, 5) for at, one in enumerate(own)]


def test_a_leak_of_two_kilobytes_a_second_is_found_through_noise() -> None:
    leak, noise = growth("a", samples(2048, 300_000), 50), growth("a", samples(0, 300_000), 50)
    assert leak.broken == "memory" and leak.bytes_per_span == pytest.approx(2048 * 600, rel=0.2)
    assert noise.broken == "" and abs(noise.bytes_per_span) < MOST_GROWTH_BYTES / 3


def test_more_descriptors_and_threads_are_found() -> None:
    more = [replace(one, descriptors=20 + int(one.at_s) // 50, threads=5 + int(one.at_s) // 50) for one in samples(0)]
    assert growth("a", more, 0).broken == "descriptors, threads"
    assert growth("a", samples(0), 0).broken == ""


def test_connections_that_come_and_go_with_the_load_are_no_leak() -> None:
    busy = [replace(one, descriptors=20 + 100 * (10 < one.at_s < 490)) for one in samples(0)]
    assert growth("a", busy, 0).broken == ""


def test_samples_are_those_of_the_process() -> None:
    before = read(os.getpid(), 0.0)
    held = mmap.mmap(-1, 20 * 2**20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # memory freed before would not grow
    held.write(b"x" * len(held))
    with open(os.devnull), open(os.devnull):
        after = read(os.getpid(), 1.0)
    assert after.own_bytes - before.own_bytes > 10 * 2**20
    assert after.descriptors - before.descriptors == 2 and after.threads == before.threads


def test_a_process_that_ends_is_named() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    vitals = Vitals({"self": os.getpid(), "child": process.pid}, period_s=0.01)
    with vitals.running():
        _until(lambda: len(vitals.samples.get("child", [])) > 5)
        process.communicate(b"\n")
        _until(lambda: vitals.ended == ["child"])
    assert {one.name for one in vitals.after(0.0)} == {"self", "child"}
    assert vitals.after(time.monotonic() + 1) == []


def test_a_process_that_nobody_has_waited_for_has_ended() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    try:
        _until(lambda: not alive(process.pid))  # it is a zombie
        with pytest.raises(ProcessLookupError, match="has ended"):
            read(process.pid, 0.0)
    finally:
        process.wait()


@pytest.mark.parametrize(
    ("found", "grown", "ended", "said"),
    [
        (FINE, [FLAT], [], []),
        (FINE, [replace(FLAT, bytes_per_span=2e6)], [], ["gateway: memory grew"]),
        (FINE, [FLAT], ["replica"], ["replica ended"]),
        (replace(FINE, statuses={"200": 4, "503": 1}), [FLAT], [], ["of 5 requests not all were answered"]),
        (replace(FINE, wrong=1), [FLAT], [], ["of 5 requests not all were answered"]),
    ],
)
def test_every_broken_bound_gets_a_sentence(
    found: Report, grown: list[Growth], ended: list[str], said: list[str]
) -> None:
    sentences = verdict(found, grown, ended)
    assert len(sentences) == len(said)
    assert all(one.startswith(start) for one, start in zip(sentences, said, strict=True))


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
