"""The transport-free core of a gateway worker: a bound request in, an answer out, whichever protocol carried it."""

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from serving.admission import DEFAULT, PRIORITIES, Admission, Places
from serving.batching import Batcher, Item, Promise
from serving.config import Cache, Capture
from serving.config import Gateway as Settings
from serving.errors import (
    BadRequest,
    NotReady,
    Overloaded,
    UnknownModel,
    UnknownVersion,
)
from serving.manifest import Manifest
from serving.metrics import UNKNOWN, Cell, Histogram, Page
from serving.parts import Whole
from serving.protocol import Array, Parameter
from serving.recall import Keeping, Recall
from serving.recorder import Recorder
from serving.ring import RingWriter
from serving.routing import Key, ModelEntry, Policy, Route, Router, Table, VersionEntry

PATIENCE_S = 0.25  # of requests, until pools that sleep beside others are woken


@dataclass(slots=True)
class Context:
    """What came with a request beside its tensors. Times in seconds, since 1970 where absolute."""

    request_id: str
    deadline_s: float
    arrival_time: float
    event_time: float
    headers: Mapping[bytes, bytes]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    version: str | None = None  # named by the URL
    override: str | None = None  # named by a header
    client: str = ""
    priority: int = DEFAULT
    admitted_rows: int = 0  # what it fills of the version's limit, once it is let in


PATIENCE = 0.2  # of `queue_target_s`, to wait for a faster pool: far less than at what requests are refused


class Served:
    """One version in this worker: manifest, batcher, bound metrics."""

    def __init__(self, entry: VersionEntry, batcher: Batcher, recorder: Recorder, page: Page) -> None:
        self.manifest, self.batcher, self._recorder = entry.manifest, batcher, recorder
        self.sleepers: tuple[str, ...] = ()  # pools that may have no replica
        self.recall: Recall | None = None
        self._caching = Cache()
        self.digest = entry.manifest.digest
        self.key = entry.key
        self._labels = {"model": self.manifest.model, "version": self.manifest.version}
        self._page = page
        version, digest = self.manifest.version.encode(), self.digest.encode()
        self.identity = b"x-gaugeway-version: %s\r\nx-gaugeway-digest: %s\r\n" % (version, digest)
        self.duration: Histogram = page.histogram("request_duration_seconds", **self._labels)
        self._answered: dict[int, Cell] = {}
        for status in (200, 500, 503, 504):  # from 0 on: a rate does not see the first of a counter that begins at 1
            self.answered(status)

    def remember(self, caching: Cache) -> None:
        """Begin, go on, or stop to give answers again."""
        if caching == self._caching:
            return
        self._caching = caching
        if self.recall is not None:
            self.recall.close()
        self.recall = Recall(caching, self.manifest, self._page, self._recorder) if caching.max_bytes else None

    def capture(self, wanted: Capture) -> None:
        """Begin, go on, or stop to capture."""
        self._recorder.capture(wanted)

    def close(self) -> None:
        """Write down what was answered in the last moment."""
        self._recorder.flush()

    def answered(self, status: int) -> Cell:
        if status not in self._answered:
            labels = {**self._labels, "role": "primary", "code": str(status)}
            self._answered[status] = self._page.counter("requests_total", **labels)
        return self._answered[status]


class ServedModel:
    """A model's versions behind its router."""

    def __init__(self, entry: ModelEntry, versions: dict[str, Served], page: Page) -> None:
        self.router, self.versions, self._page = Router(entry.policy), versions, page
        self.inflight = page.gauge("inflight_requests", model=entry.policy.model)
        self.default = max(entry.policy.weights.items(), key=lambda share: share[1])[0]
        self._weighted = [versions[version] for version in entry.policy.weights]

    def knock(self, client: str, priority: int) -> None:
        """Refuse what none of the versions that are chosen from would take now. Raises Overloaded."""
        for served in self._weighted:
            if served.recall is not None or not served.batcher.admission.full(client, priority):
                return
        self._weighted[0].batcher.admission.knock(client, priority)

    def refused(self, status: int) -> Cell:
        """The counter of requests that failed before a version was chosen."""
        labels = {"model": self.router.policy.model, "version": "", "role": "primary", "code": str(status)}
        return self._page.counter("requests_total", **labels)

    def version(self, version: str | None) -> Served:
        """By name, or the one with the most traffic. Raises UnknownVersion."""
        name = version or self.default
        if name not in self.versions:
            raise UnknownVersion(self.router.policy.model, name, self.versions)
        return self.versions[name]

    @property
    def ready(self) -> bool:
        return all(self.versions[v].batcher.ready for v in self.router.policy.weights)


class DataPlane:
    """All models of a worker. `install` a table, `attach` links, then `infer`. `secret` hashes what is redacted."""

    def __init__(self, settings: Settings, page: Page, ring: RingWriter | None, secret: bytes = b"") -> None:
        self._settings, self._page, self._ring, self._secret = settings, page, ring, secret
        self.models: dict[str, ServedModel] = {}
        self._retired: dict[Key, Served] = {}  # no longer in the table; what they have is still answered
        self.table = Table()
        self.orphaned = False  # its node has ended: it answers, and load balancers should choose others
        self._places = Places(settings.max_inflight_requests)
        self._generation = page.gauge("table_generation")

    @property
    def ready(self) -> bool:
        """A table is loaded and the node is there; with `strict_readiness`, every model is ready too."""
        loaded = self.table.generation > 0 and not self.orphaned
        return loaded and (not self._settings.strict_readiness or all(m.ready for m in self.models.values()))

    def install(self, table: Table) -> None:
        """Replace the table; versions that stay, or come back while links are open, keep their queues and links."""
        if table.generation <= self.table.generation:
            return
        known = {**self._retired, **{s.key: s for m in self.models.values() for s in m.versions.values()}}
        self.models = {name: self._model(entry, known) for name, entry in table.models.items()}
        kept = {s.key for m in self.models.values() for s in m.versions.values()}
        gone = {key: s for key, s in known.items() if key not in kept}
        for served in gone.values():
            served.remember(Cache())
        self._retired = {key: s for key, s in gone.items() if s.batcher.links}
        self._weigh(self.table, table)
        self.table = table
        self._generation.set(table.generation)

    def close(self) -> None:
        """Nothing is asked any more: what was answered is on record."""
        for served in [*self._retired.values(), *(s for m in self.models.values() for s in m.versions.values())]:
            served.close()

    def batcher(self, model: str, version: str, digest: str) -> Batcher | None:
        """Of the version with this digest, if it is served here."""
        served = self.models[model].versions.get(version) if model in self.models else None
        return served.batcher if served and served.digest == digest else None

    def asleep(self) -> list[tuple[str, str, str]]:
        """Pools that may have no replica, of versions for whose replicas somebody waits."""
        served = [one for model in self.models.values() for one in model.versions.values() if one.sleepers]
        return [(*one.key[:2], pool) for one in served if one.batcher.waits(PATIENCE_S) for pool in one.sleepers]

    def model(self, name: str) -> ServedModel:
        """Raises UnknownModel, or NotReady before there is a table."""
        if (found := self.models.get(name)) is None:
            if not self.table.generation:
                raise NotReady("the routing table is not loaded yet")
            raise UnknownModel(name, self.models)
        return found

    def route(self, model: ServedModel, context: Context) -> Route:
        key = sticky_key(model.router.policy, context)
        return model.router.choose(key or context.request_id, key is not None, context.version, context.override)

    def submit(
        self,
        model: ServedModel,
        served: Served,
        route: Route,
        inputs: list[Array],
        context: Context,
        promise: Promise,
    ) -> list[Item]:
        """Ask for outputs in the order of the signature; `promise` gets them, or why there are none.

        Whoever calls this calls `over` once the promise is kept, broken, or cancelled.
        Raises Overloaded, NotReady, BadRequest, ModelFailure: then there is no promise.
        """
        if served.recall is not None:
            key = served.recall.key(inputs, context.client)
            if (outputs := served.recall.find(key)) is not None:
                rows, together = rows_of(served.manifest, inputs), _together(served.manifest, inputs)
                served.recall.give(_item(route, inputs, 0, rows, together, context, promise), outputs)
                return []
            promise = Keeping(served.recall, key, promise)
        self._admit(model, served, inputs, context)
        try:
            items = self._items(served, route, inputs, context, promise)
            served.batcher.submit(*items)
        except BaseException:  # whatever it was, the place is free again
            self.over(model, served, context)
            raise
        return items

    def _admit(self, model: ServedModel, served: Served, inputs: list[Array], context: Context) -> None:
        batcher, manifest = served.batcher, served.manifest
        rows = max(1, rows_of(manifest, inputs)) if manifest.rows_independent else 1
        try:
            batcher.admission.admit(
                context.client, context.priority, rows, context.deadline_s, batcher.queued_rows, time.monotonic()
            )
        except Overloaded as error:
            self.shed(model, error.reason, context.priority)
            raise
        context.admitted_rows = rows
        model.inflight.add(1)

    def over(self, model: ServedModel, served: Served, context: Context) -> None:
        """One request less under way, if it was let in at all."""
        if not context.admitted_rows:
            return
        served.batcher.admission.release(context.client, context.priority, context.admitted_rows)
        model.inflight.add(-1)

    def knock(self, model: ServedModel, client: str, priority: int) -> None:
        """Refuse a request before its body is looked at, if no version would take it. Raises Overloaded."""
        try:
            model.knock(client, priority)
        except Overloaded as error:
            self.shed(model, error.reason, priority)
            raise

    def shed(self, model: ServedModel, reason: str, priority: int) -> None:
        """Count a request that was refused to protect the rest."""
        labels = {"model": model.router.policy.model, "reason": reason, "priority": PRIORITIES[priority]}
        self._page.counter("shed_total", **labels).add()

    def labelled(self, model: ServedModel, counts: Mapping[str, int]) -> None:
        """Count labels that were sent for a model, by outcome."""
        for outcome, count in counts.items():
            self._page.counter("labels_total", model=model.router.policy.model, outcome=outcome).add(count)

    def unknown(self, status: int) -> None:
        """Count a request for something that is not here, under one label."""
        self._page.counter("requests_total", model=UNKNOWN, version="", role="primary", code=str(status)).add()

    def _items(
        self, served: Served, route: Route, inputs: list[Array], context: Context, promise: Promise
    ) -> list[Item]:
        """One item, or several for a request larger than a batch."""
        manifest, limit = served.manifest, served.batcher.max_batch_rows
        rows = rows_of(manifest, inputs)
        if not manifest.rows_independent:
            if rows > limit and _free_rows(manifest):
                raise BadRequest(
                    f"got {rows} rows; model {manifest.model!r} version {manifest.version!r} takes at most"
                    f" {limit} a request, because its rows depend on one another"
                )
            return [_item(route, inputs, 0, rows, None, context, promise)]
        key = _together(manifest, inputs)
        if rows <= limit:
            return [_item(route, inputs, 0, rows, key, context, promise)]
        starts = range(0, rows, limit)
        parts = Whole(promise, len(starts)).parts
        return [
            _item(route, [a[at : at + limit] for a in inputs], at, min(limit, rows - at), key, context, part)
            for at, part in zip(starts, parts, strict=True)
        ]

    def _model(self, entry: ModelEntry, known: Mapping[Key, Served]) -> ServedModel:
        versions: dict[str, Served] = {}
        for version, one in entry.versions.items():
            versions[version] = known.get(one.key) or self._served(one)
            versions[version].batcher.resize(one.max_batch_rows)
            versions[version].sleepers, versions[version].batcher.sleep.allowed = one.sleepers, one.sleeps
            versions[version].remember(one.cache)
            versions[version].capture(one.capture)
        return ServedModel(entry, versions, self._page)

    def _served(self, entry: VersionEntry) -> Served:
        manifest = entry.manifest
        retries = self._page.counter("retries_total", model=manifest.model, version=manifest.version)
        admission = Admission(
            f"model {manifest.model!r} version {manifest.version!r}",
            self._places,
            max_queue_rows=self._settings.max_queue_rows,
            queue_target_s=self._settings.queue_target_s,
            rng=random.Random(),
            limited=self._page.gauge("admission_limit_rows", model=manifest.model, version=manifest.version).set,
        )
        recorder = Recorder(manifest, self._page, self._ring, self._secret)
        batcher = Batcher(
            manifest,
            admission,
            max_batch_rows=entry.max_batch_rows,
            retries=self._settings.retries,
            finished=recorder,
            answering=recorder.expect,
            retried=retries.add,
            patience_s=self._settings.queue_target_s * PATIENCE,
            cold_start=lambda seconds: self._page.histogram(
                "cold_start_seconds", model=manifest.model, version=manifest.version
            ).observe(seconds),
            rng=random.Random(),
        )
        return Served(entry, batcher, recorder, self._page)

    def _weigh(self, before: Table, after: Table) -> None:
        for name, entry in before.models.items():
            for version in entry.versions:
                self._page.gauge("route_weight", model=name, version=version).set(0.0)
        for name, entry in after.models.items():
            for version, weight in entry.policy.weights.items():
                self._page.gauge("route_weight", model=name, version=version).set(weight)


def rows_of(manifest: Manifest, inputs: Sequence[Array]) -> int:
    """Rows of a request: the common length of axis 0. May be 0. Raises BadRequest when inputs differ."""
    if not manifest.rows_independent:
        return int(inputs[0].shape[0]) if inputs and inputs[0].ndim else 1
    if len(inputs) == 1:
        return int(inputs[0].shape[0])
    lengths: set[int] = {array.shape[0] for array in inputs}
    if len(lengths) != 1:
        shapes = ", ".join(f"{s.name} {list(a.shape)}" for s, a in zip(manifest.signature.inputs, inputs, strict=True))
        raise BadRequest(f"inputs must have the same number of rows (axis 0), got {shapes}")
    return lengths.pop()


def _together(manifest: Manifest, inputs: Sequence[Array]) -> object:
    """Requests for which this is the same may share a batch; None: alone."""
    return tuple([array.shape[1:] for array in inputs]) if manifest.rows_independent else None


def sticky_key(policy: Policy, context: Context) -> str | None:
    """The value that keeps a user on one version, if the request carries it."""
    source, _, name = policy.sticky.partition(":")
    if source == "parameter":
        value = context.parameters.get(name)
        return None if value is None or value == "" else str(value)
    if source == "header":
        found = context.headers.get(name.lower().encode())
        return found.decode("latin-1") if found else None
    return _cookie(context.headers.get(b"cookie", b""), name) if source == "cookie" else None


def _cookie(header: bytes, name: str) -> str | None:
    for part in header.decode("latin-1").split(";"):
        key, equals, value = part.strip().partition("=")
        if equals and key == name:
            return value.strip('"') or None
    return None


def _free_rows(manifest: Manifest) -> bool:
    """Whether axis 0 of the first input counts what a client sends, rather than being part of the model."""
    inputs = manifest.signature.inputs
    return bool(inputs and inputs[0].shape and inputs[0].shape[0] < 0)


def _item(
    route: Route, inputs: list[Array], first_row: int, rows: int, key: object, context: Context, promise: Promise
) -> Item:
    return Item(
        inputs,
        rows,
        time.monotonic() + context.deadline_s,
        promise,
        context.request_id,
        first_row,
        route.reason,
        route.propensity,
        route.key_hash,
        context.arrival_time,
        context.event_time,
        key,
        context.priority,
    )
