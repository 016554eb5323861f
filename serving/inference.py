"""The way of one prediction through a gateway worker: parse, route, bind, batch, answer."""

import logging
import secrets
import time
from itertools import count

from serving import codec
from serving.admission import priority_of
from serving.batching import Answer, Item
from serving.config import Config
from serving.dataplane import Context, DataPlane, Served, ServedModel
from serving.errors import BadRequest, GaugewayError, Overloaded
from serving.http import BINARY, JSON, Request, Response, compressed, refusal
from serving.protocol import InferRequest
from serving.routing import Route

log = logging.getLogger("gaugeway.inference")

MAX_ID_CHARACTERS = 4096
GONE = 499  # as code of requests whose client left
_NOTHING: dict[str, str] = {}


class Inference:
    """The handler of ``POST /v2/models/{model}[/versions/{version}]/infer``."""

    def __init__(self, config: Config, plane: DataPlane) -> None:
        self._plane, self._settings = plane, config.gateway
        self._limits = codec.Limits(max_json_depth=config.gateway.max_json_depth)
        self._event_time = config.monitors.event_time == "request"
        self._client = config.gateway.client.partition(":")[2].lower().encode()  # a header; empty: the address
        self._ids, self._prefix = count(), secrets.token_hex(6)

    def __call__(self, request: Request) -> Response | None:
        """Whatever happens, the answer names the request and one counter has counted it."""
        request_id, model, served = f"{self._prefix}x{next(self._ids):x}", None, None
        try:
            given = request.identity()
            request_id = given.decode() if given else request_id
            model = self._plane.model(request.names["model"])
            priority = priority_of(request.headers.get(b"x-gaugeway-priority"))
            client = (request.text(self._client) if self._client else None) or request.peer
            if "version" not in request.names and b"x-gaugeway-version" not in request.headers:
                self._plane.knock(model, client, priority)
            parsed = self._parse(request)
            if parsed and parsed.id and not given:
                request_id = _bounded(parsed.id)
            context = self._context(request, request_id, parsed, client, priority)
            route = self._plane.route(model, context)
            served = model.version(route.version)
            self._start(request, parsed, context, route, model, served)
        except GaugewayError as error:
            return refused(self._plane, error, request_id, model, served)
        return None

    def _parse(self, request: Request) -> InferRequest | None:
        """None: the body is raw, and what it means depends on the version."""
        request.body = body = request.content(self._settings.max_body_bytes)
        header_length = codec.parse_header_length(request.text(b"inference-header-content-length"), len(body))
        return None if header_length == 0 else codec.decode_request(body, header_length, self._limits)

    def _context(
        self, request: Request, request_id: str, parsed: InferRequest | None, client: str, priority: int
    ) -> Context:
        return Context(
            request_id,
            request.deadline_s(self._settings.deadline_s),
            request.arrived,
            request.event_time() if self._event_time else request.arrived,
            request.headers,
            parsed.parameters if parsed else _NOTHING,
            request.names.get("version"),
            request.text(b"x-gaugeway-version"),
            client,
            priority,
        )

    def _start(
        self,
        request: Request,
        parsed: InferRequest | None,
        context: Context,
        route: Route,
        model: ServedModel,
        served: Served,
    ) -> None:
        signature = served.manifest.signature
        parsed = parsed or codec.decode_raw(request.body, signature, self._limits)
        inputs = codec.bind(parsed, signature, served.manifest.model)
        prediction = Prediction(self._plane, request, parsed, context, route, model, served)
        prediction.items = self._plane.submit(model, served, route, inputs, context, prediction)
        request.gone = prediction.cancel


class Prediction:
    """The promise of one answer: whichever end comes first, the client is told, and one counter counts it."""

    __slots__ = (
        "_cancelled",
        "_context",
        "_done",
        "_model",
        "_parsed",
        "_plane",
        "_request",
        "_route",
        "_served",
        "items",
    )

    def __init__(
        self,
        plane: DataPlane,
        request: Request,
        parsed: InferRequest,
        context: Context,
        route: Route,
        model: ServedModel,
        served: Served,
    ) -> None:
        self._plane, self._request, self._parsed, self._context = plane, request, parsed, context
        self._route, self._model, self._served = route, model, served
        self._done = self._cancelled = False
        self.items: list[Item] = []

    def done(self) -> bool:
        return self._done

    def cancelled(self) -> bool:
        return self._cancelled

    def set_result(self, result: Answer, /) -> None:
        self._done = True
        try:
            response = self._answered(result)
        except GaugewayError as error:
            response = self._refused(error)
        except Exception:  # an edge: others wait for answers of the same batch
            log.exception("unexpected failure with the answer to %s", self._context.request_id)
            response = self._refused(GaugewayError("internal error; the gateway's log has the details"))
        self._request.answer(response)
        self._over()

    def set_exception(self, exception: GaugewayError, /) -> None:
        self._over()
        if isinstance(exception, Overloaded):
            self._plane.shed(self._model, exception.reason, self._context.priority)
        self._request.answer(self._refused(exception))

    def cancel(self) -> None:
        """The client left: what waits is withdrawn, what runs for nobody else is stopped."""
        if self._done:
            return
        self._cancelled, items = True, self.items
        self._over()
        self._served.answered(GONE).add()
        for item in items:
            self._served.batcher.abandon(item)

    def _over(self) -> None:
        self._done = True
        self._plane.over(self._model, self._served, self._context)
        self._request.gone, self.items = None, []  # no cycle is left for the collector

    def _refused(self, error: GaugewayError) -> Response:
        return refused(self._plane, error, self._context.request_id, self._model, self._served)

    def _answered(self, answer: Answer) -> Response:
        served, manifest, request = self._served, self._served.manifest, self._request
        body, header_length = codec.encode_response(
            codec.respond(self._parsed, manifest.signature, answer.outputs, manifest.model, manifest.version)
        )
        total_s = time.perf_counter() - request.started
        headers = b"%s%sx-gaugeway-route: %s\r\nserver-timing: queue;dur=%.3f, infer;dur=%.3f, total;dur=%.3f\r\n" % (
            JSON if header_length is None else BINARY,
            served.identity,
            self._route.reason.encode(),
            answer.queue_s * 1e3,
            answer.infer_s * 1e3,
            total_s * 1e3,
        )
        if header_length is not None:
            headers += b"inference-header-content-length: %d\r\n" % header_length
        served.answered(200).add()
        served.duration.observe(total_s)
        return compressed(
            Response(body, 200, headers, _header(self._context.request_id)), request.headers.get(b"accept-encoding")
        )


def refused(
    plane: DataPlane, error: GaugewayError, request_id: str, model: ServedModel | None, served: Served | None
) -> Response:
    if served is not None:
        served.answered(error.status).add()
    elif model is not None:
        model.refused(error.status).add()
    else:
        plane.unknown(error.status)
    response = refusal(error)
    response.request_id = _header(request_id)
    return response


def _bounded(request_id: str) -> str:
    """Raises BadRequest: a record that is too large for its ring is lost with all requests of its batch."""
    if len(request_id) > MAX_ID_CHARACTERS:
        raise BadRequest(f"the id has {len(request_id)} characters, at most {MAX_ID_CHARACTERS} are taken")
    return request_id


def _header(request_id: str) -> bytes:
    """An id from a body may hold anything: what a header cannot carry is replaced."""
    raw = request_id.encode("ascii", "replace")[:128]
    return raw if raw.isalnum() else bytes(c if 0x21 <= c <= 0x7E else 0x5F for c in raw)
