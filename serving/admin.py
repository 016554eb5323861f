"""The admin API on its own listener, and the controller's metrics on another.

Loopback by default, and not yet behind authentication: binding it elsewhere is refused by `serving.up`. Against pages
of other origins that a browser on this machine may show, it checks Host and Origin.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec
from aiohttp import web

from serving import metrics
from serving.config import Config
from serving.errors import BadRequest, GaugewayError

log = logging.getLogger("gaugeway.admin")

RETRY_S = 1.0
_LOOPBACK = {"localhost", "127.0.0.1", "[::1]"}
Next = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Control(Protocol):
    """What the API acts on; its methods may block."""

    def status(self) -> dict[str, Any]: ...
    def route(self, model: str, weights: dict[str, float], by: str, why: str) -> dict[str, Any]: ...
    def ask_to_stop(self) -> None: ...


class RouteChange(msgspec.Struct, forbid_unknown_fields=True):
    weights: dict[str, float]
    by: str = ""
    why: str = ""


def application(control: Control) -> web.Application:
    """The API as an aiohttp application."""

    async def status(request: web.Request) -> web.Response:
        return _json(await asyncio.to_thread(control.status))

    async def route(request: web.Request) -> web.Response:
        try:
            change = msgspec.json.decode(await request.read(), type=RouteChange)
        except msgspec.DecodeError as error:
            raise BadRequest(f"the body of a route change: {error}") from None
        model = request.match_info["model"]
        return _json(await asyncio.to_thread(control.route, model, change.weights, change.by, change.why))

    async def shutdown(request: web.Request) -> web.Response:
        control.ask_to_stop()
        return _json({"stopping": True})

    app = web.Application(middlewares=[_guard, _errors])
    app.add_routes([
        web.get("/admin/v1/status", status),
        web.put("/admin/v1/routes/{model}", route),
        web.post("/admin/v1/shutdown", shutdown),
    ])  # fmt: skip
    return app


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
    await _listen(application(control), config.admin.host, config.admin.port)
    await _listen(_metrics(control), config.metrics.host, config.metrics.controller_port)
    await asyncio.Event().wait()


async def _listen(app: web.Application, host: str, port: int) -> None:
    runner = web.AppRunner(app, access_log=None)
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


@web.middleware
async def _guard(request: web.Request, handler: Next) -> web.StreamResponse:
    """Refuse what a foreign page makes a browser send: a rebound Host, another Origin."""
    host = request.host.rpartition(":")[0] if request.host.count(":") == 1 or "]:" in request.host else request.host
    origin = request.headers.get("Origin")
    if host not in _LOOPBACK or (origin is not None and origin != f"http://{request.host}"):
        return _json({"error": f"host {request.host!r} or origin {origin!r} is not this server"}, 403)
    return await handler(request)


@web.middleware
async def _errors(request: web.Request, handler: Next) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        return _json({"error": f"{request.method} {request.path[:200]!r}: {error.reason}"}, error.status)
    except GaugewayError as error:
        return _json({"error": str(error)}, error.status)
    except Exception:  # the edge of the process
        log.exception("unexpected failure at %s %.200r", request.method, request.path)
        return _json({"error": "internal error; the controller's log has the details"}, 500)


def _json(document: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(document), status=status, content_type="application/json")
