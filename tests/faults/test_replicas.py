"""Replicas that are killed, stopped, kept busy: requests are answered, rightly and once, or refused at once."""

import itertools
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests import models
from tests.faults.load import Load, body, storm
from tests.gateway import Gateway, running, until

TWO = """
[models.steps.versions."1"]
replicas = { min = 2 }
"""
REPLACED_S = 15.0
NUMBERS = itertools.count(0.5)  # each once: an input that was there when two replicas died is refused for a while


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """`steps`: two replicas, 3 ms a run; `long`: one, half a second a run."""
    served = {"steps": models.slow(1000), "long": models.slow(150_000)}
    with running(tmp_path_factory.mktemp("replicas"), served, extra=TWO) as up:
        until(lambda: len(_pids(up)) == 2, "two replicas")
        yield up


def test_no_request_is_lost_or_mixed_up_when_replicas_are_killed_under_load(gateway: Gateway, tmp_path: Path) -> None:
    with Load(gateway.url, "steps").running() as load, storm(gateway.url, "steps", tmp_path) as counted:
        for _ in range(3):
            answered = load.answered
            until(lambda seen=answered: load.answered > seen + 50, "load")  # type: ignore[misc]
            _kill_one(gateway)
    assert load.failed == {} and load.wrong == [] and load.answered > 150, load.refusals
    assert (counted.refused, counted.broken) == (0, 0) and counted.requests > 150


@pytest.mark.soak
def test_without_retries_the_same_kill_fails_requests(tmp_path: Path) -> None:
    with running(tmp_path, {"steps": models.slow(1000)}, extra=TWO, retries=0) as up:
        until(lambda: len(_pids(up)) == 2, "two replicas")
        with Load(up.url, "steps").running() as load, storm(up.url, "steps", tmp_path) as counted:
            until(lambda: load.answered > 50, "load")
            for _ in range(6):  # a replica that happens to idle harms nobody when it dies
                _kill_one(up)
                if load.failed:
                    break
    assert counted.refused + sum(load.failed.values()) > 0 and load.wrong == []


def test_without_any_replica_503_comes_at_once_and_the_model_comes_back_by_itself(gateway: Gateway) -> None:
    killed = set(_pids(gateway))
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    refused = until(lambda: _refused(gateway), "a refusal", 5)
    assert refused.elapsed.total_seconds() < 1
    assert int(refused.headers["retry-after"]) >= 1 and "steps" in refused.json()["error"]
    until(lambda: len(set(_pids(gateway)) - killed) == 2, "two new replicas", REPLACED_S)
    assert _ask(gateway, "steps").status_code == 200


def test_a_stopped_replica_gets_no_work_and_comes_back_when_it_goes_on(gateway: Gateway) -> None:
    stopped = _pids(gateway)[0]
    with Load(gateway.url, "steps").running() as load:
        until(lambda: load.answered > 50, "load")
        os.kill(stopped, signal.SIGSTOP)
        try:
            until(lambda: stopped not in _pids(gateway), "the replica to be seen as stopped", 5)
            answered = load.answered
            until(lambda: load.answered > answered + 50, "answers of the other")
        finally:
            os.kill(stopped, signal.SIGCONT)
        until(lambda: len(_pids(gateway)) == 2, "two replicas again", REPLACED_S)
    assert load.failed == {} and load.wrong == []


def test_past_its_deadline_a_run_is_ended_and_the_replica_is_free(gateway: Gateway) -> None:
    start = time.monotonic()
    assert _ask(gateway, "long", 0.2).status_code == 504
    assert 0.15 < time.monotonic() - start < 1.0
    again = _ask(gateway, "long", 20.0)
    assert again.status_code == 200 and again.json()["outputs"][0]["shape"] == [1, 1]
    waited_ms = float(again.headers["server-timing"].split("queue;dur=")[1].split(",")[0])
    assert waited_ms < 200


def _pids(gateway: Gateway) -> list[int]:
    return [replica["pid"] for replica in gateway.replicas("steps", "1")]


def _kill_one(gateway: Gateway) -> None:
    """And wait for its replacement."""
    killed = _pids(gateway)[0]
    os.kill(killed, signal.SIGKILL)
    until(lambda: len(set(_pids(gateway)) - {killed}) == 2, "the replacement", REPLACED_S)


def _ask(gateway: Gateway, model: str, deadline_s: float = 10.0) -> httpx.Response:
    headers = {"x-gaugeway-deadline-s": str(deadline_s)}
    return httpx.post(
        f"{gateway.url}/v2/models/{model}/infer", content=body(next(NUMBERS)), headers=headers, timeout=30
    )


def _refused(gateway: Gateway) -> httpx.Response | None:
    response = _ask(gateway, "steps")
    return response if response.status_code == 503 else None
