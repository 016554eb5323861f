"""The admin API on its own listener, and the controller's metrics on another.

Loopback by default, and not yet behind authentication: binding it elsewhere is refused by `serving.up`. Against pages
of other origins that a browser on this machine may show, it checks Host and Origin.
"""

import asyncio
import logging
import time
from contextlib import AsyncExitStack
from typing import Any, Protocol, TypeVar

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from serving import metrics
from serving.config import Config, Model, parse
from serving.errors import BadRequest, ConfigError, GaugewayError
from serving.repository import Desired

T = TypeVar("T")

log = logging.getLogger("gaugeway.admin")

RETRY_S = 1.0
_LOOPBACK = {"localhost", "127.0.0.1", "[::1]"}


class ModelsChange(msgspec.Struct, forbid_unknown_fields=True):
    """How models are to be served, if the registry is still at generation `at`."""

    models: dict[str, Model]
    at: int
    by: str = ""
    why: str = ""


class Control(Protocol):
    """What the API acts on; its methods may block."""

    def status(self) -> dict[str, Any]: ...
    def route(self, model: str, weights: dict[str, float], by: str, why: str) -> dict[str, Any]: ...
    def desired(self) -> Desired: ...
    def apply(self, change: ModelsChange) -> int: ...
    def ask_to_stop(self) -> None: ...
    def renew(self, wanted: Config | None) -> dict[str, Any]: ...
    def succeed(self) -> None: ...


class RouteChange(msgspec.Struct, forbid_unknown_fields=True):
    weights: dict[str, float]
    by: str = ""
    why: str = ""


class _Api:
    """A handler for each route. What blocks is run in a thread."""

    def __init__(self, control: Control) -> None:
        self._control = control

    async def status(self, request: web.Request) -> web.Response:
        return _json(await asyncio.to_thread(self._control.status))

    async def route(self, request: web.Request) -> web.Response:
        change = _read(await request.read(), RouteChange, "a route change")
        model = request.match_info["model"]
        return _json(await asyncio.to_thread(self._control.route, model, change.weights, change.by, change.why))

    async def desired(self, request: web.Request) -> web.Response:
        return _json(await asyncio.to_thread(self._control.desired))

    async def apply(self, request: web.Request) -> web.Response:
        change = _read(await request.read(), ModelsChange, "a change of models")
        return _json({"desired_generation": await asyncio.to_thread(self._control.apply, change)})

    async def shutdown(self, request: web.Request) -> web.Response:
        self._control.ask_to_stop()
        return _json({"stopping": True})

    async def reload(self, request: web.Request) -> web.Response:
        return _json(await asyncio.to_thread(self._control.renew, _configuration(await request.read())))

    async def upgrade(self, request: web.Request) -> web.Response:
        return _json(await asyncio.to_thread(self._control.renew, None))

    async def succeed(self, request: web.Request) -> web.Response:
        await asyncio.to_thread(self._control.succeed)
        return _json({"restarting": True})


def application(control: Control, host: str = "127.0.0.1") -> web.Application:
    """The API as an aiohttp application, which answers to the names of loopback and to `host`, where it listens."""
    api = _Api(control)
    app = web.Application(middlewares=[_guard({*_LOOPBACK, f"[{host}]" if ":" in host else host}), _errors])
    app.add_routes([
        web.get("/admin/v1/status", api.status),
        web.put("/admin/v1/routes/{model}", api.route),
        web.get("/admin/v1/models", api.desired),
        web.put("/admin/v1/models", api.apply),
        web.post("/admin/v1/shutdown", api.shutdown),
        web.post("/admin/v1/reload", api.reload),
        web.post("/admin/v1/upgrade", api.upgrade),
        web.post("/admin/v1/succession", api.succeed),
    ])  # fmt: skip
    return app


def _read(body: bytes, kind: type[T], what: str) -> T:
    """Raises BadRequest."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body of {what}: {error}") from None


def _configuration(body: bytes) -> Config:
    """A whole configuration as JSON. Raises BadRequest."""
    try:
        return parse(msgspec.json.decode(body, type=dict), "the configuration")
    except (msgspec.DecodeError, UnicodeDecodeError, ConfigError) as error:
        raise BadRequest(str(error)) from None


def serve(config: Config, control: Control) -> None:
    """Run the listeners; call it in a thread of its own. It ends with the process.

    A controller that was killed may hold the ports for a moment: its successor tries until it has them.
    """
    while True:
        try:
            asyncio.run(_serve(config, control))
        except OSError:
            log.exception("cannot listen; trying again in %g s", RETRY_S)
            time.sleep(RETRY_S)


async def _serve(config: Config, control: Control) -> None:
    """Both listeners or none: a port kept by half a start would be in the way of the next."""
    async with AsyncExitStack() as stack:
        await _listen(stack, application(control, config.admin.host), config.admin.host, config.admin.port)
        await _listen(stack, _metrics(control), config.metrics.host, config.metrics.controller_port)
        await asyncio.Event().wait()


async def _listen(stack: AsyncExitStack, app: web.Application, host: str, port: int) -> None:
    runner = web.AppRunner(app, access_log=None)
    stack.push_async_callback(runner.cleanup)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()


def _metrics(control: Control) -> web.Application:
    collector = metrics.Control(control.status)

    async def scrape(request: web.Request) -> web.Response:
        text = await asyncio.to_thread(metrics.text, collector)
        return web.Response(body=text, headers={"content-type": metrics.CONTENT_TYPE})

    app = web.Application()
    app.add_routes([web.get("/metrics", scrape)])
    return app


def _guard(names: set[str]) -> Middleware:
    """Refuse what a foreign page makes a browser send: a rebound Host, another Origin."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        if _name(request.host) not in names or (origin is not None and origin != f"http://{request.host}"):
            return _json({"error": f"host {request.host!r} or origin {origin!r} is not this server"}, 403)
        return await handler(request)

    return guard


def _name(host: str) -> str:
    """Without the port, if there is one: ``[::1]:8090`` -> ``[::1]``."""
    name = host.rpartition(":")[0] if host.count(":") == 1 or "]:" in host else host
    return name.lower()


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        response = _json({"error": f"{request.method} {request.path[:200]!r}: {error.reason}"}, error.status)
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response
    except GaugewayError as error:
        return _json({"error": str(error)}, error.status)
    except Exception:  # the edge of the process
        log.exception("unexpected failure at %s %.200r", request.method, request.path)
        return _json({"error": "internal error; the controller's log has the details"}, 500)


def _json(document: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(document), status=status, content_type="application/json")
