"""The application of a gateway worker: routes, one path from exception to response.

An ordinary process; it never imports Ray. What a request means is `serving.dataplane`'s, its bytes `serving.codec`'s.
"""

import asyncio
import logging
from collections.abc import Mapping
from importlib.metadata import version as installed
from typing import Any, Protocol

from serving import codec
from serving.config import Config
from serving.dataplane import DataPlane, Served
from serving.errors import GaugewayError, MethodNotAllowed, NotFound, NotReady
from serving.head import Head
from serving.http import Handler, Request, Response, answer, refusal
from serving.inference import Inference
from serving.labelling import Intake

log = logging.getLogger("gaugeway.gateway")

EXTENSIONS = ["binary_tensor_data", "model_repository(index)"]


class Labels(Protocol):
    async def submit(self, labels: list[dict[str, Any]]) -> dict[str, Any]: ...


class Gateway:
    """Takes every request of a `serving.server.Server`."""

    def __init__(self, config: Config, plane: DataPlane, labels: Labels) -> None:
        self._plane, self._labels, self._settings = plane, labels, config.gateway
        self._arrival_is_event = config.monitors.event_time == "arrival"
        inference: dict[str, Handler] = {"POST": Inference(config, plane)}
        routes: list[tuple[str, dict[str, Handler]]] = [
            ("/v2/models/{model}/infer", inference),
            ("/v2/models/{model}/versions/{version}/infer", inference),
            ("/v2/health/live", {"GET": self.live}),
            ("/v2/health/ready", {"GET": self.ready}),
            ("/v2", {"GET": self.server}),
            ("/v2/models", {"GET": self.models}),
            ("/v2/models/{model}", {"GET": self.metadata}),
            ("/v2/models/{model}/versions/{version}", {"GET": self.metadata}),
            ("/v2/models/{model}/ready", {"GET": self.model_ready}),
            ("/v2/models/{model}/versions/{version}/ready", {"GET": self.model_ready}),
            ("/v2/repository/index", {"POST": self.index}),
            ("/v1/models/{model}/labels", {"POST": self.label}),
        ]
        self._routes = [(template.split("/"), handlers) for template, handlers in routes]
        self._tasks: set[asyncio.Task[None]] = set()
        self._matched: dict[str, tuple[dict[str, Handler], Mapping[str, str]]] = {}

    def __call__(self, request: Request) -> None:
        try:
            response = self._respond(request)
        except GaugewayError as error:
            response = refusal(error)
        except Exception:  # the edge of the process: one request fails, the worker goes on
            response = self._failed(request)
        if response is not None:
            request.answer(response)

    def refused(self, status: int) -> None:
        """Count what never became a request."""
        self._plane.unknown(status)

    def _respond(self, request: Request) -> Response | None:
        handlers, request.names = self._matched.get(request.path) or self._match(request.path)
        method = "GET" if request.method == "HEAD" else request.method
        if (handler := handlers.get(method)) is None:
            raise MethodNotAllowed(request.path, request.method, handlers)
        return handler(request)

    def _failed(self, request: Request) -> Response:
        log.exception("unexpected failure at %s %.200r", request.method, request.path)
        response = refusal(GaugewayError("internal error; the gateway's log has the details"))
        self._plane.unknown(response.status)
        return response

    def _match(self, path: str) -> tuple[dict[str, Handler], Mapping[str, str]]:
        parts = path.removesuffix("/").split("/")
        for template, handlers in self._routes:
            if (names := _names(template, parts)) is not None:
                if len(self._matched) < 4096 and len(path) < 256:  # a bound: paths come from clients
                    self._matched[path] = (handlers, names)
                return handlers, names
        raise NotFound(f"there is nothing at {path[:200]!r}")

    def live(self, request: Request) -> Response:
        return answer({"live": True})

    def ready(self, request: Request) -> Response:
        if not self._plane.ready:
            raise NotReady("the server is not ready: it has no routing table yet, or a model is missing")
        return answer({"live": True, "ready": True})

    def server(self, request: Request) -> Response:
        return answer({"name": "gaugeway", "version": installed("gaugeway"), "extensions": EXTENSIONS})

    def models(self, request: Request) -> Response:
        return answer({"models": sorted(self._plane.models)})

    def metadata(self, request: Request) -> Response:
        model = self._plane.model(request.names["model"])
        served = model.version(request.names.get("version"))
        signature = served.manifest.signature
        return answer(
            {
                "name": served.manifest.model,
                "versions": sorted(model.versions),
                "platform": "onnx_onnxv1",
                "inputs": signature.inputs,
                "outputs": signature.outputs,
            }
        )

    def model_ready(self, request: Request) -> Response:
        name, version = request.names["model"], request.names.get("version")
        model = self._plane.model(name)
        if not (model.version(version).batcher.ready if version else model.ready):
            raise NotReady(f"model {name!r}{f' version {version!r}' if version else ''} has no warm replica")
        return answer({"name": name, "ready": True})

    def index(self, request: Request) -> Response:
        """``{"ready": true}`` leaves out what is not ready."""
        only_ready = codec.decode_index(bytes(request.content(self._settings.max_body_bytes)))
        rows = [_state(s) for m in self._plane.models.values() for s in m.versions.values()]
        return answer([row for row in rows if row["state"] == "READY" or not only_ready])

    def label(self, request: Request) -> None:
        """The truth that arrives later: one object, an array, or NDJSON."""
        task = asyncio.get_running_loop().create_task(self._label(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _label(self, request: Request) -> None:
        try:
            response = await self._labelled(request)
        except GaugewayError as error:
            response = refusal(error)
        except ConnectionAbortedError:  # within the body: nobody waits for an answer
            return
        except Exception:  # the same edge
            response = self._failed(request)
        request.answer(response)

    async def _labelled(self, request: Request) -> Response:
        name, kind = request.names["model"], request.text(b"content-type")
        model, intake = self._plane.model(name), Intake(name, self._labels.submit)
        now, longest = request.arrived if self._arrival_is_event else None, self._settings.max_body_bytes
        try:
            if codec.is_ndjson(kind):
                expander = codec.Expander(request.text(b"content-encoding"), longest)
                await intake.stream(request.parts(), expander, codec.Lines(now))
            else:
                await intake.take(codec.label_batches(request.content(longest), kind, now))
        finally:  # what was taken stays taken
            self._plane.labelled(model, intake.outcome.each())
        return answer(intake.outcome.document())


def streams(head: Head) -> bool:
    """Whether the body is taken in parts: labels, one a line."""
    if head.method != "POST" or not head.path.removesuffix("/").endswith("/labels"):
        return False
    return codec.is_ndjson(head.headers.get(b"content-type", b"").decode("latin-1"))


def _state(served: Served) -> dict[str, str]:
    ready = served.batcher.ready
    return {
        "name": served.manifest.model,
        "version": served.manifest.version,
        "state": "READY" if ready else "UNAVAILABLE",
        "reason": "" if ready else "no warm replica",
    }


def _names(template: list[str], parts: list[str]) -> dict[str, str] | None:
    """The varying parts of a path that fits the template, else None."""
    if len(template) != len(parts):
        return None
    names: dict[str, str] = {}
    for expected, got in zip(template, parts, strict=True):
        if expected.startswith("{"):
            names[expected[1:-1]] = got
        elif expected != got:
            return None
    return names
