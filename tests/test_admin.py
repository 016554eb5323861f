"""The admin API over a plain object on a real port: what it answers, whom it refuses, and what Prometheus reads."""

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import httpx
import msgspec
import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from serving import admin
from serving.config import Config, Model, Pool, Version, dump, parse
from serving.errors import GaugewayError, UnknownVersion
from serving.metrics import CONTROL
from serving.repository import Desired

STATUS: dict[str, Any] = {
    "generation": 7,
    "problem": "version '2' of 'm' does not start: no CPU",
    "nodes": [{"node": "a", "state": "ready", "refusals": 2}, {"node": "", "state": "silent", "refusals": 0}],
    "models": {
        "m": {
            "weights": {"1": 0.75, "2": 0.25},
            "versions": {
                "1": {
                    "digest": "d1",
                    "wanted_replicas": 2,
                    "replicas": [{"state": "ready"}, {"state": "ready"}, {"state": "draining"}],
                },
                "2": {"digest": "d2", "wanted_replicas": 1, "replicas": [{"state": "unlinked"}]},
                "3": {"digest": "d3", "wanted_replicas": 0, "replicas": []},
            },
        }
    },
}


class Desk:
    """A control that keeps what it was asked; `error` is raised by a route change."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.stopped = error, False
        self.changes: list[tuple[str, dict[str, float], str, str]] = []
        self.renewals: list[Config | None] = []
        self.applied: list[admin.ModelsChange] = []
        self.answers = threading.Event()
        self.answers.set()

    def status(self) -> dict[str, Any]:
        self.answers.wait(5)
        return STATUS

    def route(self, model: str, weights: dict[str, float], by: str, why: str) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        self.changes.append((model, weights, by, why))
        return {"model": model, "weights": weights}

    def desired(self) -> Desired:
        return Desired(3, {"m": Model(weights={"1": 1.0})})

    def apply(self, change: admin.ModelsChange) -> int:
        if self.error is not None:
            raise self.error
        self.applied.append(change)
        return change.at + 1

    def ask_to_stop(self) -> None:
        self.stopped = True

    def renew(self, wanted: Config | None) -> dict[str, Any]:
        self.renewals.append(wanted)
        return {"revision": len(self.renewals), "keys": []}

    def succeed(self) -> None:
        self.stopped = True


Test = Callable[[httpx.AsyncClient], Awaitable[None]]


def with_api(control: Desk, test: Test, host: str = "127.0.0.1", name: str = "127.0.0.1") -> None:
    """Run a test against the API that listens on `host`; the client calls it by `name`."""

    async def main() -> None:
        runner = web.AppRunner(admin.application(control, host), access_log=None)
        await runner.setup()
        try:
            site = web.TCPSite(runner, host, 0)
            await site.start()
            base = f"http://{name}:{runner.addresses[0][1]}"
            async with httpx.AsyncClient(base_url=base, trust_env=False, verify=False, timeout=5) as client:
                await test(client)
        finally:
            await runner.cleanup()

    asyncio.run(main())


def refused(response: httpx.Response, status: int) -> str:
    """The sentence of an error that is as every error must be."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    document = response.json()
    assert list(document) == ["error"]
    return str(document["error"])


def test_status_is_what_the_control_says() -> None:
    async def test(client: httpx.AsyncClient) -> None:
        response = await client.get("/admin/v1/status")
        assert response.json() == STATUS and response.headers["content-type"] == "application/json"

    with_api(Desk(), test)


def test_models_are_told_and_changed() -> None:
    desk, pools = Desk(), {"1": Version(pools=(Pool(gpu=0.5), Pool(cpu=1)))}
    body = msgspec.json.encode({"models": {"m": Model(versions=pools)}, "at": 3, "by": "ann", "why": "GPUs came"})

    async def test(client: httpx.AsyncClient) -> None:
        told = (await client.get("/admin/v1/models")).json()
        assert told["generation"] == 3 and told["models"]["m"]["weights"] == {"1": 1.0}
        assert (await client.put("/admin/v1/models", content=body)).json() == {"desired_generation": 4}
        for wrong in (b"{", b'{"models": {"m": {"pols": []}}, "at": 3}', b'{"models": {}}'):
            assert "a change of models" in refused(await client.put("/admin/v1/models", content=wrong), 400)

    with_api(desk, test)
    (change,) = desk.applied
    assert change.models["m"].versions == pools and (change.by, change.why) == ("ann", "GPUs came")


def test_a_slow_control_holds_up_nobody_else() -> None:
    desk = Desk()

    async def test(client: httpx.AsyncClient) -> None:
        desk.answers.clear()
        slow = asyncio.create_task(client.get("/admin/v1/status"))
        await asyncio.sleep(0.05)
        assert (await client.post("/admin/v1/shutdown")).status_code == 200
        assert not slow.done()
        desk.answers.set()
        assert (await slow).json() == STATUS

    with_api(desk, test)


def test_a_route_change_reaches_the_control() -> None:
    desk = Desk()

    async def test(client: httpx.AsyncClient) -> None:
        body = {"weights": {"1": 0.9, "2": 0.1}, "by": "ann", "why": "a try"}
        assert (await client.put("/admin/v1/routes/m", json=body)).json() == {"model": "m", "weights": body["weights"]}
        assert (await client.put("/admin/v1/routes/b.c-d", json={"weights": {"2": 1}})).status_code == 200

    with_api(desk, test)
    assert desk.changes == [("m", {"1": 0.9, "2": 0.1}, "ann", "a try"), ("b.c-d", {"2": 1.0}, "", "")]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "truncated"),
        (b"[]", "Expected `object`"),
        (b"{}", "missing required field `weights`"),
        (b'{"weights": {"1": "all"}}', "Expected `float`, got `str`"),
        (b'{"weights": {"1": NaN}}', "malformed"),
        (b'{"weights": {"1": 1}, "wy": "typo"}', "unknown field `wy`"),
        (b'{"weights": {"1": 1}, "why": "\xff"}', "utf-8"),
        (b'{"weights": {"\xff": 1}}', "utf-8"),
    ],
)
def test_a_bad_body_is_a_bad_request_and_changes_nothing(body: bytes, said: str) -> None:
    desk = Desk()

    async def test(client: httpx.AsyncClient) -> None:
        sentence = refused(await client.put("/admin/v1/routes/m", content=body), 400)
        assert sentence.startswith("the body of a route change: ") and said in sentence

    with_api(desk, test)
    assert desk.changes == []


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (UnknownVersion("m", "9", ["1"]), 404, "model 'm' has no version '9'; it has '1'"),
        (GaugewayError("the registry is away"), 500, "the registry is away"),
        (RuntimeError("secret of the process"), 500, "internal error; the controller's log has the details"),
    ],
)
def test_errors_of_the_control_are_sentences(error: Exception, status: int, said: str) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        assert refused(await client.put("/admin/v1/routes/m", json={"weights": {"9": 1}}), status) == said

    with_api(Desk(error), test)


def test_a_reload_takes_a_whole_configuration_and_an_upgrade_none() -> None:
    desk = Desk()
    wanted = parse({"gateway": {"deadline_s": 3}})

    async def test(client: httpx.AsyncClient) -> None:
        told = await client.post("/admin/v1/reload", content=dump(wanted))
        assert told.json() == {"revision": 1, "keys": []}
        assert (await client.post("/admin/v1/upgrade")).json()["revision"] == 2
        for body, said in ((b"[]", "Expected `object`"), (b'{"gatway": {}}', "did you mean `gateway`?")):
            assert said in refused(await client.post("/admin/v1/reload", content=body), 400)
        assert not desk.stopped
        assert (await client.post("/admin/v1/succession")).json() == {"restarting": True}

    with_api(desk, test)
    assert desk.renewals == [wanted, None] and desk.stopped


def test_shutdown_asks_and_answers() -> None:
    desk = Desk()

    async def test(client: httpx.AsyncClient) -> None:
        refused(await client.get("/admin/v1/shutdown"), 405)
        assert not desk.stopped
        assert (await client.post("/admin/v1/shutdown")).json() == {"stopping": True}

    with_api(desk, test)
    assert desk.stopped


def test_what_is_not_there_and_what_is_not_taken() -> None:
    async def test(client: httpx.AsyncClient) -> None:
        assert "'/admin/v1/nothing'" in refused(await client.get("/admin/v1/nothing"), 404)
        refused(await client.put("/admin/v1/routes/", json={}), 404)
        wrong = await client.delete("/admin/v1/routes/m")
        assert "DELETE" in refused(wrong, 405) and wrong.headers["allow"] == "PUT"
        refused(await client.put("/admin/v1/routes/m", content=b" " * 2**21), 413)

    with_api(Desk(), test)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"origin": "https://{netloc}"},
        {"host": "evil.example"},
        {"host": "evil.example:{port}"},
        {"host": "127.0.0.1.evil.example:{port}"},
        {"host": "127.0.0.1:{port}:evil"},
        {"host": "192.0.2.1:{port}", "origin": "http://192.0.2.1:{port}"},
        {"host": "rebound.example:{port}", "origin": "http://rebound.example:{port}"},
    ],
)
def test_what_a_foreign_page_sends_is_refused_and_not_done(headers: dict[str, str]) -> None:
    desk = Desk()

    async def test(client: httpx.AsyncClient) -> None:
        netloc, port = client.base_url.netloc.decode(), client.base_url.port
        sent = {name: value.format(netloc=netloc, port=port) for name, value in headers.items()}
        assert "is not this server" in refused(await client.get("/admin/v1/status", headers=sent), 403)
        refused(await client.post("/admin/v1/shutdown", headers=sent), 403)
        refused(await client.put("/admin/v1/routes/m", json={"weights": {"1": 1}}, headers=sent), 403)
        refused(await client.get("/nothing", headers=sent), 403)

    with_api(desk, test)
    assert not desk.stopped and desk.changes == []


def test_it_answers_to_the_names_of_loopback_and_to_pages_of_its_own() -> None:
    async def test(client: httpx.AsyncClient) -> None:
        port = client.base_url.port
        for host in (f"localhost:{port}", "localhost", f"LocalHost:{port}", "127.0.0.1", "[::1]", f"[::1]:{port}"):
            assert (await client.get("/admin/v1/status", headers={"host": host})).status_code == 200, host
        own = {"host": f"localhost:{port}", "origin": f"http://localhost:{port}"}
        assert (await client.get("/admin/v1/status", headers=own)).status_code == 200

    with_api(Desk(), test)


@pytest.mark.parametrize(("host", "name"), [("127.0.0.2", "127.0.0.2"), ("0.0.0.0", "0.0.0.0"), ("::1", "[::1]")])
def test_it_answers_where_it_was_told_to_listen(host: str, name: str) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        assert (await client.get("/admin/v1/status")).status_code == 200
        refused(await client.get("/admin/v1/status", headers={"host": "evil.example"}), 403)

    with_api(Desk(), test, host, name)


def _free_ports() -> Config:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        ports = one.getsockname()[1], two.getsockname()[1]
    return parse({"admin": {"port": ports[0]}, "metrics": {"controller_port": ports[1]}})


async def _serving(config: Config) -> tuple[Any, str]:
    """What both listeners say, once they do; then they are stopped."""
    serving = asyncio.create_task(admin._serve(config, Desk()))
    async with httpx.AsyncClient(trust_env=False, verify=False) as client:
        found: httpx.Response | None = None
        while found is None:
            assert not serving.done(), serving
            with suppress(httpx.ConnectError):
                found = await client.get(f"http://127.0.0.1:{config.metrics.controller_port}/metrics")
        status = await client.get(f"http://127.0.0.1:{config.admin.port}/admin/v1/status")
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    return status.json(), found.text


def test_the_controllers_metrics_are_its_status() -> None:
    status, text = asyncio.run(_serving(_free_ports()))
    assert status == STATUS
    families = text_string_to_metric_families(text)
    found: dict[tuple[str, ...], float] = {}
    for sample in (sample for family in families for sample in family.samples):
        labels = CONTROL[sample.name.removeprefix("gaugeway_")].labels
        found[(sample.name, *(sample.labels[label] for label in labels))] = sample.value
    assert found.pop(("gaugeway_table_generation",)) == 7
    assert {key[1:]: value for key, value in found.items() if key[0] == "gaugeway_route_weight"} == {
        ("m", "1"): 0.75,
        ("m", "2"): 0.25,
        ("m", "3"): 0.0,
    }
    infos = {key[1:] for key, value in found.items() if key[0] == "gaugeway_model_info" and value == 1}
    assert infos == {("m", "1", "d1"), ("m", "2", "d2"), ("m", "3", "d3")}
    replicas = {key[1:]: value for key, value in found.items() if key[0] == "gaugeway_replicas"}
    assert {key: value for key, value in replicas.items() if value} == {
        ("m", "1", "ready"): 2,
        ("m", "1", "draining"): 1,
        ("m", "2", "unlinked"): 1,
    }
    wanted = {key[1:]: value for key, value in found.items() if key[0] == "gaugeway_replicas_wanted"}
    assert wanted == {("m", "1"): 2, ("m", "2"): 1, ("m", "3"): 0}
    assert found["gaugeway_controller_problem",] == 1
    assert (found["gaugeway_nodes", "ready"], found["gaugeway_nodes", "silent"]) == (1, 1)
    assert found["gaugeway_channel_refusals",] == 2
    assert replicas["m", "3", "ready"] == 0.0  # said, so that an alert can see it


def test_a_start_that_gets_one_port_of_two_keeps_none() -> None:
    config = _free_ports()

    async def main() -> None:
        taken = socket.create_server(("127.0.0.1", config.metrics.controller_port))
        with taken, pytest.raises(OSError, match="in use"):
            await admin._serve(config, Desk())
        assert (await _serving(config))[0] == STATUS

    asyncio.run(main())
