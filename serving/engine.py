"""What a replica has to compute: batches of all connections in, runs, results out.

Frames that wait for each other's run are merged into one when rows are independent. Short models run in the loop
(a hand-over to a thread costs more than they do), long ones in a thread, by measured time.
"""

import asyncio
import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec

from serving import frames
from serving.attempt import Attempt, Checked, Model
from serving.channel import Hello
from serving.connection import Connection
from serving.errors import DeadlineExceeded, GaugewayError, Overloaded
from serving.frames import Frame, Kind, Layouts
from serving.manifest import Manifest
from serving.meter import Meter
from serving.protocol import Array
from serving.references import resolve
from serving.speed import UNKNOWN, Line
from serving.trust import Door, Trust, listener

log = logging.getLogger("gaugeway.engine")

EARLY_S = 0.002  # uvloop's timers count milliseconds
AGAIN_S = 0.05  # an interruption that came before the model had begun is lost, so it is repeated
INLINE_S = 0.0005  # a model whose best recent run is shorter runs in the loop,
LONG_S = 0.02  # unless one of them took this long: it would keep the loop from its connections
RECENT = 8  # runs; the best of them, since in a thread a run also waits for Python's lock


class Pace:
    """Whether the next run is short enough for the loop, by the last `RECENT` runs.

    >>> pace = Pace(1.0)
    >>> for run_s in [0.0001] * RECENT:
    ...     pace.took(run_s)
    >>> pace.inline
    True
    """

    def __init__(self, expected_s: float) -> None:
        self._since_short = self._since_long = RECENT
        self.took(expected_s)

    @property
    def inline(self) -> bool:
        return self._since_short < RECENT <= self._since_long

    def took(self, run_s: float) -> None:
        self._since_short = 0 if run_s < INLINE_S else self._since_short + 1
        self._since_long = 0 if run_s >= LONG_S else self._since_long + 1


@dataclass(slots=True, eq=False)
class Job:
    """One INFER frame that waits for its run."""

    owner: Connection
    id: int
    rows: int
    key: object  # jobs of one key may share a run
    requests: list[list[Array]]  # the inputs of each request in it
    arrived: float
    deadline: float  # 0: none
    cancelled: bool = False  # nobody waits for it any more


class Engine:
    """Runs the jobs of all connections, one run at a time; `max_queue_rows` bounds what waits."""

    def __init__(
        self,
        manifest: Manifest,
        model: Model,
        *,
        replica: str = "",
        pool: str = "",
        line: Line = UNKNOWN,
        max_batch_rows: int = 256,
        max_queue_rows: int = 8192,
        expected_s: float = 0.0,
    ) -> None:
        self.hello = Hello(
            manifest.model, manifest.version, manifest.digest, replica, pool=pool, max_batch_rows=max_batch_rows,
            fixed_s=line.fixed_s, row_s=line.row_s,
        )  # fmt: skip
        self._outputs, self._model = manifest.signature.outputs, model
        self._independent, self._checked = manifest.rows_independent, Checked(manifest, model)
        self._max_batch_rows, self._max_queue_rows = max_batch_rows, max_queue_rows
        self._jobs: deque[Job] = deque()
        self._waiting_rows = self._running_rows = 0
        self._running: list[Job] = []  # in the thread
        self._due = math.inf  # when the run in the thread should have ended
        self._timer: asyncio.TimerHandle | None = None  # its interruption
        self._pace = Pace(expected_s)
        self._scheduled = self._draining = False
        self.connections: set[Connection] = set()
        self._layouts = Layouts()
        self._thread = ThreadPoolExecutor(1, "run")
        self._server: asyncio.Server | None = None
        self._far: asyncio.Server | None = None
        self.meter = Meter(time.monotonic())
        self._told = False  # that a gateway's memory cannot be read

    @property
    def load(self) -> int:
        """Rows that wait or run."""
        return self._waiting_rows + self._running_rows

    @property
    def backlog_rows(self) -> int:
        """Rows that wait for this replica, here and at the gateways. May be asked in another thread."""
        return self._waiting_rows + sum(connection.backlog_rows for connection in list(self.connections))

    @property
    def overdue_s(self) -> float:
        """How long a run has gone on that should have ended: one long kernel cannot be interrupted."""
        return max(0.0, time.monotonic() - self._due)

    async def listen(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._loop = asyncio.get_running_loop()
        # Referenced for as long as it listens: an asyncio server closes when it is collected.
        self._server = await self._loop.create_unix_server(lambda: Connection(self), str(path))
        os.chmod(path, 0o600)

    async def listen_far(self, host: str, trust: Trust, refused: Callable[[], None]) -> int:
        """For gateways of other nodes, on a port that is free, which is returned; after `listen`.

        `refused` is called for each connection that does not prove what it must.
        """
        sock = listener(host)
        door = Door(trust, lambda: Connection(self), refused)
        self._far = await self._loop.create_server(door, sock=sock, ssl=trust.server)
        port: int = sock.getsockname()[1]
        return port

    async def drain(self, timeout_s: float) -> bool:
        """Say GOAWAY, finish what is here, close. False when work was left at the timeout."""
        self._draining = True
        for connection in list(self.connections):
            connection.write(frames.head(Kind.GOAWAY))
        until = self._loop.time() + timeout_s
        # Gateways stop sending once they have read GOAWAY; what they sent before arrives within a beat.
        quiet_since = self._loop.time()
        while self._loop.time() < until and self._loop.time() - quiet_since < 0.2:
            quiet_since = self._loop.time() if self.load else quiet_since
            await asyncio.sleep(0.02)
        self.close()
        return not self.load

    def greet(self, connection: Connection) -> None:
        if connection.failure and not self._told:
            log.warning(
                "large tensors come through the socket, a gateway's memory cannot be read: %s", connection.failure
            )
            self._told = True
        shares = connection.window is not None
        connection.write(frames.document(Kind.HELLO, msgspec.structs.replace(self.hello, shares=shares)))
        if self._draining:
            connection.write(frames.head(Kind.GOAWAY))

    def close(self) -> None:
        for server in (self._server, self._far):
            if server is not None:
                server.close()
        for connection in list(self.connections):
            connection.close()
        self._thread.shutdown(wait=False)

    def submit(self, owner: Connection, frame: Frame, now: float) -> None:
        """Take a batch that was read at `now`. Raises ChannelError."""
        job = self._job(owner, frame, now)
        if self._waiting_rows + job.rows > self._max_queue_rows and self._jobs:
            job.owner.fail(job.id, Overloaded(f"{self._waiting_rows} rows wait already"))
            return
        self._jobs.append(job)
        self._waiting_rows += job.rows
        self.meter.asked = now

    def cancel(self, owner: Connection, id: int | None = None) -> None:
        """Nobody waits for this job of a connection any more, or for any: it is not started, or its run is ended."""
        waiting = [job for job in self._jobs if job.owner is owner and id in (None, job.id)]
        for job in waiting:
            self._jobs.remove(job)
            self._waiting_rows -= job.rows
            owner.release(job.id)
        running = [job for job in self._running if job.owner is owner and id in (None, job.id)]
        for job in running:
            job.cancelled = True
        if running:
            self._watch()

    def wake(self) -> None:
        """After a read. What the only gateway had to say is all there is; of several, others may speak in this turn."""
        if self._jobs and not self._running_rows:
            if len(self.connections) == 1:
                self._start()
            else:
                self._soon()

    def _soon(self) -> None:
        """Start a run after this turn of the loop, so that what came together runs together."""
        if self._jobs and not self._running_rows and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._start)

    def _start(self) -> None:
        self._scheduled = False
        started = time.monotonic()  # uvloop's own clock counts milliseconds
        if self._running_rows or not (group := self._next_group(started)):
            return
        requests, rows = _requests(group), sum([job.rows for job in group])
        self._running_rows = rows or 1
        self.meter.began(started)
        if self._pace.inline:
            self._finish(group, self._checked.attempt(requests, rows), started)
        else:
            self._running = group
            run = self._loop.run_in_executor(self._thread, self._checked.attempt, requests, rows)
            run.add_done_callback(lambda done: self._ran(done.result(), started))
            self._watch()

    def _watch(self) -> None:
        """End the run when nobody waits for it any more, so that the replica is free for others."""
        if self._timer is not None:
            self._timer.cancel()
        awaited = [job.deadline or math.inf for job in self._running if not job.cancelled]
        self._due = max(awaited, default=self._due)
        left_s = max(0.0, self._due - time.monotonic()) if awaited else 0.0
        self._timer = self._loop.call_later(left_s, self._interrupt) if left_s < math.inf else None

    def _interrupt(self) -> None:
        self._model.interrupt()
        self._timer = self._loop.call_later(AGAIN_S, self._interrupt)

    def _ran(self, attempt: Attempt, started: float) -> None:
        group, self._running = self._running, []
        due, self._due = self._due, math.inf
        if self._timer is not None:
            self._timer.cancel()
        if isinstance(attempt.outcome, GaugewayError) and time.monotonic() > due - EARLY_S:  # ended, it did not fail
            attempt = Attempt(DeadlineExceeded("the deadline passed during the run"), attempt.infer_s)
        self._finish(group, attempt, started)

    def _next_group(self, now: float) -> list[Job]:
        """The oldest jobs of one key that fit into a run; what is past its deadline is answered, not run."""
        group: list[Job] = []
        rows = 0
        while self._jobs:
            job = self._jobs[0]
            if group and (job.key is None or job.key != group[0].key or rows + job.rows > self._max_batch_rows):
                break
            self._jobs.popleft()
            self._waiting_rows -= job.rows
            if job.deadline and now > job.deadline:
                job.owner.fail(job.id, DeadlineExceeded("the deadline passed while the request waited for its run"))
                continue
            group.append(job)
            rows += job.rows
        return group

    def _finish(self, group: list[Job], attempt: Attempt, started: float) -> None:
        outputs, infer_s = attempt.outcome, attempt.infer_s
        self.meter.ended(self._running_rows, infer_s)
        self._pace.took(infer_s)
        self._running_rows = 0
        if not isinstance(outputs, GaugewayError):
            self._answer(group, outputs, infer_s, started)
        else:
            self._fail(group, outputs)
        self._soon()

    def _answer(self, group: list[Job], outputs: list[Array], infer_s: float, started: float) -> None:
        at = 0
        for job in group:
            own = outputs if len(group) == 1 else [output[at : at + job.rows] for output in outputs]
            at += job.rows
            if job.cancelled:
                job.owner.release(job.id)
            else:
                job.owner.send(self._result(job.id, own, started - job.arrived, infer_s))

    def _fail(self, group: list[Job], error: GaugewayError) -> None:
        """Of several jobs one is to blame: each gets a run of its own."""
        for job in reversed(group):
            if job.cancelled:
                job.owner.release(job.id)
            elif len(group) == 1:
                job.owner.fail(job.id, error)
            else:
                job.key = None
                self._jobs.appendleft(job)
                self._waiting_rows += job.rows

    def _result(self, id: int, outputs: list[Array], queue_s: float, infer_s: float) -> list[bytes | memoryview]:
        """The buffers of a RESULT frame."""
        buffers = [frames.to_bytes(s.datatype, o) for s, o in zip(self._outputs, outputs, strict=True)]
        sizes = tuple([len(buffer) for buffer in buffers])
        layout = self._layouts.encode(self._outputs, tuple([o.shape for o in outputs]), sizes)
        return [frames.result(id, layout, sum(sizes), queue_s, infer_s, self._waiting_rows), *buffers]

    def _job(self, owner: Connection, frame: Frame, now: float) -> Job:
        layout = self._layouts.decode(frame.meta)
        if frame.references:
            requests = resolve(layout, frame, owner.window)
        else:
            requests = [frames.from_bytes(layout, frame.body)]
        return Job(
            owner,
            frame.id,
            layout.rows,
            layout.key if self._independent else None,
            requests,
            now,
            now + frame.deadline_us / 1e6 if frame.deadline_us else 0.0,
        )


def _requests(group: list[Job]) -> list[list[Array]]:
    return group[0].requests if len(group) == 1 else [inputs for job in group for inputs in job.requests]
