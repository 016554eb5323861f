"""What is desired and published -> what runs and who is routed to."""

from msgspec.structs import replace

from serving.config import Capture, Model, Pool, Version
from serving.planning import Key, able, plan, running, table
from serving.routing import Table
from serving.speed import Timed
from tests.replicas import manifest

MANIFESTS = {("m", v): manifest(version=v) for v in ("1", "2", "3")}


def _table(weights: dict[str, float], running: set[Key], before: Table) -> Table:
    wanted = plan({"m": Model(weights=weights)}, list(MANIFESTS.values()))
    return table(wanted, MANIFESTS, running, before)


def test_a_model_that_nobody_described_is_served_at_its_newest() -> None:
    found = plan({"unpublished": Model(weights={"1": 1.0})}, list(MANIFESTS.values()))
    assert found.weights == {"m": {"3": 1.0}} and list(found.versions) == [("m", "3")]


def test_weights_change_only_when_all_that_get_traffic_run() -> None:
    first = _table({"1": 1.0}, {("m", "1")}, Table())
    assert first.generation == 1 and first.models["m"].policy.weights == {"1": 1.0}
    waiting = _table({"1": 0.9, "2": 0.1}, {("m", "1")}, first)
    assert waiting is first
    ready = _table({"1": 0.9, "2": 0.1}, {("m", "1"), ("m", "2")}, first)
    assert ready.generation == 2 and ready.models["m"].policy.versions == ("1", "2")
    assert _table({"1": 0.9, "2": 0.1}, {("m", "1"), ("m", "2")}, ready) is ready


def test_a_version_that_is_not_published_gets_no_traffic() -> None:
    found = _table({"1": 0.5, "9": 0.5}, {("m", "1")}, Table())
    assert found.models["m"].policy.weights == {"1": 1.0}


def test_the_bound_of_a_batch_is_what_was_set_else_what_was_measured_when_published() -> None:
    measured = manifest()
    measured = replace(measured, batch_times=(Timed(1, 0.01), Timed(2, 0.011), Timed(4, 0.022)))
    pools = (Pool(), Pool(name="set", max_batch_rows=9), Pool(gpu=1))
    for how, bounds, least in (
        (Version(pools=pools), [2, 9, 0], 2),
        (Version(pools=pools, max_batch_rows=64), [64, 9, 64], 9),
        (Version(), [2], 2),
    ):
        wanted = plan({"m": Model(versions={"1": how})}, [measured])
        assert [pool.max_batch_rows for pool in wanted.pools.values()] == bounds
        found = table(wanted, {("m", "1"): measured}, {("m", "1")}, Table())
        assert found.models["m"].versions["1"].max_batch_rows == least


def test_a_version_runs_when_all_its_pools_do() -> None:
    pools = (Pool(gpu=0.25, min=0, max=2), Pool(cpu=1, max_batch_rows=8))
    wanted = plan({"m": Model(weights={"2": 1.0}, versions={"1": Version(), "2": Version(pools=pools)})},
                  list(MANIFESTS.values()))  # fmt: skip
    assert list(wanted.pools) == [("m", "2", "gpu"), ("m", "2", "cpu"), ("m", "1", "cpu")]
    assert [pool.max_batch_rows for pool in wanted.pools.values()] == [0, 8, 256]
    states = {("m", "1", "cpu"): "RUNNING", ("m", "2", "cpu"): "RUNNING", ("m", "2", "gpu"): "DEPLOYING"}
    assert running(wanted, states) == {("m", "1")}
    assert running(wanted, {**states, ("m", "2", "gpu"): "RUNNING"}) == {("m", "1"), ("m", "2")}


def test_a_version_that_gets_traffic_may_get_more_while_one_of_its_pools_is_down() -> None:
    two = (Pool(gpu=0.25), Pool(cpu=1))
    wanted = plan({"m": Model(weights={"1": 1.0}, versions={v: Version(pools=two) for v in "123"})},
                  list(MANIFESTS.values()))  # fmt: skip
    states = {("m", v, "cpu"): "RUNNING" for v in "12"} | {("m", "3", "gpu"): "DEPLOY_FAILED"}
    before = _table({"1": 0.5, "3": 0.5}, {("m", "1"), ("m", "3")}, Table())
    assert running(wanted, states) == set()
    assert able(wanted, states, before) == {("m", "1")}  # nothing runs of "3", and "2" would be new to it


def test_what_is_captured_of_a_model_is_in_the_table() -> None:
    wanted = plan({"m": Model(capture=Capture(enabled=True, features=("x",)))}, list(MANIFESTS.values()))
    first = table(wanted, MANIFESTS, {("m", "3")}, Table())
    assert first.models["m"].versions["3"].capture.features == ("x",)
    off = table(plan({"m": Model()}, list(MANIFESTS.values())), MANIFESTS, {("m", "3")}, first)
    assert off.generation == 2 and not off.models["m"].versions["3"].capture.enabled
