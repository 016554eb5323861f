"""Who is let in, and who is told at once to come back later: one `Admission` per version and worker.

What may be in flight is as many rows as the replicas answer in the time that a request may wait, see `serving.pace`;
of that each class may fill its share. What is above this module asks for a place, and gives it back; the queue behind
the door is `serving.waiting`.

Pure: no clock, no I/O; `now` is in seconds of any steady clock.
"""

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from serving.errors import BadRequest, Overloaded
from serving.pace import WINDOW_S, Pace
from serving.waiting import LINES, PATIENCE

PRIORITIES = ("critical", "default", "sheddable", "shadow")
CRITICAL, DEFAULT, SHEDDABLE, SHADOW = range(4)
SHARES = (1.0, 0.5, 0.25, 0.125)  # of the limit, by priority
GREEDY = 0.75  # of its share of the limit is what a client may fill that has more than its part already
REASONS = ("inflight", "queue", "limit", "client", "deadline", "displaced")

MARGIN = 1.25  # by which a request may take longer than is expected
TURN = 1 / (PATIENCE + LINES)  # of the replicas is what even the last line gets
TRACE = 0.01  # of the replicas: a class that takes no more is not there

LONGEST_RETRY_S = 30.0


class Waits(Protocol):
    """Somebody in a queue; `deadline` on the clock of `now`."""

    @property
    def rows(self) -> int: ...
    @property
    def priority(self) -> int: ...
    @property
    def deadline(self) -> float: ...


W = TypeVar("W", bound=Waits)


@dataclass(slots=True)
class Places:
    """Requests that a worker has open, over all of its versions, and how many it may."""

    bound: int
    taken: int = 0

    @property
    def crowd(self) -> str:
        return f"{self.taken} requests are being answered by this worker, the bound is {self.bound}"


class Admission:
    """The door of one version in one worker. Every `admit` that does not raise is followed by one `release`."""

    def __init__(
        self,
        name: str,
        places: Places,
        *,
        max_queue_rows: int,
        queue_target_s: float,
        rng: random.Random,
        limited: Callable[[float], None] = lambda rows: None,
    ) -> None:
        self._name, self._places, self._rng, self._limited = name, places, rng, limited
        self._max_queue_rows = max_queue_rows
        self._pace = Pace(queue_target_s, SHARES[DEFAULT])
        self.rows = 0  # in flight: waiting, on the wire, running
        self._rows_of = [0] * len(PRIORITIES)
        self._clients: dict[str, int] = {}  # rows in flight; never more entries than requests in flight
        self._yielding = False  # some give way to others
        self._parts = [0.0] * len(PRIORITIES)  # of what the replicas do, that was let in of each class
        self._pressure = 1.0  # requests per request admitted, in the last window
        self._begin(0.0)
        self._refresh()

    @property
    def limit_rows(self) -> float:
        return self._pace.limit_rows

    @property
    def clients(self) -> int:
        """How many have something in flight."""
        return len(self._clients)

    def resize(self, replicas: int, batch_rows: int) -> None:
        """Replicas came or went, or a batch may have another length; 1 where requests run alone."""
        self._pace.resize(replicas, batch_rows)
        self._refresh()

    def full(self, client: str, priority: int) -> bool:
        """Whether `admit` would refuse a request of this client whatever it holds."""
        rows = self.rows
        if self._places.taken >= self._places.bound:
            return True
        if not rows or rows < self._calm[priority]:
            return False
        return rows >= self._most[priority] or self._greedy(client, priority)

    def knock(self, client: str, priority: int) -> None:
        """Raise Overloaded if `full`."""
        if self._places.taken >= self._places.bound:
            raise self._refusal("inflight", self._places.crowd)
        if self.rows:
            self._examine(client, priority, math.inf)

    def admit(self, client: str, priority: int, rows: int, deadline_s: float, queued_rows: int, now: float) -> None:
        """Let a request in. Raises Overloaded. An idle version takes anything."""
        ahead = self.rows
        if self._places.taken >= self._places.bound:
            raise self._refusal("inflight", self._places.crowd)
        if not ahead:
            if self._pace.idle(now):
                self._close(now)
        elif ahead >= self._calm[priority] or ahead * self._row_s[priority] + self._pace.run_s > deadline_s:
            self._examine(client, priority, deadline_s)
        if queued_rows and queued_rows + rows > self._max_queue_rows:
            raise self._refusal("queue", f"{queued_rows} rows wait, the bound is {self._max_queue_rows}")
        self._places.taken += 1
        self._admitted[priority] += rows
        self.rows = ahead + rows
        self._rows_of[priority] += rows
        clients = self._clients
        clients[client] = clients.get(client, 0) + rows

    def release(self, client: str, priority: int, rows: int) -> None:
        """A request that was let in is over, however it ended."""
        self._places.taken -= 1
        self.rows -= rows
        self._rows_of[priority] -= rows
        left = self._clients[client] - rows
        if left:
            self._clients[client] = left
        else:
            del self._clients[client]

    def ran(self, rows: int, run_s: float, queued_rows: int, now: float) -> bool:
        """A batch ended after `run_s` in the model, while `queued_rows` waited for a replica.

        Whether it is time to ask who is `hopeless`.
        """
        if not self._pace.ran(rows, run_s, queued_rows, now):
            return False
        self._close(now)
        return self._yielding or self.rows > self._most[DEFAULT]

    def hopeless(self, waiting: Iterable[W], now: float) -> list[W]:
        """Those of a queue, each line in its order, who were let in and will be late by what is known now."""
        ahead = [0] * len(PRIORITIES)
        found: list[W] = []
        for one in waiting:
            rows = ahead[one.priority] + one.rows
            wait_s = rows * self._row_s[one.priority] / MARGIN + self._pace.run_s
            if wait_s > one.deadline - now and one.priority != CRITICAL:
                found.append(one)
            else:
                ahead[one.priority] = rows
        return found

    def displaced(self) -> Overloaded:
        """What is said to one of the `hopeless`."""
        return self._refusal("displaced", "more important requests came, or replicas were lost: it would be late")

    def _examine(self, client: str, priority: int, deadline_s: float) -> None:
        if self.rows >= self._most[priority]:
            raise self._refusal("limit", self._crowd(priority))
        if self.rows >= self._calm[priority] and self._greedy(client, priority):
            raise self._refusal("client", f"{self._clients[client]} of {self.rows} rows in flight are this client's")
        wait_s = sum(self._rows_of[: priority + 1]) * self._row_s[priority] + self._pace.run_s
        if wait_s > deadline_s:
            raise self._refusal("deadline", f"an answer would take {wait_s:.3g} s, the deadline is {deadline_s:.3g} s")

    def _greedy(self, client: str, priority: int) -> bool:
        """Whether it has more than its part of what is in flight, or twice as much while there is room.

        One more client is counted than there are: the next to come.
        """
        calm, most = self._calm[priority], self._most[priority]
        parts = 1.0 + (most - self.rows) / (most - calm)
        return self._clients.get(client, 0) * (len(self._clients) + 1) > parts * self.rows

    def _begin(self, now: float) -> None:
        self._since, self._refused = now, 0
        self._admitted = [0] * len(PRIORITIES)  # rows

    def _close(self, now: float) -> None:
        elapsed_s = now - self._since
        if elapsed_s >= WINDOW_S:
            self._pressure = 1.0 + self._refused / max(1, sum(self._admitted))
            parts = [rows * self._pace.row_s / elapsed_s for rows in self._admitted]
            self._parts = [max(part, old + 0.3 * (part - old)) for part, old in zip(parts, self._parts, strict=True)]
            self._yielding = sum(part > TRACE for part in self._parts) > 1
            self._begin(now)
        self._refresh()

    def _refresh(self) -> None:
        """What each class may fill, and how fast it goes on: what is left by those above it, and a turn at times."""
        if self._pace.limit_rows < math.inf:
            self._limited(self._pace.limit_rows)
        free = [max(TURN, 1.0 - sum(self._parts[:at]) - TURN * self._below(at)) for at in range(len(PRIORITIES))]
        self._most = [self._pace.limit_rows * share * left for share, left in zip(SHARES, free, strict=True)]
        self._calm = [GREEDY * most for most in self._most]
        self._row_s = [MARGIN * self._pace.row_s / left for left in free]

    def _below(self, priority: int) -> int:
        """Classes below this one of which something is in flight."""
        return sum(rows > 0 for rows in self._rows_of[priority + 1 :])

    def _crowd(self, priority: int) -> str:
        return f"{self.rows} rows are in flight, {PRIORITIES[priority]} requests may fill {self._most[priority]:.0f}"

    def _refusal(self, reason: str, facts: str) -> Overloaded:
        """Spread over a time that grows with the crowd, so that it does not come back as one."""
        self._refused += 1
        spread_s = min(2.0 * self._pressure, LONGEST_RETRY_S - 1.0)
        return Overloaded(f"{self._name}: {facts}", 1.0 + self._rng.random() * spread_s, reason)


def priority_of(header: bytes | None) -> int:
    """The class that a request names for itself. Raises BadRequest.

    >>> priority_of(b"critical"), priority_of(None)
    (0, 1)
    """
    if header is None:
        return DEFAULT
    if (found := _NAMED.get(header)) is None:
        raise BadRequest(f"x-gaugeway-priority must be critical, default or sheddable, got {header[:40]!r}")
    return found


_NAMED = {name.encode(): at for at, name in enumerate(PRIORITIES) if at != SHADOW}
