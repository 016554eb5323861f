"""The way of one prediction through a gateway worker: parse, route, bind, batch, answer."""

import secrets
import time
from itertools import count

from serving import codec
from serving.batching import Answer
from serving.config import Config
from serving.dataplane import Context, DataPlane, Served, ServedModel
from serving.errors import GaugewayError
from serving.http import BINARY, JSON, Request, Response, compressed, refusal
from serving.protocol import InferRequest
from serving.routing import Route

_NOTHING: dict[str, str] = {}


class Inference:
    """The handler of ``POST /v2/models/{model}[/versions/{version}]/infer``."""

    def __init__(self, config: Config, plane: DataPlane) -> None:
        self._plane, self._settings = plane, config.gateway
        self._limits = codec.Limits(max_json_depth=config.gateway.max_json_depth)
        self._event_time = config.monitors.event_time == "request"
        self._ids, self._prefix = count(), secrets.token_hex(6)

    async def __call__(self, request: Request) -> Response:
        """Whatever happens, the answer names the request and one counter has counted it."""
        made = f"{self._prefix}-{next(self._ids):x}"
        try:
            request_id = (request.identity() or b"").decode()
        except GaugewayError as error:
            return self._refused(error, made, None, None)
        model: ServedModel | None = None
        try:
            model = self._plane.model(request.names["model"])
            return await self._predict(request, model, request_id, made)
        except GaugewayError as error:
            return self._refused(error, request_id or made, model, None)

    async def _predict(self, request: Request, model: ServedModel, request_id: str, made: str) -> Response:
        body = await request.body(self._settings.max_body_bytes)
        header_length = codec.parse_header_length(request.text(b"inference-header-content-length"), len(body))
        parsed = None if header_length == 0 else codec.decode_request(body, header_length, self._limits)
        request_id = request_id or (parsed.id if parsed and parsed.id else made)
        model = self._plane.model(request.names["model"])  # the table may have changed while the body came
        context = self._context(request, request_id, parsed)
        route = self._plane.route(model, context)
        served = model.version(route.version)
        try:
            parsed = parsed or codec.decode_raw(body, served.manifest.signature, self._limits)
            inputs = codec.bind(parsed, served.manifest.signature, served.manifest.model)
            answer = await self._plane.infer(model, served, route, inputs, context)
            return self._answered(request, parsed, request_id, served, route, answer)
        except GaugewayError as error:
            return self._refused(error, request_id, model, served)

    def _context(self, request: Request, request_id: str, parsed: InferRequest | None) -> Context:
        return Context(
            request_id,
            request.deadline_s(self._settings.deadline_s),
            request.arrived,
            request.event_time() if self._event_time else request.arrived,
            request.headers,
            parsed.parameters if parsed else _NOTHING,
            request.names.get("version"),
            request.text(b"x-gaugeway-version"),
        )

    def _answered(
        self, request: Request, parsed: InferRequest, request_id: str, served: Served, route: Route, answer: Answer
    ) -> Response:
        manifest = served.manifest
        body, header_length = codec.encode_response(
            codec.respond(parsed, manifest.signature, answer.outputs, manifest.model, manifest.version)
        )
        total_s = time.perf_counter() - request.started
        headers = [
            JSON if header_length is None else BINARY,
            *served.identity,
            (b"x-gaugeway-route", route.reason.encode()),
            (
                b"server-timing",
                b"queue;dur=%.3f, infer;dur=%.3f, total;dur=%.3f"
                % (answer.queue_s * 1e3, answer.infer_s * 1e3, total_s * 1e3),
            ),
        ]
        if header_length is not None:
            headers.append((b"inference-header-content-length", b"%d" % header_length))
        served.answered(200).add()
        served.duration.observe(total_s)
        return compressed(Response(body, 200, headers, _header(request_id)), request.headers.get(b"accept-encoding"))

    def _refused(
        self, error: GaugewayError, request_id: str, model: ServedModel | None, served: Served | None
    ) -> Response:
        if served is not None:
            served.answered(error.status).add()
        elif model is not None:
            model.refused(error.status).add()
        else:
            self._plane.unknown(error.status)
        response = refusal(error)
        response.request_id = _header(request_id)
        return response


def _header(request_id: str) -> bytes:
    """An id from a body may hold anything: what a header cannot carry is replaced."""
    return "".join(c if "!" <= c <= "~" else "_" for c in request_id[:128]).encode()
