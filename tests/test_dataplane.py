"""The transport-free core: tables come and go under requests, bounds hold, large requests are put together again."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest

from serving.admission import CRITICAL, DEFAULT, SHADOW
from serving.batching import ABANDONED, Answer
from serving.channel import Link
from serving.config import Capture
from serving.config import Gateway as Settings
from serving.dataplane import Context, DataPlane, Served, rows_of, sticky_key
from serving.engine import Engine
from serving.errors import BadRequest, ModelFailure, NotReady, Overloaded, UnknownModel, UnknownVersion
from serving.manifest import Manifest
from serving.metrics import Page, collect
from serving.protocol import Array, Parameter, TensorSpec
from serving.record import decode
from serving.ring import RingReader, RingWriter
from serving.routing import ModelEntry, Policy, Table, VersionEntry, initial
from tests.replicas import Function, X, Y, column, linked, listening, manifest, until


def table(generation: int, weights: Mapping[str, float], *more: Manifest, sticky: str = "", batch: int = 256) -> Table:
    """Model `m` with versions that have weights, and `more` without or in their place."""
    manifests = {**{v: manifest(version=v) for v in weights}, **{of.version: of for of in more}}
    versions = {v: VersionEntry(of, batch) for v, of in manifests.items()}
    policy = Policy("m", initial(weights), tuple(versions), sticky)
    return Table(generation, {"m": ModelEntry(policy, versions)})


class Site:
    """A data plane, links to engines of this process, and its counters."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._path, self.page = folder / "worker.page", Page(folder / "worker.page")
        self.ring = RingWriter(folder / "w.ring", 2**18)
        self.plane = DataPlane(settings, self.page, self.ring)
        self.links: list[Link] = []

    async def attach(self, path: Path, version: str = "1") -> Link:
        served = self.served(version)
        link = await linked(path, served.batcher.changed)
        served.batcher.attach(link)
        self.links.append(link)
        return link

    def served(self, version: str) -> Served:
        return self.plane.models["m"].version(version)

    async def infer(
        self,
        *inputs: Array,
        version: str | None = None,
        deadline_s: float = 10.0,
        client: str = "a",
        priority: int = DEFAULT,
    ) -> Answer:
        context = request(deadline_s=deadline_s, version=version)
        context.client, context.priority = client, priority
        model = self.plane.model("m")
        route = self.plane.route(model, context)
        promise: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        items = self.plane.submit(model, model.version(route.version), route, list(inputs), context, promise)
        try:
            return await promise
        finally:
            self.plane.over(model, model.version(route.version), context)
            for item in items:
                if promise.cancelled():
                    model.version(route.version).batcher.abandon(item)

    def sample(self, name: str, **labels: str) -> float | None:
        found = (s for family in collect([self._path]) for s in family.samples)
        return next((s.value for s in found if s.name == f"gaugeway_{name}" and s.labels == labels), None)

    async def close(self) -> None:
        for link in self.links:
            link.close()
        await until(lambda: all(link.state == "lost" for link in self.links))
        self.plane.close()
        self.page.close()
        self.ring.close()


def with_site(folder: Path, test: Callable[[Site], Awaitable[None]], **settings: float) -> None:
    async def main() -> None:
        site = Site(folder, msgspec.convert(settings, Settings))
        try:
            await test(site)
        finally:
            await site.close()

    asyncio.run(main())


def with_engine(
    folder: Path, model: Function, test: Callable[[Site], Awaitable[None]], of: Table, **settings: float
) -> None:
    """A site whose version 1 has one replica that runs `model`."""

    async def run(site: Site) -> None:
        site.plane.install(of)
        engine = Engine(of.models["m"].versions["1"].manifest, model, expected_s=1.0)
        async with listening(engine, folder / "s"):
            await site.attach(folder / "s")
            await test(site)
            await until(lambda: engine.load == 0)

    with_site(folder, run, **settings)


def request(
    headers: Mapping[bytes, bytes] | None = None,
    parameters: Mapping[str, Parameter] | None = None,
    *,
    id: str = "r",
    deadline_s: float = 10.0,
    version: str | None = None,
) -> Context:
    return Context(id, deadline_s, 0.0, 0.0, headers or {}, parameters or {}, version)


def test_a_higher_generation_replaces_and_others_are_ignored(tmp_path: Path) -> None:
    async def test(site: Site) -> None:
        plane = site.plane
        with pytest.raises(NotReady, match="routing table"):
            plane.model("m")
        plane.install(table(5, {"1": 0.75, "2": 0.25}))
        for stale in (5, 4, 0):
            plane.install(table(stale, {"9": 1.0}))
        assert plane.table.generation == 5 and set(plane.models["m"].versions) == {"1", "2"}
        with pytest.raises(UnknownModel, match="there are 'm'"):
            plane.model("n")
        weights = {v: site.sample("route_weight", model="m", version=v) for v in ("1", "2")}
        assert weights == {"1": 0.75, "2": 0.25} and site.sample("table_generation") == 5
        plane.install(table(6, {"2": 1.0}))
        assert [site.sample("route_weight", model="m", version=v) for v in ("1", "2")] == [0, 1]
        plane.install(Table(7))
        assert plane.models == {} and site.sample("route_weight", model="m", version="2") == 0
        with pytest.raises(UnknownModel, match="no model is served"):
            plane.model("m")

    with_site(tmp_path, test)


def test_versions_that_stay_keep_their_queue_and_take_new_bounds(tmp_path: Path) -> None:
    async def test(site: Site) -> None:
        site.plane.install(table(1, {"1": 1.0}, batch=8))
        before = site.served("1")
        assert before.batcher.max_batch_rows == 8
        site.plane.install(table(2, {"1": 0.5, "2": 0.5}, batch=16))
        assert site.served("1") is before and before.batcher.max_batch_rows == 16
        other = msgspec.structs.replace(manifest(), files={"model.onnx": "other bytes"})
        site.plane.install(table(3, {"1": 1.0}, other))
        assert site.served("1") is not before and site.served("1").digest == other.digest

    with_site(tmp_path, test)


def test_a_batcher_is_found_by_model_version_and_digest(tmp_path: Path) -> None:
    async def test(site: Site) -> None:
        site.plane.install(table(1, {"1": 1.0}))
        digest = manifest().digest
        assert site.plane.batcher("m", "1", digest) is site.served("1").batcher
        for wrong in (("n", "1", digest), ("m", "2", digest), ("m", "1", "other")):
            assert site.plane.batcher(*wrong) is None

    with_site(tmp_path, test)


def test_a_version_that_comes_back_while_links_are_open_is_the_same(tmp_path: Path) -> None:
    async def test(site: Site) -> None:
        before = site.served("1")
        site.plane.install(table(2, {"2": 1.0}))
        assert set(site.plane.models["m"].versions) == {"2"}
        site.plane.install(table(3, {"3": 1.0}))  # retired is retired over several tables
        site.plane.install(table(4, {"1": 1.0}))
        assert site.served("1") is before and before.batcher.ready
        assert (await site.infer(column(1))).outputs[0].tolist() == [[2]]
        site.plane.install(table(5, {"2": 1.0}))
        site.links[0].close()
        await until(lambda: not before.batcher.links)
        site.plane.install(table(6, {"2": 0.5, "3": 0.5}))
        site.plane.install(table(7, {"1": 1.0}))
        assert site.served("1") is not before

    with_engine(tmp_path, Function(lambda x: 2 * x), test, table(1, {"1": 1.0}))


def test_what_is_under_way_is_answered_by_a_version_that_left_the_table(tmp_path: Path) -> None:
    model = Function(lambda x: 2 * x, 0.05)

    async def test(site: Site) -> None:
        waiting = [asyncio.create_task(site.infer(column(k))) for k in range(5)]
        await until(lambda: model.calls)
        site.plane.install(table(2, {"2": 1.0}))
        late = asyncio.create_task(site.infer(column(9)))
        answers = await asyncio.gather(*waiting)
        assert [a.outputs[0].tolist() for a in answers] == [[[2 * k]] for k in range(5)]
        with pytest.raises(NotReady, match="version '2'"):
            await late
        assert site.sample("inflight_requests", model="m") == 0

    with_engine(tmp_path, model, test, table(1, {"1": 1.0}, batch=1))


def test_the_default_is_the_version_with_the_most_traffic(tmp_path: Path) -> None:
    async def test(site: Site) -> None:
        site.plane.install(table(1, {"1": 0.2, "2": 0.5, "3": 0.3}, manifest(version="4")))
        model = site.plane.model("m")
        assert model.version(None).manifest.version == "2"
        assert [model.version(v).manifest.version for v in "1234"] == list("1234")  # "4" by name only
        with pytest.raises(UnknownVersion, match="it has '1', '2', '3', '4'"):
            model.version("9")

    with_site(tmp_path, test)


@pytest.mark.parametrize(("strict", "expected"), [(0, [True, True, True]), (1, [False, False, True])])
def test_readiness_may_ask_for_every_model(tmp_path: Path, strict: int, expected: list[bool]) -> None:
    found: list[bool] = []

    async def test(site: Site) -> None:
        assert not site.plane.ready
        site.plane.install(table(1, {"1": 0.5, "2": 0.5}, manifest(version="3")))
        found.append(site.plane.ready)
        one, two = (Engine(manifest(version=version), Function(lambda x: x)) for version in ("1", "2"))
        async with listening(one, tmp_path / "1"), listening(two, tmp_path / "2"):
            for version in ("1", "2"):  # "3" has no traffic, so nothing waits for it
                await site.attach(tmp_path / version, version)
                found.append(site.plane.ready)

    with_site(tmp_path, test, strict_readiness=bool(strict))
    assert found == expected


def test_without_its_node_it_says_that_others_should_be_asked_and_answers_nevertheless(tmp_path: Path) -> None:
    async def test(site: Site) -> None:
        async with listening(Engine(manifest(), Function(lambda x: x)), tmp_path / "s"):
            site.plane.install(table(1, {"1": 1.0}))
            await site.attach(tmp_path / "s")
            site.plane.orphaned = True
            assert not site.plane.ready
            assert (await site.infer(column(3))).outputs[0] == 3

    with_site(tmp_path, test)


@pytest.mark.parametrize(
    ("sticky", "context", "key"),
    [
        ("", request({b"x-user": b"ann"}, {"user": "ann"}), None),
        ("header:X-User", request({b"x-user": b"ann"}), "ann"),
        ("header:x-user", request({b"x-user": b""}), None),
        ("header:x-user", request({b"x-user": b"\xe9"}), "é"),
        ("header:x-user", request({b"x-other": b"ann"}, {"x-user": "bob"}), None),
        ("parameter:user", request(parameters={"user": "ann"}), "ann"),
        ("parameter:user", request(parameters={"user": 0}), "0"),
        ("parameter:user", request(parameters={"user": ""}), None),
        ("parameter:user", request({b"user": b"ann"}), None),
        ("cookie:sid", request({b"cookie": b"sid=ann"}), "ann"),
        ("cookie:sid", request({b"cookie": b"theme=dark; sid=ann; sid=bob"}), "ann"),
        ("cookie:sid", request({b"cookie": b'theme=dark;sid="a=n n"'}), "a=n n"),
        ("cookie:sid", request({b"cookie": b"xsid=bob; sidx=bob; sid"}), None),
        ("cookie:sid", request({b"cookie": b"sid=; theme=dark"}), None),
        ("cookie:sid", request({b"sid": b"ann"}), None),
    ],
)
def test_the_sticky_key(sticky: str, context: Context, key: str | None) -> None:
    assert sticky_key(Policy("m", initial({"1": 1.0}), ("1",), sticky), context) == key


def test_a_user_stays_on_a_version_and_a_request_without_a_user_does_not_count_as_one(tmp_path: Path) -> None:
    async def test(site: Site) -> None:
        site.plane.install(table(1, {"1": 0.5, "2": 0.5}, sticky="header:x-user"))
        model = site.plane.model("m")
        for user in (b"ann", b"bob", b"eve"):
            routes = {site.plane.route(model, request({b"x-user": user}, id=str(k))) for k in range(20)}
            (route,) = routes
            assert (route.reason, route.propensity) == ("sticky", 0.5) and route.key_hash > 0
        without = [site.plane.route(model, request(id=str(k))) for k in range(50)]
        assert {route.version for route in without} == {"1", "2"}
        assert {(route.reason, route.key_hash) for route in without} == {("weight", 0)}

    with_site(tmp_path, test)


def test_rows_are_the_common_length_of_all_inputs() -> None:
    z = TensorSpec("z", "FP32", (-1,))
    two = manifest(inputs=[X, z])
    assert rows_of(two, [column(1, 2), np.zeros(2, np.float32)]) == 2
    assert rows_of(two, [column(), np.zeros(0, np.float32)]) == 0
    with pytest.raises(BadRequest, match=r"same number of rows \(axis 0\), got x \[2, 1\], z \[3\]"):
        rows_of(two, [column(1, 2), np.zeros(3, np.float32)])
    with pytest.raises(BadRequest, match="same number of rows"):
        rows_of(manifest(inputs=[]), [])


def test_rows_that_depend_on_one_another_are_those_of_the_first_input() -> None:
    scalar = TensorSpec("s", "FP32", ())
    of = manifest(independent=False, inputs=[X, scalar])
    assert rows_of(of, [column(1, 2, 3), np.array(1.0, np.float32)]) == 3
    assert rows_of(of, [np.array(1.0, np.float32), column(1, 2)]) == 1
    assert rows_of(manifest(independent=False, inputs=[]), []) == 1


@pytest.mark.parametrize(("rows", "counts"), [(3, [3]), (4, [4]), (5, [4, 1]), (10, [4, 4, 2]), (0, [0])])
def test_a_large_request_is_split_and_put_together(tmp_path: Path, rows: int, counts: list[int]) -> None:
    model = Function(lambda x: np.float32(0.1) * x)
    x = np.random.default_rng(0).random((rows, 1), np.float32)

    async def test(site: Site) -> None:
        answer = await site.infer(x)
        assert answer.outputs[0].tobytes() == (np.float32(0.1) * x).tobytes()
        assert answer.infer_s >= 0 and answer.queue_s >= 0

    with_engine(tmp_path, model, test, table(1, {"1": 1.0}, batch=4))
    records = [decode(frame.payload) for frame in RingReader(tmp_path / "w.ring").read()]
    parts = sorted((first, n) for r in records for first, n in zip(r.first_rows, r.counts, strict=True))
    assert parts == [(4 * k, n) for k, n in enumerate(counts)]
    assert {id for r in records for id in r.ids} == {"r"}


def test_a_request_that_cannot_be_split_is_refused_above_a_batch(tmp_path: Path) -> None:
    model = Function(lambda x: x - x.mean())

    async def test(site: Site) -> None:
        assert (await site.infer(column(1, 2, 3, 6))).outputs[0].ravel().tolist() == [-2, -1, 0, 3]
        with pytest.raises(BadRequest, match="got 5 rows; model 'm' version '1' takes at most 4 a request"):
            await site.infer(column(1, 2, 3, 4, 5))

    with_engine(tmp_path, model, test, table(1, {"1": 1.0}, manifest(independent=False), batch=4))
    assert len(model.calls) == 1


def test_rows_that_are_part_of_the_model_are_not_counted_against_a_batch(tmp_path: Path) -> None:
    fixed = manifest(independent=False, inputs=[TensorSpec("x", "FP32", (8, 1))], outputs=[Y])

    async def test(site: Site) -> None:
        assert (await site.infer(column(*range(8)))).outputs[0].ravel().tolist() == [-k for k in range(8)]

    with_engine(tmp_path, Function(lambda x: -x), test, table(1, {"1": 1.0}, fixed, batch=4))


def test_when_one_part_fails_the_request_fails_once(tmp_path: Path) -> None:
    def fails(x: Array) -> Array:
        if (x == 5).any():
            raise ModelFailure("no 5")
        return x

    async def test(site: Site) -> None:
        with pytest.raises(ModelFailure, match="no 5"):
            await site.infer(column(*range(40)))
        assert site.sample("inflight_requests", model="m") == 0
        await until(lambda: site.served("1").batcher.idle)
        assert site.served("1").batcher.queued_rows == 0

    with_engine(tmp_path, Function(fails), test, table(1, {"1": 1.0}, batch=4))
    records = [decode(frame.payload) for frame in RingReader(tmp_path / "w.ring").read()]
    assert sum(record.rows for record in records) == 40  # every part is accounted for, once
    assert {500, ABANDONED} <= {status for record in records for status in record.statuses}


def test_parts_that_do_not_fit_together_fail_their_request_and_nobody_else(tmp_path: Path) -> None:
    of = manifest(outputs=[TensorSpec("y", "FP32", (-1, -1))])
    wide = Function(lambda x: np.zeros((len(x), int(x.max())), np.float32))  # as wide as its run asks for

    async def test(site: Site) -> None:
        with pytest.raises(ModelFailure, match="do not fit together"):
            await site.infer(column(*[1] * 200, *[2] * 200), deadline_s=2.0)
        assert (await site.infer(column(3))).outputs[0].shape == (1, 3)
        assert site.links[0].state == "ready"
        assert site.sample("inflight_requests", model="m") == 0

    with_engine(tmp_path, wide, test, table(1, {"1": 1.0}, of, batch=200))  # two parts are too much for one run


class Broken(asyncio.Future[Answer]):
    """A promise that cannot be kept."""

    def set_result(self, result: Answer, /) -> None:
        raise RuntimeError("broken")


def test_a_promise_that_raises_loses_no_record(tmp_path: Path) -> None:
    async def test(site: Site) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        context, model, served = request(id="a"), site.plane.model("m"), site.served("1")
        route = site.plane.route(model, context)
        site.plane.submit(model, served, route, [column(1, 2)], context, Broken())
        await until(lambda: not served.batcher.links)  # what read the answer failed with it
        site.plane.over(model, served, context)
        await site.attach(tmp_path / "s")
        await site.infer(column(3))
        site.plane.close()
        reader = RingReader(tmp_path / "w.ring")
        assert sum(frame.rows for frame in reader.read()) == 3
        assert reader.lost_rows == 0

    with_engine(tmp_path, Function(lambda x: x), test, table(1, {"1": 1.0}))


def test_open_requests_are_bounded_and_what_is_refused_is_counted(tmp_path: Path) -> None:
    model = Function(lambda x: x, 0.1)

    async def test(site: Site) -> None:
        asked = [asyncio.create_task(site.infer(column(k))) for k in range(5)]
        await asyncio.sleep(0)
        assert site.sample("inflight_requests", model="m") == 2
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Answer, Answer, Overloaded, Overloaded, Overloaded]
        assert "2 requests are being answered by this worker" in str(outcomes[2])
        assert site.sample("shed_total", model="m", reason="inflight", priority="default") == 3
        assert site.sample("inflight_requests", model="m") == 0
        assert isinstance(await site.infer(column(1)), Answer)

    with_engine(tmp_path, model, test, table(1, {"1": 1.0}), max_inflight_requests=2)


def test_waiting_rows_are_bounded_and_what_is_refused_is_counted(tmp_path: Path) -> None:
    model = Function(lambda x: x, 0.05)

    async def test(site: Site) -> None:
        asked = [asyncio.create_task(site.infer(column(k, k))) for k in range(4)]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Answer, Answer, Overloaded, Overloaded]
        assert site.sample("shed_total", model="m", reason="queue", priority="default") == 2
        assert site.sample("shed_total", model="m", reason="inflight", priority="default") is None
        assert site.sample("inflight_requests", model="m") == 0

    with_engine(tmp_path, model, test, table(1, {"1": 1.0}), max_queue_rows=4)


def test_a_crowd_is_shed_by_class_and_by_client(tmp_path: Path) -> None:
    """50 rows/s and 0.16 s: ordinary requests may fill 8 rows, one client 6 of them, critical requests 16."""

    async def test(site: Site) -> None:
        await site.infer(column(0))  # a run, so that its speed is known
        greedy = [asyncio.create_task(site.infer(column(k))) for k in range(20)]
        await asyncio.sleep(0)
        polite = asyncio.create_task(site.infer(column(1), client="b"))
        critical = [asyncio.create_task(site.infer(column(k), priority=CRITICAL)) for k in range(3)]
        shadow = asyncio.create_task(site.infer(column(1), client="c", priority=SHADOW))
        outcomes = await asyncio.gather(*greedy, return_exceptions=True)
        refused = [outcome for outcome in outcomes if isinstance(outcome, Overloaded)]
        assert 4 <= len(outcomes) - len(refused) <= 8
        assert {error.reason for error in refused} == {"client"}
        assert site.sample("shed_total", model="m", reason="client", priority="default") == len(refused)
        await asyncio.gather(polite, *critical)
        with pytest.raises(Overloaded, match="shadow requests may fill"):
            await shadow
        assert site.sample("shed_total", model="m", reason="limit", priority="shadow") == 1
        assert 10 <= (site.sample("admission_limit_rows", model="m", version="1") or 0) <= 40
        with pytest.raises(Overloaded, match="the deadline is"):
            await asyncio.gather(*(site.infer(column(k), deadline_s=0.03, client=str(k)) for k in range(4)))

    slow = Function(lambda x: x, 0.02)
    with_engine(tmp_path, slow, test, table(1, {"1": 1.0}, batch=1), queue_target_s=0.1)


def test_answers_are_counted_by_version_and_status(tmp_path: Path) -> None:
    async def test(site: Site) -> None:
        site.plane.install(table(1, {"1": 1.0}))
        model = site.plane.model("m")
        for _ in range(3):
            site.served("1").answered(200).add()
        site.served("1").answered(504).add()
        model.refused(400).add()
        site.plane.unknown(404)
        site.plane.labelled(model, {"joined": 7, "refused": 0})
        count = {
            (model, version, code): site.sample(
                "requests_total", model=model, version=version, role="primary", code=code
            )
            for model, version, code in (
                ("m", "1", "200"),
                ("m", "1", "504"),
                ("m", "", "400"),
                ("_unknown", "", "404"),
            )
        }
        assert list(count.values()) == [3, 1, 1, 1]
        assert site.sample("labels_total", model="m", outcome="joined") == 7
        assert site.sample("labels_total", model="m", outcome="refused") == 0

    with_site(tmp_path, test)


def test_a_table_begins_and_ends_capturing(tmp_path: Path) -> None:
    def captured(generation: int, capture: Capture) -> Table:
        of = table(generation, {"1": 1.0})
        entry = of.models["m"]
        versions = {"1": msgspec.structs.replace(entry.versions["1"], capture=capture)}
        return Table(generation, {"m": ModelEntry(entry.policy, versions)})

    async def test(site: Site) -> None:
        for generation, wanted in ((2, Capture(enabled=True, features=(X.name,), sample=0.5)), (3, Capture())):
            await site.infer(column(1))
            site.plane.install(captured(generation, wanted))
        await site.infer(column(1))

    with_engine(tmp_path, Function(lambda x: x), test, captured(1, Capture()))
    records = [decode(frame.payload) for frame in RingReader(tmp_path / "w.ring").read()]
    assert [record.excerpt.sample if record.excerpt else None for record in records] == [None, 0.5, None]
    assert [set(record.extras) for record in records] == [set(), {X.name}, set()]
