"""The gateway over a real engine, on a real socket: statuses, bodies and headers as clients see them."""

import asyncio
import gc
import gzip
import json
import shutil
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from aiohttp import web

from serving import attempt
from serving.admission import DEFAULT
from serving.config import Config, Model, parse
from serving.dataplane import DataPlane
from serving.discovery import Announcement, announce, prepare
from serving.engine import Engine
from serving.gateway import Gateway, streams
from serving.handover import listen
from serving.labelling import Desk
from serving.limits import Limits
from serving.links import Links
from serving.manifest import Manifest
from serving.metrics import Page, collect
from serving.planning import Plan, table
from serving.protocol import TensorSpec
from serving.routing import Table
from serving.runtime import Session
from serving.server import Server
from tests.models import slow
from tests.replicas import Function, manifest, until


class Site:
    """One worker without its process: engines, table, gateway and an HTTP client of it."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.config: Config = parse(
            {"data_dir": str(folder), "gateway": dict(settings), "monitors": {"event_time": "request"}}
        )
        self.folder, self._engines = folder, list[Engine]()
        self._sockets = self.config.socket_dir
        prepare(self._sockets)
        self.page = Page(folder / "worker.page")
        self.plane = DataPlane(self.config.gateway, self.page, None)
        self.desk = Desk(folder / "monitors.sock", timeout_s=2.0)
        self.links = Links(self.config, self.plane)
        gateway = Gateway(self.config, self.plane, self.desk)
        limits = Limits(max_body_bytes=self.config.gateway.max_body_bytes)
        self.server = Server(gateway, limits, gateway.refused, streams=streams)
        self._socket = listen("127.0.0.1", 0)
        self.port: int = self._socket.getsockname()[1]
        self.client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", trust_env=False)
        self._manifests: dict[tuple[str, str], Manifest] = {}

    async def open(self) -> None:
        await self.server.listen(self._socket)

    async def run(self, of: Manifest, model: attempt.Model, expected_s: float = 0.0) -> Engine:
        """Start a replica and announce it."""
        engine = Engine(of, model, replica=f"{of.model}-{of.version}-{len(self._engines)}", expected_s=expected_s)
        socket = self._sockets / "replicas" / f"{len(self._engines)}.sock"
        await engine.listen(socket)
        announce(self._sockets, Announcement(of.model, of.version, of.digest, engine.hello.replica, str(socket), 1))
        self._engines.append(engine)
        self._manifests[of.model, of.version] = of
        return engine

    async def route(self, model: Model, max_batch_rows: int = 256, name: str = "m") -> None:
        """Install a table with these weights for all versions that were run, as a worker does."""
        keys = {key: model.version(key[1]) for key in self._manifests if key[0] == name}
        plan = Plan(keys, {name: dict(model.weights)}, {name: model})
        new = table(plan, self._manifests, set(keys), self.plane.table)
        await self.links.prepare(new)
        self.plane.install(new)
        self.links.attach()
        for served in self.plane.models[name].versions.values():
            served.batcher.resize(max_batch_rows)

    async def infer(self, *x: float, path: str = "/v2/models/m/infer", **headers: str) -> httpx.Response:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(path, json=body(*x), headers=sent)

    async def close(self) -> None:
        await self.client.aclose()
        await self.server.drain(5.0)
        await self.desk.close()
        for engine in self._engines:
            engine.close()
        await until(lambda: not self.links.report())
        self.page.close()
        shutil.rmtree(self._sockets)


def body(*x: float, **more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [len(x), 1], "data": list(x)}], **more}


def values(response: httpx.Response) -> list[float]:
    assert response.status_code == 200, response.text
    found: list[float] = response.json()["outputs"][0]["data"]
    return found


def refused(response: httpx.Response, status: int) -> str:
    """The sentence of an error that is as every error must be."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    document = response.json()
    assert list(document) == ["error"]
    return str(document["error"])


@asynccontextmanager
async def _open(folder: Path, settings: Mapping[str, Any]) -> AsyncIterator[Site]:
    site = Site(folder, settings)
    await site.open()
    try:
        yield site
    finally:
        await site.close()


def with_site(folder: Path, test: Callable[[Site], Awaitable[None]], **settings: Any) -> None:
    async def main() -> None:
        async with _open(folder, settings) as site:
            await test(site)

    asyncio.run(main())


def double() -> Function:
    return Function(lambda x: 2 * x)


ONE = Model(weights={"1": 1.0})


async def _one(site: Site) -> None:
    await site.run(manifest(), double())
    await site.route(ONE)


def test_a_prediction(tmp_path: Path) -> None:
    async def test(site: Site) -> None:
        await _one(site)
        response = await site.infer(1, 2.5, x_request_id="abc")
        assert values(response) == [2, 5]
        assert response.json()["model_name"] == "m" and response.json()["model_version"] == "1"
        headers = response.headers
        assert (headers["x-request-id"], headers["x-gaugeway-version"]) == ("abc", "1")
        assert headers["x-gaugeway-digest"] == manifest().digest and headers["x-gaugeway-route"] == "weight"
        stages = dict(part.split(";dur=") for part in headers["server-timing"].split(", "))
        assert list(stages) == ["queue", "infer", "total"]
        assert 0 <= float(stages["infer"]) <= float(stages["total"]) < 5000

    with_site(tmp_path, test)


def test_the_request_id_is_the_headers_else_the_bodys_else_made(tmp_path: Path) -> None:
    async def test(site: Site) -> None:
        await _one(site)
        post = site.client.post
        both = await post("/v2/models/m/infer", json=body(1, id="in-body"), headers={"x-request-id": "in-header"})
        assert both.headers["x-request-id"] == "in-header" and both.json()["id"] == "in-body"
        assert (await post("/v2/models/m/infer", json=body(1, id="in-body"))).headers["x-request-id"] == "in-body"
        odd = await post("/v2/models/m/infer", json=body(1, id="a\r\nb"))
        assert odd.headers["x-request-id"] == "a__b" and odd.json()["id"] == "a\r\nb"
        assert (await post("/v2/models/m/infer", json=body(1, id="é" * 4096))).status_code == 200
        refused(await post("/v2/models/m/infer", json=body(1, id="é" * 4097)), 400)
        made = {(await site.infer(1)).headers["x-request-id"] for _ in range(3)}
        assert len(made) == 3
        for path in ("/v2/health/live", "/v2/models/nope/infer", "/nowhere", "/v2"):
            assert (await site.client.get(path, headers={"x-request-id": "q"})).headers["x-request-id"] == "q"
        assert "printable" in refused(await site.infer(1, x_request_id="a b"), 400)

    with_site(tmp_path, test)


def test_errors_are_sentences_in_json(tmp_path: Path) -> None:
    async def test(site: Site) -> None:
        await _one(site)
        url, post = "/v2/models/m/infer", site.client.post
        assert "unknown model 'x'" in refused(await site.infer(1, path="/v2/models/x/infer"), 404)
        assert "no version '9'" in refused(await site.infer(1, path="/v2/models/m/versions/9/infer"), 404)
        refused(await site.client.get("/v2/nothing"), 404)
        wrong = await site.client.get(url)
        refused(wrong, 405)
        assert wrong.headers["allow"] == "POST"
        refused(await post(url, content=b"{"), 400)
        refused(await post(url, json={"inputs": []}), 400)
        refused(await post(url, json=body(1), headers={"x-gaugeway-deadline-s": "soon"}), 400)
        refused(await post(url, json=body(1), headers={"x-gaugeway-deadline-s": "nan"}), 400)
        refused(await post(url, json=body(1), headers={"x-gaugeway-event-time": "2013-01-01"}), 400)
        refused(await post(url, json=body(1), headers={"inference-header-content-length": "x"}), 400)
        refused(await post(url, content=b"abc", headers={"content-encoding": "br"}), 415)
        conflict = await site.infer(1, path="/v2/models/m/versions/1/infer", x_gaugeway_version="2")
        assert "names version '1'" in refused(conflict, 403)

    with_site(tmp_path, test)


def test_bodies_are_bounded_however_they_come(tmp_path: Path) -> None:
    async def pieces(n: int) -> AsyncIterator[bytes]:
        for _ in range(n):
            yield b"x" * 100

    async def test(site: Site) -> None:
        await _one(site)
        url = "/v2/models/m/infer"
        for content in (b"x" * 1001, pieces(11)):
            response = await site.client.post(url, content=content)
            refused(response, 413)
            assert response.headers["connection"] == "close"
        refused(await site.client.post(url, content=_at_once(b"x" * 5000)), 413)
        bomb = gzip.compress(b" " * 100_000)
        assert len(bomb) < 1000
        refused(await site.client.post(url, content=bomb, headers={"content-encoding": "gzip"}), 413)

    with_site(tmp_path, test, max_body_bytes=1000)


async def _at_once(data: bytes) -> AsyncIterator[bytes]:
    yield data


def test_before_there_is_a_table_and_after_the_replicas_are_gone(tmp_path: Path) -> None:
    async def test(site: Site) -> None:
        early = await site.infer(1)
        assert "routing table" in refused(early, 503) and int(early.headers["retry-after"]) >= 1
        refused(await site.client.get("/v2/health/ready"), 503)
        assert (await site.client.get("/v2/health/live")).json() == {"live": True}
        engine = await site.run(manifest(), double())
        await site.route(ONE)
        assert (await site.client.get("/v2/health/ready")).json() == {"live": True, "ready": True}
        assert (await site.client.get("/v2/models/m/ready")).json() == {"name": "m", "ready": True}
        engine.close()
        await until(lambda: not site.plane.models["m"].ready)
        start = time.monotonic()
        refused(await site.infer(1), 503)
        assert time.monotonic() - start < 0.2
        refused(await site.client.get("/v2/models/m/ready"), 503)

    with_site(tmp_path, test)


def test_metadata_index_and_head(tmp_path: Path) -> None:
    async def test(site: Site) -> None:
        await _one(site)
        metadata = (await site.client.get("/v2/models/m")).json()
        assert metadata["versions"] == ["1"] and metadata["platform"] == "onnx_onnxv1"
        assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 1]}]
        assert (await site.client.get("/v2/models/m/versions/1")).json() == metadata
        assert (await site.client.get("/v2/")).json()["name"] == "gaugeway"
        assert (await site.client.get("/v2/models")).json() == {"models": ["m"]}
        (row,) = (await site.client.post("/v2/repository/index")).json()
        assert (row["name"], row["version"], row["state"]) == ("m", "1", "READY")
        head = await site.client.head("/v2/models/m")
        got = await site.client.get("/v2/models/m")
        assert head.content == b"" and head.headers["content-length"] == str(len(got.content))

    with_site(tmp_path, test)


def test_a_request_larger_than_a_batch_is_split_and_put_together(tmp_path: Path) -> None:
    model = double()

    async def test(site: Site) -> None:
        await site.run(manifest(), model)
        await site.route(ONE, max_batch_rows=7)
        x = [float(k) for k in range(100)]
        assert values(await site.infer(*x)) == [2 * k for k in x]

    with_site(tmp_path, test)
    assert len(model.calls) > 1


def test_dependent_rows_are_never_batched_and_too_many_are_refused(tmp_path: Path) -> None:
    model = Function(lambda x: x - x.mean(), 0.01)

    async def test(site: Site) -> None:
        await site.run(manifest(independent=False), model, expected_s=1.0)
        await site.route(ONE, max_batch_rows=4)
        answers = await asyncio.gather(*(site.infer(k, k + 2) for k in range(10)))
        assert [values(answer) for answer in answers] == [[-1, 1]] * 10
        assert "takes at most 4" in refused(await site.infer(1, 2, 3, 4, 5), 400)

    with_site(tmp_path, test)
    assert {len(call) for call in model.calls} == {2}


def test_a_model_of_one_fixed_shape_is_not_refused_for_its_size(tmp_path: Path) -> None:
    vector = TensorSpec("x", "FP32", (300,))

    async def test(site: Site) -> None:
        of = manifest(independent=False, inputs=[vector], outputs=[TensorSpec("y", "FP32", (1,))])
        await site.run(of, Function(lambda x: x.sum(keepdims=True)))
        await site.route(ONE, max_batch_rows=256)
        sent = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [300], "data": [1.0] * 300}]}
        assert values(await site.client.post("/v2/models/m/infer", json=sent)) == [300]

    with_site(tmp_path, test)


@pytest.mark.parametrize(("asked", "deadline_s"), [("0.1", 30.0), ("1000", 0.1)])
def test_a_request_may_only_lower_its_deadline(tmp_path: Path, asked: str, deadline_s: float) -> None:
    gate = threading.Event()  # the run ends when the answer is there: no answer can come of the run

    async def test(site: Site) -> None:
        await site.run(manifest(), Function(lambda x: x * gate.wait(20)), expected_s=2.0)
        await site.route(ONE)
        start = time.monotonic()
        try:
            refused(await site.infer(1, x_gaugeway_deadline_s=asked), 504)
            assert 0.09 < time.monotonic() - start < 10
        finally:
            gate.set()

    with_site(tmp_path, test, deadline_s=deadline_s)


def test_a_crowd_is_refused_before_its_bodies_are_read_and_health_is_answered(tmp_path: Path) -> None:
    """50 rows/s and 0.36 s: ordinary requests may fill 18 rows, critical ones as many again."""

    async def test(site: Site) -> None:
        await site.run(manifest(), Function(lambda x: x, 0.02), expected_s=1.0)
        await site.route(ONE, max_batch_rows=1)
        values(await site.infer(0))  # a run, so that its speed is known
        crowd = [asyncio.create_task(site.infer(k, x_client_id=f"c{k}")) for k in range(60)]
        door = site.plane.models["m"].versions["1"].batcher.admission
        await until(lambda: door.full("b", DEFAULT))
        refusal = await site.client.post("/v2/models/m/infer", content=b"{")
        assert "default requests may fill" in refused(refusal, 503) and 1 <= int(refusal.headers["retry-after"]) <= 30
        assert values(await site.infer(7, x_gaugeway_priority="critical")) == [7]
        assert (await site.client.get("/v2/health/ready")).status_code == 200
        statuses = {answer.status_code for answer in await asyncio.gather(*crowd)}
        assert statuses == {200, 503}
        assert "must be critical, default or sheddable" in refused(
            await site.infer(1, x_gaugeway_priority="shadow"), 400
        )
        await until(lambda: (door.rows, door.clients) == (0, 0))

    with_site(tmp_path, test, queue_target_s=0.3, client="header:x-client-id")


def test_what_was_let_in_gives_way_to_what_is_critical_and_is_told_at_once(tmp_path: Path) -> None:
    """Twenty ordinary requests wait for a replica of 50 rows/s when critical ones begin to come, 50 a second."""

    async def test(site: Site) -> None:
        await site.run(manifest(), Function(lambda x: x, 0.02), expected_s=1.0)
        await site.route(ONE, max_batch_rows=1)
        values(await site.infer(0))
        headers = {"x_gaugeway_deadline_s": "1"}
        ordinary = [asyncio.create_task(site.infer(k, x_client_id=f"c{k}", **headers)) for k in range(20)]
        critical = []
        for k in range(45):
            critical.append(asyncio.create_task(site.infer(k, x_gaugeway_priority="critical")))
            await asyncio.sleep(0.02)  # their rate
        assert [values(await answer) for answer in critical] == [[k] for k in range(45)]
        answers = [await answer for answer in ordinary]
        displaced = [answer for answer in answers if "more important requests came" in answer.text]
        assert displaced and all(refused(answer, 503) for answer in displaced)
        assert sum(answer.status_code == 504 for answer in answers) <= len(displaced)
        samples = [sample for family in collect([site.folder / "worker.page"]) for sample in family.samples]
        assert len(displaced) == sum(s.value for s in samples if s.labels.get("reason") == "displaced")

    with_site(tmp_path, test, client="header:x-client-id")


def test_too_many_at_once(tmp_path: Path) -> None:
    async def test(site: Site) -> None:
        await site.run(manifest(), Function(lambda x: x, 0.1), expected_s=1.0)
        await site.route(ONE)
        answers = await asyncio.gather(*(site.infer(k) for k in range(20)))
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses == [200] * 5 + [503] * 15
        assert all("retry-after" in answer.headers for answer in answers if answer.status_code == 503)

    with_site(tmp_path, test, max_inflight_requests=5)


def test_a_failing_model_and_a_gateway_that_goes_on(tmp_path: Path) -> None:
    async def test(site: Site) -> None:
        await site.run(manifest(), Function(lambda x: x if x[0] > 0 else np.array(1 // 0)))
        await site.route(ONE)
        assert "ZeroDivisionError" in refused(await site.infer(-1), 500)
        assert values(await site.infer(3)) == [3]

    with_site(tmp_path, test)


def _two_versions(offset: float) -> Function:
    return Function(lambda x: x + np.float32(offset))


@pytest.mark.parametrize("sticky", ["header:x-user", "cookie:user", "parameter:user"])
def test_a_user_stays_on_one_version(tmp_path: Path, sticky: str) -> None:
    async def ask(site: Site, user: str) -> httpx.Response:
        kind = sticky.partition(":")[0]
        headers = {"header": {"x-user": user}, "cookie": {"cookie": f"a=b; user={user}"}}.get(kind, {})
        sent = body(0, parameters={"user": user}) if kind == "parameter" else body(0)
        return await site.client.post("/v2/models/m/infer", json=sent, headers=headers)

    async def test(site: Site) -> None:
        for version in ("1", "2"):
            await site.run(manifest(version=version), _two_versions(float(version)))
        await site.route(Model(weights={"1": 0.5, "2": 0.5}, sticky=sticky))
        owners = {}
        for user in "abcdefghijklmnop":
            answers = [await ask(site, user) for _ in range(3)]
            versions = {answer.headers["x-gaugeway-version"] for answer in answers}
            assert len(versions) == 1
            (owners[user],) = versions
            assert values(answers[0]) == [float(owners[user])]
            assert answers[0].headers["x-gaugeway-route"] == "sticky"
        assert set(owners.values()) == {"1", "2"}
        assert (await site.infer(0)).headers["x-gaugeway-route"] == "weight"

    with_site(tmp_path, test)


def test_versions_by_url_and_by_header(tmp_path: Path) -> None:
    async def test(site: Site) -> None:
        for version in ("1", "2"):
            await site.run(manifest(version=version), _two_versions(float(version)))
        await site.route(ONE)
        by_url = await site.infer(0, path="/v2/models/m/versions/2/infer")
        by_header = await site.infer(0, x_gaugeway_version="2")
        for response, reason in ((by_url, "url"), (by_header, "override")):
            assert values(response) == [2] and response.headers["x-gaugeway-route"] == reason
        assert values(await site.infer(0)) == [1]

    with_site(tmp_path, test)


def test_tables_replaced_under_load_lose_nothing(tmp_path: Path) -> None:
    """Ten updates, each to a version that was not linked before, and back again."""

    async def test(site: Site) -> None:
        await site.run(manifest(), _two_versions(1))
        await site.route(ONE)
        ended, answered = asyncio.Event(), list[httpx.Response]()

        async def client() -> None:
            while not ended.is_set():
                answered.append(await site.infer(0))

        clients = [asyncio.create_task(client()) for _ in range(8)]
        for version in range(2, 8):
            await site.run(manifest(version=str(version)), _two_versions(version))
            for to in (version, version - 1, version):
                site._manifests = {("m", str(to)): manifest(version=str(to))}  # the other leaves the table
                await site.route(Model(weights={str(to): 1.0}))
                await site.links.refresh()
                seen = len(answered)
                await until(lambda seen=seen: len(answered) > seen + 20)  # type: ignore[misc]
        ended.set()
        await asyncio.gather(*clients)
        assert {response.status_code for response in answered} == {200}
        assert {response.headers["x-gaugeway-version"] for response in answered} == set("1234567")
        assert all(values(r) == [float(r.headers["x-gaugeway-version"])] for r in answered)

    with_site(tmp_path, test)


def test_labels_are_forwarded_and_refused_ones_keep_their_index(tmp_path: Path) -> None:
    taken: list[dict[str, Any]] = []

    async def sidecar(request: web.Request) -> web.Response:
        taken.extend(await request.json())
        return web.json_response({"joined": 1, "parked": 0, "unknown": 0, "refused": [{"index": 1, "reason": "late"}]})

    async def test(site: Site) -> None:
        await _one(site)
        url = "/v1/models/m/labels"
        good = {"id": "a", "label": 1, "time": "2013-01-01T00:00:00Z"}
        away = await site.client.post(url, json=good)
        assert "away" in refused(away, 503) and "retry-after" in away.headers
        app = web.Application()
        app.add_routes([web.post("/labels", sidecar)])
        runner = web.AppRunner(app)
        await runner.setup()
        await web.UnixSite(runner, str(site.folder / "monitors.sock")).start()
        found = (await site.client.post(url, json=[{"id": "b"}, good, {**good, "id": "c"}])).json()
        assert [one["index"] for one in found["refused"]] == [0, 2] and found["joined"] == 1
        assert found["refused_total"] == 2 and found["late"] == 0
        assert taken[0] == {"model": "m", "id": "a", "row": 0, "label": 1, "time": 1356998400.0}
        refused(await site.client.post("/v1/models/nope/labels", json=good), 404)
        refused(await site.client.post(url, content=b"{"), 400)
        await site.desk.close()
        await runner.cleanup()

    with_site(tmp_path, test)


def test_everything_is_counted(tmp_path: Path) -> None:
    async def test(site: Site) -> None:
        await _one(site)
        for path in ("/v2/models/m/infer", "/v2/models/m/infer", "/v2/models/x/infer", "/v2/models/m/versions/9/infer"):
            await site.infer(1, path=path)

        def read(**labels: str) -> float:
            return site.page.values[site.page.counter("requests_total", **labels)._slot]

        assert read(model="m", version="1", role="primary", code="200") == 2
        assert read(model="_unknown", version="", role="primary", code="404") == 1
        assert read(model="m", version="", role="primary", code="404") == 1
        assert site.page.values[site.page.gauge("inflight_requests", model="m")._slot] == 0

    with_site(tmp_path, test)


def test_an_old_table_is_not_installed(tmp_path: Path) -> None:
    async def test(site: Site) -> None:
        await _one(site)
        site.plane.install(Table(1))
        assert values(await site.infer(1)) == [2]

    with_site(tmp_path, test)


def test_a_client_that_leaves_ends_the_run_that_was_for_it_alone(tmp_path: Path) -> None:
    async def test(site: Site) -> None:
        engine = await site.run(manifest(), Session(slow(2**40)), expected_s=1.0)  # it would run for days
        await site.route(Model(weights={"1": 1.0}))
        _, writer = await asyncio.open_connection("127.0.0.1", site.port)
        content = json.dumps(body(1)).encode()
        head = f"POST /v2/models/m/infer HTTP/1.1\r\nhost: a\r\ncontent-length: {len(content)}\r\n\r\n"
        writer.write(head.encode() + content)
        await until(lambda: engine.load)
        writer.close()
        await until(lambda: not engine.load, 2.0)

    with_site(tmp_path, test)


def test_a_request_leaves_nothing_for_the_garbage_collector(tmp_path: Path) -> None:
    """Cycles would be kept until a collection, and every new request would take cold memory meanwhile."""

    async def test(site: Site) -> None:
        await _one(site)
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        content = json.dumps(body(1)).encode()
        start = b"POST /v2/models/m/infer HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(content)

        async def ask() -> None:
            writer.write(start + content)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split()[0]))

        await ask()
        gc.collect()
        gc.disable()
        try:
            for _ in range(200):
                await ask()
            found = gc.collect()
        finally:
            gc.enable()
        writer.close()
        assert found < 200

    with_site(tmp_path, test)
