"""A real sidecar that is killed, again and again, while a worker writes: every row once."""

import random
import signal
import threading
import time
from pathlib import Path

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from monitors.capture.erasure import erase, of_id
from serving.config import Capture
from tests.monitors.capture.captured import append, excerpted, expected, places
from tests.monitors.test_sidecar import Process, wait
from tests.monitors.traffic import manifest, stream

ON = Capture(enabled=True, features=("x0", "x2"), retention_days=36500)  # the stream is of 2013


def route(process: Process, wanted: Capture) -> None:
    """What the sidecar reads of the routing table."""
    versions = {name: {"manifest": manifest(name), "capture": wanted} for name in ("1", "2")}
    path = process.config.run_dir / "table.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".new").write_bytes(msgspec.json.encode({"models": {"m": {"versions": versions}}}))
    path.with_suffix(".new").rename(path)


def sample(process: Process, name: str) -> float:
    families = text_string_to_metric_families(process.get("/metrics").text)
    return sum(s.value for family in families for s in family.samples if s.name == name)


def test_a_sidecar_killed_at_any_time_captures_every_row_once(tmp_path: Path) -> None:
    process = Process(tmp_path)
    route(process, ON)
    found = [excerpted(one) for one in stream(1500)[0]]
    rings = [process.ring("worker-0"), process.ring("worker-1")]

    def write() -> None:
        for k, one in enumerate(found):
            append(rings[k % 2], [one])
            time.sleep(0.002)

    writing = threading.Thread(target=write)
    process.start()
    try:
        writing.start()
        rng = random.Random(3)
        for _ in range(2):
            time.sleep(rng.uniform(0.8, 1.8))
            assert process.end(signal.SIGKILL) == -signal.SIGKILL
            process.start()
        writing.join()
        captures, all_rows = process.config.captures, sorted(expected(found))
        wait(lambda: sample(process, "gaugeway_capture_rows_total") == len(all_rows))
        assert sorted(places(captures)) == all_rows
        assert sample(process, "gaugeway_capture_dropped_total") == 0
        one = found[-1]
        assert erase(captures, "m", of_id(one.ids[0])).rows == one.rows
        assert process.end(signal.SIGTERM) == 0
        assert sorted(places(captures)) == sorted(expected(found[:-1]))
    finally:
        process.end(signal.SIGKILL)


@pytest.mark.parametrize("wanted", [Capture(), ON])
def test_a_sidecar_that_is_told_to_end_has_captured_what_was_written(tmp_path: Path, wanted: Capture) -> None:
    process = Process(tmp_path)
    route(process, wanted)
    found = stream(200)[0]
    process.start()
    try:
        append(process.ring(), [excerpted(one) if wanted.enabled else one for one in found])
        wait(lambda: process.counted() == sum(one.rows for one in found))
        assert process.end(signal.SIGTERM) == 0
    finally:
        process.end(signal.SIGKILL)
    assert process.config.captures.exists() == wanted.enabled
    assert sorted(places(process.config.captures)) == sorted(expected(found) * wanted.enabled)
