"""What a worker says waits for a replica, its node's actor hears, for as long as the worker goes on saying it."""

import os
import time
from pathlib import Path

import msgspec

from serving.config import Model, Replicas, Version
from serving.planning import Plan, table
from serving.routing import Table
from serving.sleepers import FOLDER, FRESH_S, may_sleep, tell, told
from tests.replicas import manifest

KEY = ("m", "1", "cpu")


def test_what_is_told_is_heard_until_nothing_waits(tmp_path: Path) -> None:
    tell(tmp_path, [])
    assert told(tmp_path) == set()
    tell(tmp_path, [KEY, ("m", "2", "gpu")])
    assert told(tmp_path) == {KEY, ("m", "2", "gpu")}
    tell(tmp_path, [])
    assert told(tmp_path) == set() and list((tmp_path / FOLDER).iterdir()) == []


def test_what_a_worker_left_that_ended_is_not_heard_for_ever(tmp_path: Path) -> None:
    tell(tmp_path, [KEY])
    (path,) = (tmp_path / FOLDER).iterdir()
    old = time.time() - FRESH_S - 1
    os.utime(path, (old, old))
    assert told(tmp_path) == set()


def test_garbage_is_passed_over(tmp_path: Path) -> None:
    tell(tmp_path, [KEY])
    (tmp_path / FOLDER / "1.json").write_text("{")
    assert told(tmp_path) == {KEY}


def test_a_table_with_a_pool_whose_least_is_zero_may_sleep() -> None:
    for least in (0, 1):
        version = Version(replicas=Replicas(min=least))
        plan = Plan({("m", "1"): version}, {"m": {"1": 1.0}}, {"m": Model(versions={"1": version})})
        found = table(plan, {("m", "1"): manifest()}, {("m", "1")}, Table())
        assert may_sleep(msgspec.json.encode(found)) == (least == 0)
        entry = found.models["m"].versions["1"]
        assert (entry.sleepers, entry.sleeps) == ((("cpu",), True) if least == 0 else ((), False))
