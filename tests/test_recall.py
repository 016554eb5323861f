"""Answers given again by a data plane over a real engine: when the model runs, what is recorded, what is counted."""

import asyncio
from pathlib import Path

import msgspec
import numpy as np
import pytest

from serving.batching import ABANDONED, Answer
from serving.config import Cache, Model, Version
from serving.errors import ModelFailure
from serving.manifest import Feature, Manifest, Prediction
from serving.protocol import Array, TensorSpec
from serving.record import decode
from serving.ring import RingReader
from serving.routing import Table
from tests import test_dataplane as dataplane
from tests import test_gateway as gateway
from tests.replicas import Function, column, manifest, until
from tests.test_dataplane import Site, with_engine

CACHE = Cache(max_bytes=2**20)


def table(generation: int, cache: Cache = CACHE, of: Manifest | None = None, batch: int = 256) -> Table:
    """Model `m` with version 1, which keeps its answers as `cache` says."""
    made = dataplane.table(generation, {"1": 1.0}, *([of] if of else []), batch=batch)
    entry = made.models["m"]
    versions = {name: msgspec.structs.replace(one, cache=cache) for name, one in entry.versions.items()}
    return Table(generation, {"m": msgspec.structs.replace(entry, versions=versions)})


async def ask(site: Site, *inputs: Array, id: str = "r", client: str = "ann") -> Answer:
    """As a request of `client`: one answer, and nothing under way when it is there."""
    context = dataplane.request(id=id)
    context.client = client
    model = site.plane.model("m")
    served = model.version("1")
    promise: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    site.plane.submit(model, served, site.plane.route(model, context), list(inputs), context, promise)
    try:
        return await promise
    finally:
        site.plane.over(model, served, context)


def lookups(site: Site) -> tuple[float | None, float | None]:
    """Hits and misses."""
    hit, miss = (
        site.sample("cache_lookups_total", model="m", version="1", outcome=outcome) for outcome in ("hit", "miss")
    )
    return hit, miss


def test_the_same_input_gets_the_same_bits_and_the_model_runs_once(tmp_path: Path) -> None:
    model, x = Function(lambda x: np.float32(0.1) * x), column(1, 2, 3)

    async def test(site: Site) -> None:
        first = await ask(site, x)
        again = await ask(site, x.copy())
        assert again.outputs[0].tobytes() == first.outputs[0].tobytes() == (np.float32(0.1) * x).tobytes()
        assert (again.queue_s, again.infer_s) == (0, 0)
        assert (await ask(site, column(1, 2))).outputs[0].shape == (2, 1)
        assert [len(call) for call in model.calls] == [3, 2]
        assert lookups(site) == (1, 2)
        assert site.sample("cache_bytes", model="m", version="1") == 2 * 640 + 12 + 8
        assert site.sample("inflight_requests", model="m") == 0

    with_engine(tmp_path, model, test, table(1))


def test_an_answer_given_again_is_recorded_as_a_prediction_of_its_own(tmp_path: Path) -> None:
    of = msgspec.structs.replace(manifest(), features=(Feature("x", "x", 0),), prediction=Prediction("y", 0))

    async def test(site: Site) -> None:
        for name in ("a", "b"):
            await ask(site, column(1, 2), id=name)
            site.plane.close()
        assert site.sample("records_total", model="m", version="1") == 4
        assert site.sample("batch_rows_count", model="m", version="1") == 1  # what did not run is no batch

    with_engine(tmp_path, Function(lambda x: 2 * x), test, table(1, of=of))
    first, again = [decode(frame.payload) for frame in RingReader(tmp_path / "w.ring").read()]
    assert (first.ids, again.ids) == (["a"], ["b"])
    assert again.counts == [2] and again.statuses == [200] and again.infer_s == 0
    assert (again.version, again.digest, again.reasons) == (first.version, first.digest, first.reasons)
    assert again.inputs == first.inputs and again.outputs == first.outputs


def test_what_is_given_in_one_turn_is_on_record_with_the_rest(tmp_path: Path) -> None:
    of = msgspec.structs.replace(manifest(), features=(Feature("x", "x", 0),), prediction=Prediction("y", 0))

    async def test(site: Site) -> None:
        for x in (1, 2, 3):
            await ask(site, column(x, x))
        left = asyncio.create_task(ask(site, column(2, 2), id="left"))
        asked = [asyncio.create_task(ask(site, column(x, x), id=f"again {x}")) for x in (3, 1)]
        await asyncio.sleep(0)  # now they have asked, and nobody has an answer
        left.cancel()
        assert [(await one).outputs[0].tolist() for one in asked] == [[[6], [6]], [[2], [2]]]
        assert left.cancelled()

    with_engine(tmp_path, Function(lambda x: 2 * x), test, table(1, of=of))
    (record,) = [decode(frame.payload) for frame in RingReader(tmp_path / "w.ring").read()]
    assert record.ids[3:] == ["left", "again 3", "again 1"]
    assert record.counts == [2] * 6 and record.statuses[3:] == [ABANDONED, 200, 200]
    assert record.outputs["y"].array().ravel().tolist() == [2, 2, 4, 4, 6, 6, 4, 4, 6, 6, 2, 2]
    assert record.inputs["x"].array().ravel().tolist() == [1, 1, 2, 2, 3, 3, 2, 2, 3, 3, 1, 1]


def test_rows_that_depend_on_one_another_are_recorded_alone(tmp_path: Path) -> None:
    async def test(site: Site) -> None:
        await ask(site, column(1, 3))
        await asyncio.gather(*(ask(site, column(1, 3), id=name) for name in "ab"))

    dependent = table(1, of=manifest(independent=False))
    with_engine(tmp_path, Function(lambda x: x - x.mean()), test, dependent)
    assert [decode(frame.payload).ids for frame in RingReader(tmp_path / "w.ring").read()] == [["r"], ["a"], ["b"]]


def test_kept_answers_of_other_shapes_are_given_in_one_turn(tmp_path: Path) -> None:
    of = msgspec.structs.replace(manifest(outputs=[TensorSpec("y", "FP32", (-1, -1))]), prediction=Prediction("y", 0))
    wide = Function(lambda x: np.zeros((len(x), int(x.max())), np.float32))  # as wide as its run asks for

    async def test(site: Site) -> None:
        for width in (1, 2):
            await ask(site, column(width))
        async with asyncio.timeout(2.0):
            again = await asyncio.gather(*(ask(site, column(width)) for width in (1, 2)))
        assert [answer.outputs[0].shape for answer in again] == [(1, 1), (1, 2)]
        assert lookups(site) == (2, 2)
        site.plane.close()
        assert site.sample("records_total", model="m", version="1") == 4

    with_engine(tmp_path, wide, test, table(1, of=of))


def test_nothing_is_kept_unless_asked_for(tmp_path: Path) -> None:
    model = Function(lambda x: x)

    async def test(site: Site) -> None:
        for _ in range(2):
            await ask(site, column(1))
        assert len(model.calls) == 2 and lookups(site) == (None, None)
        assert site.served("1").recall is None

    with_engine(tmp_path, model, test, table(1, Cache()))


@pytest.mark.parametrize(("scope", "runs"), [("client", 2), ("shared", 1)])
def test_clients_share_only_where_they_may(tmp_path: Path, scope: str, runs: int) -> None:
    model = Function(lambda x: x)
    cache = msgspec.convert({"max_bytes": 2**20, "scope": scope}, Cache)

    async def test(site: Site) -> None:
        for client in ("ann", "bob", "ann", "bob"):
            assert (await ask(site, column(7), client=client)).outputs[0].tolist() == [[7]]
        assert len(model.calls) == runs and lookups(site) == (4 - runs, runs)

    with_engine(tmp_path, model, test, table(1, cache))


def test_a_failure_is_not_kept(tmp_path: Path) -> None:
    broken = [True]

    def breaks(x: Array) -> Array:
        if broken[0]:
            raise ModelFailure("not today")
        return x

    async def test(site: Site) -> None:
        with pytest.raises(ModelFailure, match="not today"):
            await ask(site, column(1))
        broken[0] = False
        assert (await ask(site, column(1))).outputs[0].tolist() == [[1]]
        assert lookups(site) == (0, 2)

    with_engine(tmp_path, Function(breaks), test, table(1))


def test_a_request_of_several_batches_is_kept_as_a_whole(tmp_path: Path) -> None:
    model, x = Function(lambda x: 2 * x), column(*range(10))

    async def test(site: Site) -> None:
        assert (await ask(site, x)).outputs[0].tolist() == (await ask(site, x)).outputs[0].tolist() == (2 * x).tolist()
        assert sum(len(call) for call in model.calls) == 10

    with_engine(tmp_path, model, test, table(1, batch=4))


def test_other_settings_and_other_versions_begin_with_nothing(tmp_path: Path) -> None:
    model = Function(lambda x: x)

    async def test(site: Site) -> None:
        await ask(site, column(1))
        site.plane.install(table(2))
        await ask(site, column(1))
        assert len(model.calls) == 1  # a new table with the same settings changes nothing
        site.plane.install(table(3, Cache(max_bytes=2**21)))
        await ask(site, column(1))
        assert len(model.calls) == 2
        site.plane.install(dataplane.table(4, {"2": 1.0}))
        assert site.sample("cache_bytes", model="m", version="1") == 0
        site.plane.install(table(5))
        await ask(site, column(1))
        assert len(model.calls) == 3

    with_engine(tmp_path, model, test, table(1))


def test_a_kept_answer_is_given_even_when_no_more_requests_are_let_in(tmp_path: Path) -> None:
    model = Function(lambda x: x, 0.3)

    async def test(site: Site) -> None:
        await ask(site, column(1))
        slow = asyncio.create_task(ask(site, column(2)))
        await until(lambda: len(model.calls) == 2)
        assert (await ask(site, column(1))).outputs[0].tolist() == [[1]]
        assert not slow.done()
        await slow

    with_engine(tmp_path, model, test, table(1), max_inflight_requests=1)


def test_over_http_json_and_binary_share_an_answer_and_it_names_its_own_request(tmp_path: Path) -> None:
    model, kept = Function(lambda x: 2 * x), Version(cache=CACHE)

    async def test(site: gateway.Site) -> None:
        await site.run(manifest(), model)
        await site.route(Model(weights={"1": 1.0}, versions={"1": kept}))
        first = await site.infer(1, 2.5, x_request_id="a")
        again = await site.infer(1, 2.5, x_request_id="b")
        assert gateway.values(first) == gateway.values(again) == [2, 5]
        assert again.headers["x-request-id"] == "b" and again.headers["x-gaugeway-version"] == "1"
        assert "infer;dur=0.000" in again.headers["server-timing"]
        asked = gateway.body(1, 2.5, outputs=[{"name": "y", "parameters": {"binary_data": True}}])
        binary = await site.client.post("/v2/models/m/infer", json=asked)
        assert binary.status_code == 200 and binary.content.endswith(column(2, 5).tobytes())
        by_url = await site.infer(1, 2.5, path="/v2/models/m/versions/1/infer")
        assert gateway.values(by_url) == [2, 5] and by_url.headers["x-gaugeway-route"] == "url"
        assert len(model.calls) == 1
        assert (
            "no output 'z'"
            in (await site.client.post("/v2/models/m/infer", json=gateway.body(1, outputs=[{"name": "z"}]))).text
        )

    gateway.with_site(tmp_path, test)
