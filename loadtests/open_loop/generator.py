"""Sends what a plan says when it says so, whatever became of the requests before."""

import asyncio
import math
import re
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from loadtests.open_loop.arrivals import Plan
from loadtests.open_loop.connection import Reply
from loadtests.open_loop.outcomes import BROKEN, GAVE_UP, Outcomes
from loadtests.open_loop.pool import Attempt, Pool
from loadtests.open_loop.timer import Timer
from loadtests.open_loop.workload import Workload

REFUSED = (429, 503)
LONGEST_REASON = 80


@dataclass(frozen=True)
class Behaviour:
    """What clients do beside asking on time."""

    deadline_s: float
    tell_deadline: bool = True  # as x-gaugeway-deadline-s
    timeout_s: float = 0.0  # then a client gives up on an attempt; 0: it waits for ever
    leave_open: bool = False  # and does not close the connection, like a client behind a proxy
    retries: int = 0  # after a refusal or a timeout
    honour_retry_after: bool = False  # else at once, which is what makes a storm
    clients: int = 1  # each with connections of its own; to a loopback address, from an address of its own
    most_connections: int = 512  # of each
    drain_s: float = 10.0  # to wait for answers after the last arrival


class Generator:
    """`await run()` once."""

    def __init__(self, url: str, model: str, plan: Plan, workload: Workload, behaviour: Behaviour) -> None:
        where, clients = urlsplit(url), range(behaviour.clients)
        host, port = where.hostname or "127.0.0.1", where.port or 80
        self._plan, self._workload, self._behaviour = plan, workload, behaviour
        self._heads = [_head(where.netloc, model, name, behaviour) for name in plan.names]
        sources = [f"127.0.0.{2 + c % 250}" if host.startswith("127.") else "" for c in clients]
        self._pools = [Pool((host, port), source, behaviour.most_connections, self._answered) for source in sources]
        self._pending: deque[tuple[float, Attempt]] = deque()  # attempts by the time at which they are given up
        self._times = plan.times_s.tolist()
        self.outcomes = Outcomes.of(len(plan))
        self.next = 0  # the request to send next
        self._unsettled = len(plan)
        self._wakes = math.inf  # when the timer fires, on the monotonic clock
        self._over = False

    async def run(self) -> Outcomes:
        self._finished = asyncio.Event()
        await asyncio.gather(*(pool.open() for pool in self._pools))
        self._timer = Timer(asyncio.get_running_loop(), self._tick)
        cpu, self._start = time.process_time(), time.monotonic()
        self._tick()
        with suppress(TimeoutError):  # what has no answer by then is counted so
            async with asyncio.timeout((self._times[-1] if self._times else 0.0) + self._behaviour.drain_s):
                await self._finished.wait()
        found = self.outcomes
        found.cpu_s, found.wall_s = time.process_time() - cpu, time.monotonic() - self._start
        found.unasked = sum(pool.unasked for pool in self._pools)
        found.most_connections = max(pool.largest for pool in self._pools)
        self._close()
        return found

    def _close(self) -> None:
        self._over = True
        self._timer.close()
        for pool in self._pools:
            pool.close()

    def _tick(self) -> None:
        """Send all that is due, give up on what took too long, sleep until the next of either."""
        now = time.monotonic()
        due = now - self._start
        while self.next < len(self._times) and self._times[self.next] <= due:
            self.outcomes.sent_s[self.next] = due
            self._try(self.next, now)
            self.next += 1
        while self._pending and (self._pending[0][1].over or self._pending[0][0] <= now):
            self._give_up(self._pending.popleft()[1])
        arrival = self._start + self._times[self.next] if self.next < len(self._times) else math.inf
        self._wake(min(arrival, self._pending[0][0] if self._pending else math.inf))
        if not self._unsettled:
            self._finished.set()

    def _wake(self, when: float) -> None:
        self._wakes = when
        if when < math.inf:
            self._timer.at(when)

    def _try(self, request: int, now: float) -> None:
        """The first attempt at a request, or one more."""
        client = self._plan.clients[request]
        body = b'{"id":"%d",%b' % (request, self._workload.body(request)[1:])
        head = self._heads[self._plan.priorities[request]]
        attempt = Attempt(request, b"%b%d\r\n\r\n%b" % (head, len(body), body))
        self.outcomes.attempts[request] += 1
        if self._behaviour.timeout_s:
            until = now + self._behaviour.timeout_s
            self._pending.append((until, attempt))
            if until < self._wakes:
                self._wake(until)
        self._pools[client].ask(attempt)

    def _answered(self, attempt: Attempt, reply: Reply | None) -> None:
        if reply is not None:
            self._verify(attempt.request, reply)
        if attempt.over:
            self.outcomes.late_answers += reply is not None
            return
        attempt.over = True
        if reply is None:
            self._settle(attempt.request, BROKEN)
            return
        if reply.status != 200:
            self.outcomes.refusals[reply.status, _reason(reply)] += 1
        if reply.status not in REFUSED or not self._again(attempt.request, reply):
            self._settle(attempt.request, reply.status)

    def _verify(self, request: int, reply: Reply) -> None:
        """An answer belongs to its request by the id it names and by its value; a refusal may come before its id."""
        if reply.status != 200:
            return
        named = reply.header(b"x-request-id")
        if named not in (b"", b"%d" % request) or not self._workload.right(request, reply.body):
            self.outcomes.wrong.append((request, reply.body[:200]))

    def _give_up(self, attempt: Attempt) -> None:
        if attempt.over:
            return
        attempt.over = True
        if attempt.connection is not None and not self._behaviour.leave_open:
            attempt.connection.close()
        if not self._again(attempt.request, None):
            self._settle(attempt.request, GAVE_UP)

    def _again(self, request: int, refusal: Reply | None) -> bool:
        """Whether the client tries once more."""
        if self.outcomes.attempts[request] > self._behaviour.retries:
            return False
        asked = refusal.header(b"retry-after") if refusal and self._behaviour.honour_retry_after else b""
        wait_s = float(asked) if asked.isdigit() else 0.0
        asyncio.get_running_loop().call_later(wait_s, self._retry, request)
        return True

    def _retry(self, request: int) -> None:
        if not self._over:
            self._try(request, time.monotonic())

    def _settle(self, request: int, status: int) -> None:
        self.outcomes.status[request] = status
        self.outcomes.done_s[request] = time.monotonic() - self._start
        self._unsettled -= 1
        if not self._unsettled:
            self._finished.set()


def _head(host: str, model: str, priority: str, behaviour: Behaviour) -> bytes:
    """All of a head but the length of the body, which holds the id: heads that repeat cost a gateway less."""
    lines = [
        f"POST /v2/models/{model}/infer HTTP/1.1",
        f"host: {host}",
        "content-type: application/json",
        f"x-gaugeway-priority: {priority}",
    ]
    if behaviour.tell_deadline:
        lines.append(f"x-gaugeway-deadline-s: {behaviour.deadline_s:g}")
    return ("\r\n".join(lines) + "\r\ncontent-length: ").encode()


def _reason(reply: Reply) -> str:
    """The sentence of a refusal, without its numbers: they would make every refusal another one."""
    said = re.search(rb'"error":"(.*?)"[,}]', reply.body)
    return re.sub(r"\d+(\.\d+)?", "#", said[1].decode() if said else "")[:LONGEST_REASON]
