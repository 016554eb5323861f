"""More load than there is capacity: what can be answered in time is, the rest is refused at once, and then it is over.

Every level lasts `SECONDS`; ``make soak`` runs these tests with a minute each, and those that need the machine for
themselves.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import msgspec
import numpy as np
import pytest

from loadtests.open_loop.report import Report, Second
from tests.faults.capacity import CAPACITY_PER_S, FACTOR, MODEL, RUN_S, Site, Watch, exact
from tests.gateway import until

SECONDS = float(os.environ.get("GAUGEWAY_OVERLOAD_S", "6"))
DEADLINE_S, BACK_S = 1.0, 5.0
MIX = "critical=0.1,default=0.8,sheddable=0.1"
CALM = 0.25 * CAPACITY_PER_S  # requests a second at which nobody waits
UNLIMITED = """
deadline_s = 600
max_queue_rows = 1_000_000_000
max_inflight_requests = 1_000_000_000
queue_target_s = 1_000_000
"""

ALONE = pytest.mark.soak  # the machine must have nothing else to do
LEVELS = [2, *(pytest.param(times, marks=ALONE) for times in (5, 10))]

pytestmark = pytest.mark.timeout(120 + 8 * SECONDS)


@dataclass(frozen=True)
class Level:
    """One run of the open loop, what was seen meanwhile, and how the counters moved."""

    report: Report
    watch: Watch
    answered: dict[str, int]
    shed: float
    computed: int


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with exact(tmp_path_factory.mktemp("overload")) as found:
        drive(found, "--rate", str(CALM), "--seconds", "2")  # the first requests of a process are its slowest
        yield found


@pytest.fixture(scope="module")
def peak(site: Site) -> float:
    """Goodput when as much is asked for as can be answered."""
    found = level(site, 1.0, SECONDS, "default=1").report.goodput_per_s
    assert 0.85 * CAPACITY_PER_S < found < 1.1 * CAPACITY_PER_S
    return found


@pytest.fixture(scope="module", params=LEVELS, ids=lambda times: f"{times}-times")
def overload(site: Site, peak: float, request: pytest.FixtureRequest) -> Level:
    return level(site, request.param, SECONDS, MIX)


def test_what_can_be_answered_in_time_is(overload: Level, peak: float) -> None:
    assert overload.report.wrong == 0
    assert overload.report.goodput_per_s >= 0.9 * peak, overload.report.statuses


def test_who_is_let_in_is_answered_within_the_deadline(overload: Level) -> None:
    """99 % of them; and next to nothing is computed that nobody waits for."""
    statuses, good = overload.report.statuses, overload.report.good
    let_in = sum(n for status, n in statuses.items() if status != "503")
    assert let_in - good <= 0.01 * let_in, statuses
    assert overload.computed <= 1.02 * good


def test_the_rest_is_refused_with_a_reason_and_every_request_is_counted_once(overload: Level) -> None:
    statuses = overload.report.statuses
    assert set(statuses) <= {"200", "503", "504"} and statuses["503"] > 0.3 * overload.report.sent
    assert overload.answered == statuses
    refused = [one for one in overload.report.refusals if one.status == 503]
    assert overload.shed == statuses["503"] == sum(one.attempts for one in refused)
    assert all(one.reason for one in refused)


def test_the_queue_stays_below_its_bound_and_memory_flat(overload: Level) -> None:
    """The bound is Little's: twice what the replicas answer in the target, since ordinary requests fill half of it."""
    bound = max(overload.watch.limit_rows)
    assert 20 < max(overload.watch.inflight) <= bound <= 2 * (0.5 + 3 * RUN_S) * CAPACITY_PER_S * 1.2
    half = len(overload.watch.worker_bytes) // 2
    grown_bytes = median(overload.watch.worker_bytes[half:]) - median(overload.watch.worker_bytes[:half])
    assert grown_bytes < 2 * 2**20


def test_health_is_answered_throughout(overload: Level) -> None:
    assert overload.watch.unhealthy == []
    assert len(overload.watch.health_s) > 10 and median(overload.watch.health_s) < 0.1


@ALONE
def test_health_is_answered_at_once(overload: Level) -> None:
    assert np.quantile(overload.watch.health_s, 0.99) < 0.1


def test_the_critical_are_answered_as_long_as_they_alone_are_not_too_many(overload: Level) -> None:
    """They are a tenth of the load, so at ten times the capacity they are all of it."""
    critical = overload.report.classes[0]
    assert critical.name == "critical" and critical.sent > 10 * SECONDS
    assert critical.good >= 0.99 * min(critical.sent, 0.95 * CAPACITY_PER_S * SECONDS), critical


@ALONE
def test_after_ten_times_the_load_it_is_as_before_within_seconds(site: Site) -> None:
    third_s = max(SECONDS, BACK_S + 2)
    options = ["--shape", "step", "--peak", str(10 * CAPACITY_PER_S / CALM), "--rate", str(CALM)]
    found = drive(site, *options, "--seconds", str(3 * third_s))
    before = [one for one in found.seconds if one.start_s < third_s - 1]
    back = [one for one in found.seconds if one.start_s >= 2 * third_s + BACK_S]
    assert sum(one.good for one in back) == sum(one.sent for one in back) > 0
    slowest_before, slowest_back = (median(one.p99_s or 0.0 for one in part) for part in (before, back))
    assert slowest_back < slowest_before + RUN_S, (slowest_before, slowest_back)


def test_a_storm_of_retries_is_over_soon(site: Site) -> None:
    assert after_a_storm(site) > 0.95


@ALONE
def test_without_the_limits_the_same_storm_goes_on(tmp_path: Path) -> None:
    with exact(tmp_path, gateway=UNLIMITED) as unlimited:
        assert after_a_storm(unlimited) < 0.2


def level(site: Site, times: float, seconds: float, mix: str) -> Level:
    """Poisson arrivals of eight clients at `times` the capacity."""
    answered, shed, computed = site.answered(), site.metric("shed_total"), site.computed
    with Watch(site).running() as watch:
        rate = ["--rate", str(times * CAPACITY_PER_S), "--seconds", str(seconds)]
        found = drive(site, *rate, "--priority-mix", mix)
    until(lambda: (site.answered() - answered).total() == found.attempts, "every request, counted", 10)
    moved = dict(sorted((site.answered() - answered).items()))
    return Level(found, watch, moved, site.metric("shed_total") - shed, site.computed - computed)


def after_a_storm(site: Site) -> float:
    """Share of good answers from 5 s after a spike on: clients give up after a second and ask three times more at once.

    They tell no deadline and leave their connections open, as clients behind a proxy do, so that the gateway alone
    decides what is worth to be done. Without the spike the load is half the capacity.
    """
    third_s = max(SECONDS, BACK_S + 2.5)
    storm = ["--retries", "3", "--timeout-s", str(DEADLINE_S), "--no-tell-deadline", "--leave-open"]
    step = ["--shape", "step", "--peak", "10", "--rate", str(CAPACITY_PER_S / 2), "--seconds", str(3 * third_s)]
    found = drive(site, *storm, *step, "--drain-s", "1")
    before = [one for one in found.seconds if one.start_s < third_s - 2]
    after = [one for one in found.seconds if one.start_s >= 2 * third_s + BACK_S]
    assert goodness(before) > 0.95
    return goodness(after)


def goodness(seconds: list[Second]) -> float:
    return sum(one.good for one in seconds) / sum(one.sent for one in seconds)


def drive(site: Site, *options: str) -> Report:
    """The open-loop generator, in a process of its own. Exit status 1 would be a wrong answer."""
    report = site.gateway.data.parent / "report.json"
    command = [sys.executable, "-m", "loadtests.open_loop", site.gateway.url, "--model", MODEL, "--json", str(report)]
    given = ["--factor", str(FACTOR), "--deadline-s", str(DEADLINE_S), *options]
    done = subprocess.run([*command, *given], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return msgspec.json.decode(report.read_bytes(), type=Report)
