"""The simulator: traces, a pool under load, what a run comes to, the command, the picture."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from serving.cli import app
from serving.config import Replicas
from serving.errors import BadRequest, GaugewayError
from serving.simulation import load
from serving.simulation.load import SHAPES, Moment, Trace, shaped
from serving.simulation.pool import Setting, simulate
from serving.simulation.summary import changes, match, reversals, summarise

POLICY = Replicas(min=1, max=6, target_busy_ratio=0.7, down_after_s=30)


def setting(policy: Replicas = POLICY, **keys: float) -> Setting:
    return Setting(policy, request_s=keys.get("request_s", 0.02), cold_start_s=keys.get("cold_start_s", 3.0))


def test_a_trace_comes_back_as_it_was_written(tmp_path: Path) -> None:
    moments = (Moment(0, 1.5, 1), Moment(1, 0.0, 0), Moment(2.5, 400, 3))
    load.write(tmp_path / "trace.csv", moments)
    assert load.read(tmp_path / "trace.csv") == Trace(moments, 2.5)


def test_a_trace_may_begin_at_any_time_and_know_no_replicas(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text("requests_per_s,at_s\n5,1700000000\n6,1700000010\n")
    read = load.read(tmp_path / "trace.csv")
    assert read.moments == (Moment(0, 5), Moment(10, 6)) and not read.recorded


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("at_s,requests_per_s\n0,1\n", "at least two rows"),
        ("at_s,requests_per_s\n0,1\n0,2\n", "rising at_s"),
        ("at_s,rate\n0,1\n1,1\n", "line 2"),
        ("at_s,requests_per_s\n0,1\n1,-1\n", "line 3"),
        ("at_s,requests_per_s\n0,1\n1,nan\n", "line 3"),
        ("at_s,requests_per_s,replicas\n0,1,2\n1,1,two\n", "line 3"),
        ("", "at least two rows"),
    ],
)
def test_what_is_no_trace_is_refused_by_line(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(BadRequest, match=what):
        load.read(path)


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_stays_between_quiet_and_peak_and_reaches_both(name: str) -> None:
    rates = [moment.requests_per_s for moment in shaped(name, 10, 50).moments]
    assert min(rates) == pytest.approx(50 if name == "constant" else 10, abs=0.1)
    assert max(rates) == pytest.approx(50, abs=0.1)


def test_a_step_is_answered_by_as_many_replicas_as_it_needs_and_taken_back() -> None:
    trace = shaped("step", 10, 100, 300)  # 0.2 replicas' work, then 2 from 60 to 180 s
    run = simulate(trace, setting(Replicas(min=1, max=3, down_after_s=30)))
    ready = changes(run.at_s, run.ready)
    assert sorted({count for _, count in ready}) in ([1, 3], [1, 2, 3])
    full = next(at for at, count in ready if count == 3)
    assert 63 < full < 70  # a cold start and a few moments after the step
    assert run.ready[-1] == 1 and reversals(changes(run.at_s, run.wanted)) == 1
    assert run.waiting[-1] < 5 and summarise(run).wait_most_s < 6


def test_a_pool_at_zero_is_woken_by_the_first_request_which_waits_for_the_start() -> None:
    trace = Trace((Moment(0, 0), Moment(60, 5), Moment(70, 0)), 200)
    run = simulate(trace, setting(Replicas(min=0, max=2, sleep_after_s=20), cold_start_s=4))
    assert run.ready[0] == 0 and run.ready[-1] == 0
    first = int(np.flatnonzero(run.arrived)[0])
    assert run.wait_s[first] == pytest.approx(4.0, abs=0.3)
    assert run.at_s[np.flatnonzero(run.ready)[-1]] == pytest.approx(70 + 20, abs=2.0)


def test_no_more_than_one_turn_in_five_minutes_by_default() -> None:
    noisy = np.random.default_rng(7).uniform(20, 200, 240)
    trace = Trace(tuple(Moment(15.0 * i, rate) for i, rate in enumerate(noisy)), 3600)
    run = simulate(trace, setting(Replicas(min=1, max=6)))
    found = summarise(run)
    assert found.changes > 0 and found.reversals <= 1


@given(
    st.lists(st.floats(0, 300), min_size=2, max_size=8),
    st.integers(0, 3),
    st.integers(1, 8),
    st.floats(0.001, 0.2),
    st.floats(0, 10),
)
def test_nothing_is_lost_and_the_bounds_hold(
    rates: list[float], least: int, more: int, request_s: float, cold_start_s: float
) -> None:
    trace = Trace(tuple(Moment(10.0 * i, rate) for i, rate in enumerate(rates)), 10.0 * len(rates))
    policy = Replicas(min=least, max=least + more, down_after_s=5, sleep_after_s=5)
    run = simulate(trace, setting(policy, request_s=request_s, cold_start_s=cold_start_s))
    assert (run.wanted >= policy.min).all() and (run.wanted <= policy.max).all() and (run.ready <= policy.max).all()
    capacity = np.cumsum(run.ready) * run.step_s / request_s
    answered = np.cumsum(run.arrived) - run.waiting
    assert (run.waiting >= -1e-6).all() and (answered <= capacity + 1e-6).all()
    assert np.isfinite(run.wait_s).all()


def test_a_run_is_the_same_again() -> None:
    trace = shaped("ramp", 5, 80, 120)
    one, other = simulate(trace, setting()), simulate(trace, setting())
    assert all((getattr(one, name) == getattr(other, name)).all() for name in ("wanted", "ready", "waiting", "wait_s"))


def test_a_run_matches_the_replicas_that_were_recorded_from_it() -> None:
    trace = shaped("step", 10, 100, 300)
    run = simulate(trace, setting())
    recorded = tuple(Moment(float(at), trace.at(at).requests_per_s, int(n)) for at, n in zip(run.at_s, run.ready))  # noqa: B905
    same = match(Trace(recorded, 300), run)
    assert (same.equal_ratio, same.most_difference) == (1.0, 0)
    more = tuple(Moment(m.at_s, m.requests_per_s, (m.replicas or 0) + 1) for m in recorded)
    assert match(Trace(more, 300), run).mean_difference == 1.0


def test_a_run_that_was_recorded_on_a_real_ray_is_told_by_the_simulator() -> None:
    """That of docs/autoscaling.md."""
    trace = load.read(Path(__file__).parent.parent / "docs" / "autoscaling-recorded.csv")
    policy = Replicas(min=1, max=3, target_busy_ratio=0.12, down_after_s=4)
    found = match(trace, simulate(trace, setting(policy, request_s=0.0161, cold_start_s=2.79)))
    assert found.equal_ratio > 0.9
    assert found.simulated_replica_hours == pytest.approx(found.recorded_replica_hours, rel=0.05)


def test_what_a_run_costs_and_how_long_its_requests_wait() -> None:
    trace = Trace((Moment(0, 50), Moment(30, 50)), 60)
    found = summarise(simulate(trace, setting(Replicas(min=2, max=2))))
    assert math.isclose(found.replica_hours, 2 / 60) and math.isclose(found.fixed_replica_hours, 2 / 60)
    assert (found.changes, found.reversals, found.replicas_mean) == (0, 0, 2.0)
    short = summarise(simulate(trace, setting(Replicas(min=1, max=1), request_s=0.04)))  # twice what one can do
    assert short.wait_most_s == pytest.approx(30, abs=3)


def command(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["simulate", "autoscaling", *arguments])
    assert done.exit_code == 0, f"{done.output}{done.exception}"
    return done.stdout


def test_the_command_says_what_a_policy_would_cost(tmp_path: Path) -> None:
    text = command("--shape", "spike", "--peak", "200", "--set", "max=8", "--set", "down_after_s=60")
    assert "replica hours" in text and "less than" in text
    found = json.loads(command("--shape", "spike", "--seconds", "120", "--set", "max=8", "--json"))
    assert found["setting"]["policy"]["max"] == 8 and found["summary"]["requests"] > 0 and found["recorded"] is None


def test_the_command_holds_a_recorded_run_against_the_simulated_one(tmp_path: Path) -> None:
    load.write(tmp_path / "t.csv", [Moment(i, 10, 1) for i in range(60)])
    found = json.loads(command("--trace", str(tmp_path / "t.csv"), "--json"))
    assert found["recorded"]["equal_ratio"] == 1.0


def test_the_command_takes_the_policy_of_a_pool_from_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "gaugeway.toml"
    config.write_text('[models.m.versions."1"]\npools = [{ name = "a", max = 7 }, { name = "b", max = 3 }]\n')
    shape = ["--shape", "constant", "--seconds", "20", "--json", "--config", str(config)]
    assert json.loads(command(*shape, "--pool", "m/1"))["setting"]["policy"]["max"] == 7
    assert json.loads(command(*shape, "--pool", "m/1/b", "--set", "min=2"))["setting"]["policy"]["max"] == 3
    done = CliRunner().invoke(app, ["simulate", "autoscaling", *shape, "--pool", "m/1/c"])
    assert isinstance(done.exception, BadRequest) and "it has a, b" in str(done.exception)


@pytest.mark.parametrize(
    "arguments",
    [[], ["--shape", "square"], ["--shape", "step", "--trace", "x"], ["--shape", "step", "--set", "most=3"]],
)
def test_wrong_usage_is_said_as_such(arguments: list[str]) -> None:
    assert CliRunner().invoke(app, ["simulate", "autoscaling", *arguments]).exit_code == 2


def test_a_picture_without_its_extra_is_refused_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "serving.simulation.plot", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = CliRunner().invoke(app, ["simulate", "autoscaling", "--shape", "step", "--plot", "run.png"])
    assert isinstance(done.exception, GaugewayError) and "gaugeway[plots]" in str(done.exception)


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")  # an extra
    recorded = [Moment(i, 10 if i < 30 else 150, 1 if i < 35 else 4) for i in range(90)]
    load.write(tmp_path / "t.csv", recorded)
    command("--trace", str(tmp_path / "t.csv"), "--set", "max=4", "--plot", str(tmp_path / "run.png"))
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
