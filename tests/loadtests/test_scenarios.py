"""The parts of the scenarios that are pure, over the real flights; tests/integration/test_scenarios.py runs them."""

import ast
import doctest
import json
from array import array
from pathlib import Path

import numpy as np
import pytest

from loadtests.scenarios import __main__ as command_line
from loadtests.scenarios import shapes, tally
from loadtests.scenarios.answers import Answer, Stickiness, WrongAnswer, check, is_shed
from loadtests.scenarios.feed import Feed, Flight, label, request
from loadtests.scenarios.scenario import SCENARIOS
from loadtests.scenarios.tally import Due, Tally, percentiles
from serving.codec import Limits, bind, decode_request
from serving.demo import setup
from serving.demo.flights import FEATURES, load, source, utc
from serving.demo.traffic import Traffic
from serving.protocol import Signature, TensorSpec

FOLDER = Path(command_line.__file__).parent
PATCHES = {"locust", "gevent"}


@pytest.fixture(scope="module")
def flights(flights_file: Path) -> Traffic:
    return load(source(), flights_file)


def test_examples() -> None:
    for module in (shapes, tally):
        assert doctest.testmod(module).failed == 0


def test_only_what_locust_loads_imports_it() -> None:
    """It patches the standard library of whoever imports it, this process too."""
    patching = {"run", "client", *SCENARIOS}
    for path in FOLDER.glob("*.py"):
        names = {
            node.module or "" for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)
        }
        names |= {a.name for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Import) for a in n.names}
        patches = any(name.partition(".")[0] in PATCHES or name == "loadtests.scenarios.client" for name in names)
        assert patches == (path.stem in patching), path.name


def test_every_scenario_is_a_locustfile() -> None:
    for name in SCENARIOS:
        assert f'SCENARIOS["{name}"]' in (FOLDER / f"{name}.py").read_text()
        called = command_line.command([name, "--seconds", "7", "--csv", "out"])
        assert Path(called[called.index("-f") + 1]).is_file()
        assert called[called.index("--run-time") + 1] == "7"
        assert called[-2:] == ["--csv", "out"]


def test_a_day_follows_the_departures(flights: Traffic) -> None:
    per_day = np.bincount(flights.rows[:, FEATURES.index("hour")].astype(int), minlength=24) / 365
    assert tuple(np.round(per_day).astype(int)) == shapes.HOURLY
    parts = np.arange(0, 2400) / 2400
    load = np.array([shapes.diurnal(part) for part in parts])
    assert load.min() == 0 and load.max() == 1 and parts[load.argmax()] == 8 / 24
    assert np.abs(np.diff(load)).max() < 0.03  # nothing jumps
    assert shapes.users(shapes.diurnal, 0.1, base=50) == 1  # somebody is always there


def test_a_spike_is_as_high_and_as_long_as_it_says() -> None:
    load = np.array([shapes.users(shapes.spike, part, base=20) for part in np.arange(0, 1, 0.001)])
    assert set(load.tolist()) == {20, 100}
    assert np.mean(load == 100) == pytest.approx(1 / 6, abs=0.002)
    assert (load[:333] == 20).all() and (load[501:] == 20).all()
    assert {shapes.users(shapes.steady, part, base=20) for part in (0.0, 0.5, 0.999)} == {20}


def test_flights_are_those_of_the_days_in_order_and_no_id_comes_twice(flights: Traffic) -> None:
    scenario = SCENARIOS["steady"]
    feed = Feed(flights, scenario, seconds=60, prefix="run")
    first, last = map(utc, scenario.days)
    there = int(((flights.times >= first) & (flights.times < last)).sum())
    got = [feed.next(0.0) for _ in range(there + 2)]
    assert got[0].departs >= first and got[there - 1].departs < last
    assert [one.departs for one in got[:there]] == sorted(one.departs for one in got[:there])
    assert got[there].departs == got[0].departs  # from the first again
    assert len({one.request_id for one in got}) == len(got)
    assert all(
        one.request_id.startswith(flights.ids[flights.ids.index(one.request_id.split(".")[0])]) for one in got[:3]
    )


def test_a_drifting_month_fills_the_run_whatever_its_length(flights: Traffic) -> None:
    feed = Feed(flights, SCENARIOS["drift"], seconds=100, prefix="run")
    parts = np.arange(0, 1, 0.01)
    departs = np.array([feed.next(part).departs for part in parts])
    assert departs[0] < utc("2013-07-01") + 7200 and departs[-1] > utc("2013-07-30")
    assert (np.diff(departs) > 0).all()
    flight = feed.next(0.5)
    assert feed.lands_in_s(flight) == pytest.approx((flight.lands - flight.departs) / (31 * 86400 / 100))


@pytest.mark.parametrize("complete", [True, False])
def test_a_request_carries_the_row_to_the_bit(flights: Traffic, complete: bool) -> None:
    index = int(np.flatnonzero(np.isfinite(flights.rows).all(1) == complete)[5])
    flight = Flight("f.1", "JFK1", flights.rows[index], flights.times[index], np.nan, np.nan)
    headers, body = request(flight, with_time=True)
    length = headers.get("inference-header-content-length")
    assert (length is None) == complete
    parsed = decode_request(body, None if length is None else int(length), Limits())
    signature = Signature(
        (TensorSpec(setup.INPUT, "FP32", (-1, len(FEATURES))),), (TensorSpec(setup.OUTPUT, "FP32", (-1, 2)),)
    )
    (tensor,) = bind(parsed, signature, "flights")
    assert tensor.tobytes() == flights.rows[index].tobytes()
    assert (headers["x-request-id"], headers[setup.KEY_HEADER]) == ("f.1", "JFK1")
    assert headers["x-gaugeway-event-time"].startswith("2013-")
    assert "x-gaugeway-event-time" not in request(flight)[0]


def test_a_label_names_the_request(flights: Traffic) -> None:
    flight = Flight("f.1", "k", flights.rows[0], 0.0, 60.0, 1.0)
    assert json.loads(label(flight, with_time=False)) == {"id": "f.1", "row": 0, "label": 1.0}
    assert json.loads(label(flight, with_time=True))["time"] == "1970-01-01T00:01:00.000Z"
    assert flight.labelled and not Flight("f", "k", flights.rows[0], 0.0, np.nan, np.nan).labelled


HEADERS = {"x-request-id": "r", "x-gaugeway-version": "2", "x-gaugeway-route": "sticky"}


def body(**changed: object) -> bytes:
    output: dict[str, object] = {"name": "probabilities", "datatype": "FP32", "shape": [1, 2], "data": [0.25, 0.75]}
    output |= {name: value for name, value in changed.items() if name in output}
    named: dict[str, object] = {"model_name": "flights", "model_version": "2", "outputs": [output]}
    return json.dumps(named | {name: value for name, value in changed.items() if name in named}).encode()


def test_a_right_answer_is_right() -> None:
    assert check(200, HEADERS, body(), "flights", "r") == Answer("2", "sticky", 0.75)


@pytest.mark.parametrize(
    ("status", "headers", "text", "said"),
    [
        (500, {}, b'{"error":"model failed"}', "status 500: .*model failed"),
        (200, {"x-request-id": "another"}, body(), "x-request-id is 'another'"),
        (200, {}, b'{"outputs": nul', "the body is no answer"),
        (200, {}, body(model_name="other"), "of model 'other'"),
        (200, {"x-gaugeway-version": "1"}, body(), "names version '2', the header '1'"),
        (200, {}, body(shape=[2, 1]), r"expected 'probabilities' FP32 \[1, 2\]"),
        (200, {}, body(data=[0.25]), "expected 'probabilities'"),
        (200, {}, body(outputs=[]), "expected 'probabilities'"),
        (200, {}, body(data=[0.5, 0.75]), "no probabilities"),
        (200, {}, body(data=[-0.5, 1.5]), "no probabilities"),
    ],
)
def test_a_wrong_answer_is_found(status: int, headers: dict[str, str], text: bytes, said: str) -> None:
    with pytest.raises(WrongAnswer, match=said):
        check(status, HEADERS | headers, text, "flights", "r")


def test_a_refusal_says_when_to_come_again() -> None:
    assert is_shed(503, {"retry-after": "1"}) and is_shed(429, {"retry-after": "1"})
    assert not is_shed(503, {}) and not is_shed(500, {"retry-after": "1"}) and not is_shed(200, {})


def test_a_key_stays_where_it_is() -> None:
    seen = Stickiness()
    seen.see("ann", Answer("1", "sticky", 0.5), required=True)
    seen.see("bob", Answer("2", "sticky", 0.5), required=False)
    seen.see("ann", Answer("2", "url", 0.5), required=False)  # asked for by name: says nothing of the key
    with pytest.raises(WrongAnswer, match="'ann' moved from version '1' to '2'"):
        seen.see("ann", Answer("2", "sticky", 0.5), required=False)
    with pytest.raises(WrongAnswer, match="routed by 'weight'"):
        seen.see("cid", Answer("1", "weight", 0.5), required=True)
    assert seen.shares() == {"1": 1, "2": 1}


def test_labels_wait_for_their_moment_and_leave_in_batches() -> None:
    due = Due()
    for moment in (3.0, 1.0, 2.0, 1.0):
        due.put(moment, f"{moment}".encode())
    assert due.take(0.5) == []
    assert due.take(2.0, most=2) == [b"1.0", b"1.0"]
    assert due.take(2.0) == [b"2.0"]
    assert due.take(float("inf")) == [b"3.0"] and len(due) == 0


def test_only_percentiles_that_the_answers_can_tell_are_told() -> None:
    assert percentiles(array("d")) == "there are none"
    assert percentiles(array("d", [0.002] * 10)) == "largest 2.0 ms"
    thousand = array("d", [i / 1000 for i in range(1, 1001)])
    assert percentiles(thousand) == "p50 500.5 ms, p90 900.1 ms, p99 990.0 ms, largest 1000.0 ms"


def test_the_summary_tells_what_happened() -> None:
    counted = Tally()
    for version in "1112":
        counted.answered(Answer(version, "weight", 0.5), 0.001)
    counted.wrong, counted.late = 3, 5
    counted.refused[503] = 7
    counted.labels["joined"] = 2
    told = "\n".join(counted.lines(2.0))
    for said in ("4 right answers in 2.0 s (2.0/s), 3 wrong, 7 refused with 503", "5 requests began late",
                 "answers by version: 1 0.750 (3), 2 0.250 (1)", "labels: 2 joined"):  # fmt: skip
        assert said in told
