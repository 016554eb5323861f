"""The open-loop generator over real sockets: it sends on time, sees every wrong answer, and says what it cannot do."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import uvloop

from loadtests.open_loop import workload
from loadtests.open_loop.arrivals import Plan, plan
from loadtests.open_loop.generator import Behaviour, Generator
from loadtests.open_loop.outcomes import Outcomes
from loadtests.open_loop.report import Report, report
from tests.loadtests.server import Answer, Asked, Server, serving

X = (workload.Input("x", "FP32", (1, 1)),)
PATIENT = Behaviour(deadline_s=0.5, clients=2, drain_s=3.0)


def steady(rate: float = 200, seconds: float = 0.5) -> Plan:
    return plan("constant", rate, seconds, {"default": 0.5, "critical": 0.5}, 2, 1.0, seed=1)


def drive(
    server: Server, behaviour: Behaviour = PATIENT, arrivals: Plan | None = None, factor: float = 2.0
) -> tuple[Outcomes, Report]:
    """What became of the arrivals, 100 in half a second if none are named."""
    arrivals = arrivals or steady()

    async def run() -> Outcomes:
        async with serving(server):
            return await Generator(server.url, "m", arrivals, workload.Multiples(X, factor), behaviour).run()

    outcomes = uvloop.run(run())
    return outcomes, report(arrivals, outcomes, behaviour, 1.0)


def test_every_arrival_is_sent_on_time_and_answered() -> None:
    server = Server()
    outcomes, found = drive(server)
    assert found.statuses == {"200": 100} and found.wrong == 0 and found.good == found.attempts == 100
    assert sorted(asked.k for asked in server.asked) == list(range(2, 102))
    assert (outcomes.sent_s >= steady().times_s).all()
    assert found.goodput_per_s == found.offered_per_s == 100.0
    assert sum(one.sent for one in found.classes) == sum(one.good for one in found.classes) == 100


def test_a_request_names_its_class_deadline_and_id_and_comes_from_its_client() -> None:
    server = Server()
    drive(server)
    heads = [asked.head for asked in server.asked]
    assert {head.split("x-gaugeway-priority: ")[1].split("\r\n")[0] for head in heads} == {"default", "critical"}
    assert {asked.client for asked in server.asked} == {"127.0.0.2", "127.0.0.3"}
    assert all("x-gaugeway-deadline-s: 0.5\r\n" in head for head in heads)
    assert sorted(int(asked.id) for asked in server.asked) == list(range(100))
    server = Server()
    drive(server, replace(PATIENT, tell_deadline=False))
    assert not any("deadline" in asked.head for asked in server.asked)


def test_a_stall_is_seen_by_all_who_arrive_during_it() -> None:
    """A closed loop of two clients would have sent two requests into the stall."""
    start = time.monotonic() + 0.3

    def stalled(asked: Asked) -> Answer:
        waits_s = start + 0.5 - time.monotonic()
        return Answer(after_s=waits_s if 0 < waits_s < 0.5 else 0.0)

    arrivals = steady(100, 1.0)
    outcomes, found = drive(Server(stalled), arrivals=arrivals)
    latency = outcomes.done_s - arrivals.times_s
    assert found.statuses == {"200": 100}
    assert (latency > 0.1).sum() == pytest.approx(40, abs=8)
    assert latency.max() > 0.4 and found.latency_s[0].value < 0.45


def test_a_loop_that_is_held_up_is_said_to_be_the_bottleneck_and_its_lag_is_latency() -> None:
    def block(asked: Asked) -> Answer:
        if asked.id == "50":
            time.sleep(0.3)  # of the loop that sends, too
        return Answer()

    outcomes, found = drive(Server(block))
    assert "late" in found.too_slow
    late = outcomes.sent_s - steady().times_s
    assert late.max() > 0.2 and ((outcomes.done_s - steady().times_s) >= late).all()


def test_answers_after_the_deadline_are_no_goodput() -> None:
    _, found = drive(Server(lambda asked: Answer(after_s=0.3 * (int(asked.id) % 2))), replace(PATIENT, deadline_s=0.2))
    assert found.statuses == {"200": 100} and found.good == 50 and found.goodput_per_s == 50.0


@pytest.mark.parametrize("id", [None, "7"])
def test_swapped_answers_are_seen(id: str | None) -> None:
    """Request 7 gets the answer to request 8, under its own id or under that of the other."""
    swap = {"7": Answer(value=2.0 * 10, id="7" if id else "8")}
    outcomes, found = drive(Server(lambda asked: swap.get(asked.id, Answer())))
    assert found.wrong == 1 and outcomes.wrong[0][0] == 7 and found.good == 99


def test_a_right_value_under_the_id_of_another_request_is_wrong() -> None:
    _, found = drive(Server(lambda asked: Answer(id="8") if asked.id == "7" else Answer()))
    assert found.wrong == 1


def test_a_doubled_answer_is_seen() -> None:
    _, found = drive(Server(lambda asked: Answer(times=2 if asked.id == "99" else 1)))
    assert found.wrong == 1


def test_a_lost_answer_is_counted_and_its_client_may_give_up() -> None:
    def lose(asked: Asked) -> Answer:
        return Answer(times=asked.id != "7")

    assert drive(Server(lose), replace(PATIENT, drain_s=0.5))[1].statuses == {"200": 99, "no answer": 1}
    _, found = drive(Server(lose), replace(PATIENT, timeout_s=0.3))
    assert found.statuses == {"200": 99, "gave up": 1} and found.good == 99


def test_refusals_are_counted_by_status_and_reason() -> None:
    refusals = [
        Answer(),
        Answer(status=503, error="12 rows wait for model 'm', the bound is 12"),
        Answer(status=503, error="14 rows wait for model 'm', the bound is 12"),
        Answer(status=429, error="over the rate"),
    ]
    _, found = drive(Server(lambda asked: refusals[int(asked.id) % 4]))
    assert found.statuses == {"200": 25, "429": 25, "503": 50} and found.good == 25
    assert {(one.status, one.reason): one.attempts for one in found.refusals} == {
        (503, "# rows wait for model 'm', the bound is #"): 50,
        (429, "over the rate"): 25,
    }


def test_a_storm_repeats_refusals_at_once_and_no_more_often_than_told() -> None:
    server = Server(lambda asked: Answer(status=503, error="full", head="Retry-After: 1\r\n"))
    outcomes, found = drive(server, replace(PATIENT, retries=3))
    assert len(server.asked) == found.attempts == 400 and found.statuses == {"503": 100}
    assert (outcomes.done_s - steady().times_s).max() < 0.9


def test_a_client_may_wait_as_long_as_it_is_asked_to() -> None:
    tries: dict[str, int] = {}

    def later(asked: Asked) -> Answer:
        tries[asked.id] = tries.get(asked.id, 0) + 1
        return Answer() if tries[asked.id] > 1 else Answer(status=503, error="full", head="Retry-After: 1\r\n")

    behaviour = replace(PATIENT, retries=1, honour_retry_after=True, deadline_s=2.0)
    outcomes, found = drive(Server(later), behaviour)
    assert found.statuses == {"200": 100} and found.good == 100 and found.attempts == 200
    assert (outcomes.done_s - steady().times_s).min() > 0.99  # loops round to milliseconds


@pytest.mark.parametrize("leave_open", [False, True])
def test_who_gives_up_closes_the_connection_or_leaves_it_open(leave_open: bool) -> None:
    """What is left open is answered in the end, which is seen, and verified."""
    slow = Server(lambda asked: Answer(after_s=0.4))
    _, found = drive(slow, replace(PATIENT, timeout_s=0.2, retries=1, leave_open=leave_open), steady(40))
    assert found.statuses == {"gave up": 20} and found.attempts == 40 and found.wrong == 0
    assert (found.late_answers > 20) == leave_open
    assert (slow.closed >= 40) != leave_open


def test_without_a_server_every_request_is_broken() -> None:
    outcomes = uvloop.run(Generator("http://127.0.0.1:9", "m", steady(), workload.Multiples(X, 2.0), PATIENT).run())
    assert report(steady(), outcomes, PATIENT, 1.0).statuses == {"connection lost": 100}


@pytest.fixture
def url() -> Iterator[str]:
    """Of a server in a process of its own."""
    process = subprocess.Popen([sys.executable, "-m", "tests.loadtests.server"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.kill()
    process.communicate()


def command(url: str, json_to: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "loadtests.open_loop", url, "--model", "m", "--json", str(json_to), *options]


def test_three_thousand_a_second_take_less_than_a_core(url: str, tmp_path: Path) -> None:
    options = ["--rate", "3000", "--seconds", "3.5", "--factor", "2", "--priority-mix", "critical=1,default=9"]
    done = subprocess.run(command(url, tmp_path / "r.json", *options), capture_output=True, text=True, timeout=60)
    found = json.loads((tmp_path / "r.json").read_text())
    assert done.returncode == 0, done.stdout + done.stderr
    assert found["statuses"] == {"200": found["sent"]} and found["sent"] > 10_000 and found["wrong"] == 0
    assert found["cpu_s_per_request"] * 3000 < 1.0
    assert [p["quantile"] for p in found["latency_s"]] == [0.5, 0.9, 0.99, 0.999]
    assert "goodput" in done.stdout and f"of {found['sent']:,}" not in done.stderr


def test_answers_may_be_learned_before_and_a_wrong_one_fails_the_command(url: str, tmp_path: Path) -> None:
    options = ["--rate", "200", "--seconds", "1", "--distinct", "50"]
    assert subprocess.run(command(url, tmp_path / "r.json", *options), capture_output=True).returncode == 0
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["good"] == found["sent"] and found["wrong"] == 0
    done = subprocess.run(command(url, tmp_path / "r.json", *options, "--factor", "3"), capture_output=True, text=True)
    assert done.returncode == 1 and "wrong: request" in done.stderr
    assert json.loads((tmp_path / "r.json").read_text())["good"] == 0


def test_learned_answers_are_told_apart(url: str) -> None:
    learned = workload.learn(url, "m", 20, seed=3)
    assert learned.told_apart == 20
    answer = workload.fetch(f"{url}/v2/models/m/infer", learned.body(4))
    assert learned.right(4, answer) and learned.right(24, answer) and not learned.right(5, answer)


def test_the_same_number_comes_again_only_after_millions() -> None:
    multiples = workload.Multiples(X, 2.0, first=workload.EXACT - 2)
    assert [multiples.number(i) for i in range(3)] == [workload.EXACT - 1, workload.EXACT, 1]
    assert json.loads(multiples.body(2))["inputs"] == [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1]}]


def test_inputs_of_every_type_are_filled() -> None:
    types = [("FP64", (1, 2)), ("INT64", (1,)), ("BOOL", (1, 1)), ("BYTES", (1, 1))]
    taken = [workload.Input(f"i{i}", datatype, shape) for i, (datatype, shape) in enumerate(types)]
    numbers = json.loads(workload.Multiples(taken[:2], 1.0).body(5))["inputs"]
    assert [one["data"] for one in numbers] == [[7, 7], [7]]
    rng = np.random.default_rng(0)
    for one in taken:
        assert len(json.loads(f"[{one.random(rng)}]")) == one.elements
