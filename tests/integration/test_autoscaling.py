"""On a real Ray: a step of load is followed up and down without a failure; a version at zero answers; the simulator
tells beforehand what happens."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from loadtests.open_loop.outcomes import Outcomes
from serving.config import Replicas
from serving.simulation import load
from serving.simulation.load import Trace
from serving.simulation.pool import Setting, simulate
from serving.simulation.summary import match
from tests import models
from tests.faults.load import body
from tests.gateway import Gateway, running, until
from tests.integration.calls import sample
from tests.integration.scaling import Watch, ask, plan, recorded

MAX, DOWN_AFTER_S, WITHIN_S = 3, 4.0, 10.0
BUSY_RATIO, RUNS_S = 0.12, 0.01  # three replicas that need a third of a processor, since tests share two
POLICY = Replicas(min=1, max=MAX, target_busy_ratio=BUSY_RATIO, down_after_s=DOWN_AFTER_S)
SCALED = f"""
[models.steps.versions."1"]
max_batch_rows = 1
replicas = {{ min = 1, max = {MAX}, target_busy_ratio = {BUSY_RATIO}, down_after_s = {DOWN_AFTER_S} }}
[models.sleeper.versions."1"]
replicas = {{ min = 0, max = 1, sleep_after_s = 3 }}
"""
STEP = 0.3 / RUNS_S  # requests a second that ask for three replicas, and are no overload for one


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """`steps`: one to three replicas of 10 ms a run; `sleeper`: none, or one."""
    served = {"steps": models.slow(3250), "sleeper": models.slow(1)}
    with running(tmp_path_factory.mktemp("scaled"), served, extra=SCALED) as up:
        yield up


def infer(up: Gateway, model: str) -> httpx.Response:
    return httpx.post(f"{up.url}/v2/models/{model}/infer", content=body(1.5), timeout=40)


def test_a_version_at_zero_is_ready_and_answers_its_first_request(gateway: Gateway) -> None:
    until(lambda: pools(gateway, "sleeper")["state"] == "RUNNING", "the version")
    assert gateway.replicas("sleeper", "1") == [] and gateway.ready("sleeper")
    first = infer(gateway, "sleeper")
    assert first.status_code == 200 and first.json()["outputs"][0]["data"] == [1.5]
    cold = until(lambda: pools(gateway, "sleeper")["cold_start"], "the report of the cold start")
    assert 0 < cold["load_s"] < cold["total_s"] < 30
    assert cold["total_s"] == pytest.approx(cold["process_s"] + cold["load_s"])
    counted = until(lambda: sample(gateway.metrics(), "gaugeway_cold_start_seconds_count", model="sleeper"), "metric")
    assert counted == 1
    print(f"cold start {cold['total_s']:.2f} s: process {cold['process_s']:.2f}, model {cold['load_s']:.2f}")


def test_all_replicas_dead_is_503_at_once_although_the_version_may_sleep(gateway: Gateway) -> None:
    assert infer(gateway, "sleeper").status_code == 200
    (replica,) = until(lambda: gateway.replicas("sleeper", "1"), "the replica")
    os.kill(replica["pid"], signal.SIGKILL)
    refused = until(lambda: failed(gateway), "a refusal", 3)
    assert refused.status_code == 503 and refused.elapsed.total_seconds() < 1
    until(lambda: infer(gateway, "sleeper").status_code == 200, "the next replica", 30)


def test_a_version_without_requests_goes_to_zero_and_no_request_fails_on_the_way(gateway: Gateway) -> None:
    """Requests that come while the replica leaves wait for the next one."""
    assert infer(gateway, "sleeper").status_code == 200
    with Watch(gateway, "sleeper").running() as watch:
        until(lambda: watch.replicas == 1, "the replica")
        until(lambda: watch.replicas == 0, "its end", 30)
        assert infer(gateway, "sleeper").status_code == 200


@pytest.mark.soak
def test_a_step_of_load_is_followed_up_and_down_without_a_failure(gateway: Gateway) -> None:
    arrivals = plan([(2.0, 2.0), (WITHIN_S + 1.0, STEP), (1.0, 2.0)])
    found: list[Outcomes] = []
    with Watch(gateway, "steps").running() as watch:
        until(lambda: watch.replicas == 1, "one replica", 60)
        watch.changes.clear()
        began_s = watch.now_s
        load_thread = threading.Thread(target=lambda: found.append(ask(gateway, "steps", arrivals)))
        load_thread.start()
        until(lambda: watch.replicas == MAX, "all replicas", 30)
        load_thread.join(60)
        until(lambda: watch.replicas == 1, "the way back", DOWN_AFTER_S + 20)
    up_s = next(at for at, count in watch.changes if count == MAX) - began_s - 2.0
    down_s = next(at for at, count in watch.changes if count < MAX and at > began_s + up_s + 2.0) - began_s
    print(f"all {MAX} replicas {up_s:.1f} s after the step; {down_s - WITHIN_S - 3.0:.1f} s after its end fewer")
    (outcomes,) = found
    assert outcomes.refusals == {} and set(outcomes.status) == {200} and outcomes.wrong == []
    assert up_s <= WITHIN_S and down_s >= WITHIN_S + 3.0 + 0.5 * DOWN_AFTER_S
    assert watch.turns() <= 1, watch.changes


@pytest.mark.soak
@pytest.mark.timeout(400)
def test_the_simulator_tells_the_replicas_of_a_recorded_run(gateway: Gateway, tmp_path: Path) -> None:
    """GAUGEWAY_TRACE names a file where the recorded run is kept."""
    infer(gateway, "sleeper")
    cold_start_s = until(lambda: pools(gateway, "sleeper")["cold_start"], "the cold start")["total_s"]
    stages = [(20.0, 3.0), (30.0, STEP), (30.0, 3.0), (20.0, 0.18 / RUNS_S), (35.0, 3.0)]
    arrivals, seconds = plan(stages), sum(length for length, _ in stages)
    with Watch(gateway, "steps").running() as watch:
        until(lambda: watch.replicas == 1, "one replica", 60)
        began_s = watch.now_s
        outcomes = ask(gateway, "steps", arrivals)
        time.sleep(max(0.0, began_s + seconds - watch.now_s))
    assert outcomes.refusals == {} and set(outcomes.status) == {200}
    path = Path(os.environ.get("GAUGEWAY_TRACE", tmp_path / "trace.csv"))
    load.write(path, recorded(arrivals, watch, began_s, seconds))
    trace: Trace = load.read(path)
    runs = "gaugeway_inference_duration_seconds"
    request_s = sample(gateway.metrics(), f"{runs}_sum", model="steps") / sample(
        gateway.metrics(), f"{runs}_count", model="steps"
    )
    run = simulate(trace, Setting(POLICY, request_s, cold_start_s))
    found = match(trace, run)
    print(f"request {request_s:.4f} s, cold start {cold_start_s:.2f} s: {found}, recorded {watch.changes}")
    assert found.equal_ratio >= 0.75 and found.mean_difference <= 0.4
    assert np.isclose(found.simulated_replica_hours, found.recorded_replica_hours, rtol=0.2)


def pools(up: Gateway, model: str) -> dict[str, Any]:
    """Of its only pool, what the status says."""
    (pool,) = up.status()["models"][model]["versions"]["1"]["pools"].values()
    found: dict[str, Any] = pool
    return found


def failed(up: Gateway) -> httpx.Response | None:
    response = infer(up, "sleeper")
    return response if response.status_code != 200 else None
