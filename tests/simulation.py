"""A worker's door, its queue and its replicas in simulated time: sixty seconds of overload in one.

As `serving.batching` does, a worker keeps two batches on a link and sends the next when one ends; what is past its
deadline is not computed. Arrivals come from a seeded generator, so every run is the same.
"""

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

from serving.admission import DEFAULT
from serving.errors import Overloaded
from serving.waiting import Waiting

ON_LINK = 2


class Door(Protocol):
    """What `serving.admission.Admission` is to a worker."""

    def admit(self, client: str, priority: int, rows: int, deadline_s: float, queued_rows: int, now: float) -> None: ...
    def release(self, client: str, priority: int, rows: int) -> None: ...
    def ran(self, rows: int, run_s: float, queued_rows: int, now: float) -> bool: ...
    def hopeless(self, waiting: "Iterable[Ask]", now: float) -> "list[Ask]": ...


class Open:
    """The control: everybody is let in."""

    def admit(self, client: str, priority: int, rows: int, deadline_s: float, queued_rows: int, now: float) -> None: ...
    def release(self, client: str, priority: int, rows: int) -> None: ...

    def ran(self, rows: int, run_s: float, queued_rows: int, now: float) -> bool:
        return False

    def hopeless(self, waiting: "Iterable[Ask]", now: float) -> "list[Ask]":
        return []


@dataclass(slots=True, eq=False)
class Ask:
    """One request; `outcome` is "ok", "late", or why it was refused."""

    at: float
    deadline_s: float = 1.0
    client: str = "a"
    priority: int = DEFAULT
    rows: int = 1
    tries: int = 1
    sent: bool = False
    outcome: str = ""
    ended: float = 0.0
    then: "Callable[[Ask], None] | None" = None

    @property
    def deadline(self) -> float:
        return self.at + self.deadline_s

    @property
    def latency_s(self) -> float:
        return self.ended - self.at


class Clock:
    """Events in the order of their time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()

    def at(self, time: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, next(self._number), event))

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, event = heapq.heappop(self._events)
            event()
        self.now = until


@dataclass(eq=False)
class Replica:
    """Runs one batch at a time, `run_s(rows)` each, in the order in which they came."""

    clock: Clock
    run_s: Callable[[int], float]
    _sent: "deque[tuple[list[Ask], Worker]]" = field(default_factory=deque)

    def send(self, batch: list[Ask], worker: "Worker") -> None:
        self._sent.append((batch, worker))
        if len(self._sent) == 1:
            self._start()

    def _start(self) -> None:
        took_s = self.run_s(sum(ask.rows for ask in self._sent[0][0]))
        self.clock.at(self.clock.now + took_s, lambda: self._end(took_s))

    def _end(self, took_s: float) -> None:
        batch, worker = self._sent.popleft()
        if self._sent:
            self._start()
        worker.ended(self, batch, took_s)


class Worker:
    """`ended_asks` are all that are over, in the order of their end; `longest_queue` in rows."""

    def __init__(self, clock: Clock, door: Door, replicas: Iterable[Replica], max_batch_rows: int = 1) -> None:
        self._clock, self._door, self._max_batch_rows = clock, door, max_batch_rows
        self._on_link = {replica: 0 for replica in replicas}
        self._queue: Waiting[Ask] = Waiting()
        self.ended_asks: list[Ask] = []
        self.queued_rows = self.longest_queue = self.computed_late = 0

    def ask(self, ask: Ask) -> None:
        now = self._clock.now
        try:
            self._door.admit(ask.client, ask.priority, ask.rows, ask.deadline_s, self.queued_rows, now)
        except Overloaded as error:
            self._end(ask, error.reason)
            return
        self._queue.append(ask)
        self.queued_rows += ask.rows
        self.longest_queue = max(self.longest_queue, self.queued_rows)
        self._clock.at(now + ask.deadline_s, lambda: self._expire(ask))
        self._flush()

    def ended(self, replica: Replica, batch: list[Ask], run_s: float) -> None:
        self._on_link[replica] -= 1
        now = self._clock.now
        if self._door.ran(sum(ask.rows for ask in batch), run_s, self.queued_rows, now):
            for ask in self._door.hopeless((ask for ask in self._queue if not ask.outcome), now):
                self.queued_rows -= ask.rows
                self._answer(ask, "displaced")
        for ask in batch:
            self.computed_late += bool(ask.outcome)
            self._answer(ask, "ok")
        self._flush()

    def _flush(self) -> None:
        while (free := min(self._on_link, key=lambda r: self._on_link[r])) and self._on_link[free] < ON_LINK:
            if not (batch := self._collect()):
                return
            self._on_link[free] += 1
            free.send(batch, self)

    def _collect(self) -> list[Ask]:
        batch: list[Ask] = []
        rows = 0
        while self._queue:
            ask = self._queue.head()
            if not ask.outcome and batch and rows + ask.rows > self._max_batch_rows:
                break
            self._queue.popleft()
            if not ask.outcome:
                batch.append(ask)
                rows += ask.rows
                self.queued_rows -= ask.rows
                ask.sent = True
        return batch

    def _expire(self, ask: Ask) -> None:
        if ask.outcome:
            return
        if not ask.sent:
            self.queued_rows -= ask.rows
        self._answer(ask, "late")

    def _answer(self, ask: Ask, outcome: str) -> None:
        if not ask.outcome:
            self._door.release(ask.client, ask.priority, ask.rows)
            self._end(ask, outcome)

    def _end(self, ask: Ask, outcome: str) -> None:
        ask.outcome, ask.ended = outcome, self._clock.now
        self.ended_asks.append(ask)
        if ask.then is not None:
            ask.then(ask)


def arrivals(rng: random.Random, rate: float, start: float, end: float) -> list[float]:
    """A Poisson process."""
    times, at = [], start + rng.expovariate(rate)
    while at < end:
        times.append(at)
        at += rng.expovariate(rate)
    return times


def outcomes(asks: Iterable[Ask]) -> Counter[str]:
    return Counter(ask.outcome for ask in asks)


def quantile(values: Iterable[float], q: float) -> float:
    """Of a sample that is not empty."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]
