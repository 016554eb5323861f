"""Adaptive batching: requests of one version wait only while every replica is busy.

An idle system adds no delay, a busy one batches by itself; there is no delay to tune. Each request fails or
succeeds alone: a batch that fails is run again one by one, and the requests of a lost replica go to another,
on another node if there is one, each alone, within the deadline and a budget of retried batches.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from serving import frames
from serving.admission import DEFAULT, Admission
from serving.channel import Call, Link, Outcome, Result
from serving.deadlines import Deadlines
from serving.errors import BadRequest, DeadlineExceeded, GaugewayError, ModelFailure, NotReady, ReplicaLost
from serving.frames import Layouts
from serving.locality import elsewhere
from serving.manifest import Manifest
from serving.pools import Pools
from serving.protocol import Array
from serving.retrying import RetryBudget
from serving.sleep import Sleep
from serving.suspects import Suspects
from serving.waiting import Waiting

ABANDONED = 499  # the status of a request that nobody waits for any more: its client left, or another part failed
MAX_INFLIGHT = 2  # batches on one link: the next is on the wire while one runs
AGAIN_S = 0.01  # a pool that is waited for may have stopped to answer
ABANDONED_ERROR = GaugewayError("nobody waits for it")


@dataclass(frozen=True, slots=True)
class Answer:
    """The request's own rows of every output, its wait, and the run of its batch, in seconds."""

    outputs: list[Array]
    queue_s: float
    infer_s: float


class Promise(Protocol):
    """Who waits for an answer: an `asyncio.Future[Answer]`, or what needs no turn of the loop to go on."""

    def done(self) -> bool: ...
    def cancelled(self) -> bool: ...
    def set_result(self, result: Answer, /) -> None: ...
    def set_exception(self, exception: GaugewayError, /) -> None: ...


@dataclass(slots=True, eq=False)
class Item:
    """Rows of one request that wait for their answer; the promise of it travels with them."""

    inputs: list[Array]  # in the order of the signature
    rows: int
    deadline: float  # on the clock of time.monotonic
    promise: Promise
    id: str = ""
    first_row: int = 0
    reason: str = "weight"
    propensity: float = 1.0
    key_hash: int = 0
    arrival_time: float = 0.0  # seconds since 1970
    event_time: float = 0.0
    key: object = None  # items of one key may share a batch; None: alone
    priority: int = DEFAULT
    submitted: float = 0.0
    attempts: int = 0
    lost_on: str | None = None  # the host whose replica was lost under it
    queued: bool = False
    batch: "Batch | None" = None  # under way


@dataclass(slots=True, eq=False)
class Batch:
    items: list[Item]
    sent: float
    link: Link
    call: Call | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """A batch that is over, for metrics and records. `result` is None when it failed."""

    items: list[Item]
    statuses: list[int]
    queue_s: list[float]
    result: Result | None


class Batcher:
    """The queue of one version in one worker, and the links to its replicas."""

    def __init__(
        self,
        manifest: Manifest,
        admission: Admission,
        *,
        max_batch_rows: int,
        retries: int,
        finished: Callable[[Finished], None],
        answering: Callable[[int], None] = lambda rows: None,
        retried: Callable[[int], None] = lambda n: None,
        cold_start: Callable[[float], None] = lambda seconds: None,
        patience_s: float = 0.1,
        rng: random.Random | None = None,
    ) -> None:
        self.manifest, self.admission = manifest, admission
        self.max_batch_rows, self._retries = max_batch_rows, retries
        self._finished, self._answering, self._retried = finished, answering, retried
        self._rng = rng or random.Random()
        self._loop = asyncio.get_running_loop()
        self._queue: Waiting[Item] = Waiting()
        self.queued_rows = 0
        self._scheduled = False
        self._layouts = Layouts()
        self._deadlines = Deadlines(self._expire)
        self._budget = RetryBudget()
        self._reserved: set[Link] = set()  # one suspect request is on it, and nothing else
        self._suspects = Suspects()
        self.links: list[Link] = []
        self.sleep = Sleep(cold_start)
        self._pools = Pools(patience_s, self._rng)

    @property
    def ready(self) -> bool:
        """A replica is there that has work or can take it, or one is made when a request waits."""
        return self.sleep.possible or self._warm

    @property
    def _warm(self) -> bool:
        for link in self.links:
            if link.hello is not None and (link.state == "ready" or link.state == "suspect"):
                return True
        return False

    def waits(self, longer_than_s: float) -> bool:
        """Whether somebody waits for a replica to be made, or for one that is there longer than this."""
        if (item := self._oldest()) is None:
            return False
        return not self._warm or time.monotonic() - item.submitted > longer_than_s

    def _backlog(self) -> int:
        """Rows that wait for each of the replicas that take work."""
        return -(-self.queued_rows // max(1, sum(link.state == "ready" for link in self.links)))

    def attach(self, link: Link) -> None:
        self.links.append(link)
        link.backlog = self._backlog
        self.sleep.came(time.monotonic())
        self._soon()
        self._pools.changed(self.links)
        self.resize(self.max_batch_rows)

    def resize(self, max_batch_rows: int) -> None:
        """Take another bound, and tell the door what the replicas can run at the same time."""
        self.max_batch_rows = max_batch_rows
        ready = sum(link.state == "ready" for link in self.links)
        self.admission.resize(ready, max_batch_rows if self.manifest.rows_independent else 1)

    def changed(self, link: Link) -> None:
        """A link came, went, or changed its mind."""
        if link.state == "lost" and link in self.links:
            self.links.remove(link)
            self.sleep.left(goodbye=link.dismissed)
            self._pools.changed(self.links)
        self.resize(self.max_batch_rows)
        if not self.ready:
            self._give_up()
        self._soon()

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is under way."""
        return not self._queue and not any(link.inflight for link in self.links)

    def submit(self, *items: Item) -> None:
        """Take all parts of a request or none; whether there is room was asked at the door.

        Raises NotReady, DeadlineExceeded, or ModelFailure for an input that has killed replicas before.
        """
        if not self.ready:
            raise NotReady(f"no replica of {self._name} is ready")
        now = time.monotonic()
        if self.sleep.allowed and not self._warm:
            self.sleep.waits(now)
        if self._suspects and any(self._suspects.poisonous(item.inputs, now) for item in items):
            raise ModelFailure(f"{self._name}: refused, replicas died twice while they computed this input")
        if items[0].deadline <= now:
            raise DeadlineExceeded(f"the deadline passed before the request reached {self._name}")
        for item in items:
            item.submitted = now
            self._deadlines.add(item, item.deadline)
        self._push(items)

    def abandon(self, item: Item) -> None:
        """Its promise is cancelled: nobody waits for it. Its place is free at once, in the queue or at the replica."""
        if item.queued:
            self._withdraw(item, ABANDONED_ERROR)
        elif (batch := item.batch) is not None and all(one.promise.done() for one in batch.items):
            self._abandon(batch)

    @property
    def _name(self) -> str:
        return f"model {self.manifest.model!r} version {self.manifest.version!r}"

    def _push(self, items: Iterable[Item], front: bool = False) -> None:
        for item in items:
            (self._queue.appendleft if front else self._queue.append)(item)
            self.queued_rows += item.rows
            item.queued = True
        self._soon()

    def _soon(self) -> None:
        """Flush after this turn of the loop, so that what came together leaves together."""
        if self._queue and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        while (item := self._oldest()) and (link := self._free_link(item)):
            if item.attempts:  # if it kills once more, it must be alone with what it kills
                self._reserved.add(link)
            self._send(link, self._collect(link))

    def _oldest(self) -> Item | None:
        """Who goes next, without those that are over."""
        while self._queue and (item := self._queue.head()).promise.done():
            waited = item.queued
            self._pop()
            if waited:
                self._fail(item, DeadlineExceeded(""))  # resolved already; this only counts it
        return self._queue.head() if self._queue else None

    def _free_link(self, item: Item) -> Link | None:
        """Where it goes. None also to wait for a faster pool: then it is asked again, whatever happens."""
        bound = 1 if item.attempts else MAX_INFLIGHT
        links = [link for link in self.links if link not in self._reserved] if self._reserved else self.links
        if item.lost_on is not None:
            links = elsewhere(links, self.links, item.lost_on)
        if not self._pools.mixed:
            return self._pools.least_loaded(links, bound)
        waited_s, joined = time.monotonic() - item.submitted, item.key is not None
        link = self._pools.fastest(links, bound, item.rows, self.queued_rows, waited_s, joined)
        if link is None:
            self._loop.call_later(AGAIN_S, self._soon)
        return link

    def _collect(self, link: Link) -> list[Item]:
        """The next items that may run together, up to `max_batch_rows`; where there are pools, up to their bounds."""
        items: list[Item] = []
        rows, most = 0, self._pools.most(link) if self._pools.mixed else self.max_batch_rows
        while item := self._oldest():
            if items and (item.key is None or item.key != items[0].key or rows + item.rows > most):
                break
            items.append(self._pop())
            rows += item.rows
            if not self._queue:
                break
        return items

    def _pop(self) -> Item:
        item = self._queue.popleft()
        if item.queued:
            self.queued_rows -= item.rows
            item.queued = False
        return item

    def _send(self, link: Link, items: list[Item]) -> None:
        now = time.monotonic()  # uvloop's own clock counts milliseconds
        self._budget.sent(now)
        batch = Batch(items, now, link)
        for item in items:
            item.batch = batch
        if len(items) == 1:
            deadline, inputs, rows = items[0].deadline, items[0].inputs, items[0].rows
            buffers, sizes, shapes = frames.alone(self.manifest.signature.inputs, inputs)
        else:
            deadline, rows = max([item.deadline for item in items]), sum([item.rows for item in items])
            buffers, sizes, shapes = frames.joined(
                self.manifest.signature.inputs, [item.inputs for item in items], rows
            )
        meta = self._layouts.encode(self.manifest.signature.inputs, shapes, sizes)
        batch.call = Call(meta, buffers, rows, deadline, partial(self._done, batch))
        link.send(batch.call)

    def _done(self, batch: Batch, link: Link, outcome: Outcome) -> None:
        self._reserved.discard(link)
        batch.call = None  # here and below: cycles would wait for the collector, and cold memory be taken meanwhile
        for item in batch.items:
            item.batch = None
        if isinstance(outcome, Result):
            self._succeed(batch, outcome)
        elif isinstance(outcome, ReplicaLost):
            self._retry(link, batch, outcome)
        elif len(batch.items) > 1 and isinstance(outcome, ModelFailure | BadRequest):
            self._run_singly(batch.items)  # one of them is to blame
        else:
            for item in batch.items:
                self._fail(item, outcome)
        self._soon()

    def _succeed(self, batch: Batch, result: Result) -> None:
        """Answered first, then written down; if this process dies in between, the rows are known to be missing."""
        items, independent = batch.items, self.manifest.rows_independent
        waits = [batch.sent - item.submitted + result.queue_s for item in items]
        statuses = [_late(item) if item.promise.done() else 200 for item in items]
        self._answering(sum([item.rows for item in items]))
        if self._pools.mixed:
            self._pools.took(batch.link, sum([item.rows for item in items]), result.infer_s)
        at, alone = 0, len(items) == 1
        try:
            for item, wait_s in zip(items, waits, strict=True):
                outputs = result.outputs if alone else [output[at : at + item.rows] for output in result.outputs]
                at += item.rows
                if not item.promise.done():
                    item.promise.set_result(Answer(outputs, wait_s, result.infer_s))
            for item in items:
                self._deadlines.discard(item, item.deadline)
                if self._suspects:
                    self._suspects.survived(item.inputs)
        finally:  # or the next record would be written down in the place of this one
            self._finished(Finished(items, statuses, waits, result))
        self._tell(at if independent else len(items), result)

    def _tell(self, rows: int, result: Result) -> None:
        """The door, how fast it goes; it may know then who waits in vain."""
        now = time.monotonic()
        if self.admission.ran(rows, result.infer_s, self.queued_rows, now):
            for item in self.admission.hopeless((item for item in self._queue if item.queued), now):
                self._withdraw(item, self.admission.displaced())

    def _retry(self, link: Link, batch: Batch, lost: ReplicaLost) -> None:
        """Each request of a lost replica once more and alone, if deadline, attempts and budget allow."""
        now = time.monotonic()
        allowed = self.ready and self._retries > 0 and self._budget.take(now)
        again: list[Item] = []
        self._suspects.forget(now)
        for item in batch.items:
            item.attempts, item.lost_on = item.attempts + 1, link.host
            self._suspects.died(item.inputs, link, now)
            if allowed and item.attempts <= self._retries and not item.promise.done():
                again.append(item)
            else:
                self._fail(item, NotReady(f"{lost}; it was not retried"))
        self._retried(len(again))
        self._run_singly(again)

    def _run_singly(self, items: list[Item]) -> None:
        for item in items:
            item.key = None
        self._push(reversed(items), front=True)

    def _give_up(self) -> None:
        """The last replica is gone: nobody waits for one that may never come."""
        while self._oldest():
            self._fail(self._pop(), NotReady(f"no replica of {self._name} is ready"))

    def _expire(self, item: Item) -> None:
        error = DeadlineExceeded(f"no answer of {self._name} within the deadline")
        if item.queued:  # it will never be sent; what is in flight is recorded when its outcome comes
            self._withdraw(item, error)
        elif not item.promise.done():
            item.promise.set_exception(error)

    def _withdraw(self, item: Item, error: GaugewayError) -> None:
        """Out of the queue, where it may lie behind others for a while."""
        self.queued_rows -= item.rows
        item.queued = False
        self._fail(item, error)
        item.inputs = []
        self._queue.prune(item.priority, lambda first: not first.queued)

    def _abandon(self, batch: Batch) -> None:
        """Nobody waits for any of its items: the replica need not go on."""
        if batch.call is not None:
            batch.link.forget(batch.call)
            self._done(batch, batch.link, ABANDONED_ERROR)

    def _fail(self, item: Item, error: GaugewayError) -> None:
        status = _late(item) if item.promise.done() else error.status
        self._deadlines.discard(item, item.deadline)
        self._finished(Finished([item], [status], [time.monotonic() - item.submitted], None))
        if not item.promise.done():
            item.promise.set_exception(error)


def _late(item: Item) -> int:
    """The status of a request that was over before its outcome came."""
    return ABANDONED if item.promise.cancelled() else DeadlineExceeded.status
