"""The direct channel between a gateway worker and a replica: the gateway's end.

Bytes go over a unix socket on the same node, over TCP to another one. A lost connection is the fastest notice of death
there is: every call in flight learns of it at once. A replica that is silent for `SUSPECT_S` gets no new work, after
`DEAD_S` it is dead; its late answers are never read, because the connection is gone.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import msgspec

from serving import frames
from serving.arena import Arena, Offer
from serving.eagerness import Choice
from serving.errors import (
    BadRequest,
    ChannelError,
    DeadlineExceeded,
    GaugewayError,
    ModelFailure,
    Overloaded,
    ReplicaLost,
)
from serving.frames import Frame, Kind, Layouts, Splitter
from serving.protocol import Array
from serving.references import refer
from serving.trust import Trust, Visit

SUSPECT_S, DEAD_S, BEAT_S = 1.0, 3.0, 0.25
AWAKE_S = 150e-6
LARGE = 1 << 16  # bytes from which buffers are handed to the kernel one by one rather than joined
_ERRORS: dict[str, type[GaugewayError]] = {
    kind.__name__: kind for kind in (BadRequest, ModelFailure, DeadlineExceeded, Overloaded)
}

State = Literal["ready", "suspect", "draining", "lost"]


class Hello(msgspec.Struct, frozen=True):
    """What a replica says of itself when a connection opens."""

    model: str
    version: str
    digest: str
    replica: str
    protocol: int = frames.VERSION
    shares: bool = False  # it reads the memory that was offered
    pool: str = ""
    max_batch_rows: int = 0  # of its runs
    fixed_s: float = 0.0  # of a run, and
    row_s: float = 0.0  # of each row in it, measured when it started


class Greeting(msgspec.Struct, frozen=True, array_like=True):
    """What a gateway says first."""

    protocol: int = frames.VERSION
    offer: Offer | None = None


class Fault(msgspec.Struct, frozen=True):
    kind: str
    message: str


@dataclass(slots=True)
class Result:
    """Outputs in the order of the signature (rows of all joined requests), and what the replica measured."""

    outputs: list[Array]
    queue_s: float
    infer_s: float


Outcome = Result | GaugewayError


@dataclass(slots=True)
class Call:
    """A batch on its way: `done` is called exactly once, with a result or with why there is none."""

    meta: bytes
    buffers: list[memoryview | bytes]
    rows: int
    deadline: float  # on the clock of time.monotonic, which is the loop's
    done: Callable[["Link", Outcome], None]
    priority: int = 0
    id: int = 0  # given by the link


class Link(asyncio.BufferedProtocol):
    """The gateway's end of one connection to one replica. Buffers in `arena` are read there, if the replica can.

    They are kept until the replica has answered, also when nobody waits for the answer: it may still read them.
    `host`: where the replica is, if that is another node; then the link is `far`.
    """

    def __init__(self, changed: Callable[["Link"], None], arena: Arena | None = None, host: str = "") -> None:
        self._changed, self._arena, self.host, self.far = changed, arena, host, bool(host)
        self._splitter, self._layouts = Splitter(), Layouts()
        self._calls: dict[int, Call] = {}
        self._forgotten: dict[int, list[memoryview | bytes]] = {}
        self._next = 0
        self._choice = Choice()
        self._lone, self._began = 0, 0.0  # the call that was sent while no other was under way
        self._loop = asyncio.get_running_loop()
        self._heard = self._due = self._loop.time()
        self._beat: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self.hello: Hello | None = None
        self.state: State = "suspect"
        self.load = 0  # rows waiting at the replica when it last answered
        self.backlog: Callable[[], int] = lambda: 0  # rows that wait here for this replica
        self.dismissed = False  # it said goodbye: its end is no death

    @property
    def inflight(self) -> int:
        return len(self._calls)

    @property
    def rows(self) -> list[int]:
        """Of each batch that is under way."""
        return [call.rows for call in self._calls.values()]

    def send(self, call: Call) -> None:
        """Hand over a batch; only while the state is `ready`."""
        assert self._transport is not None
        call.id = self._next = self._next + 1
        self._lone = 0 if self._calls else call.id
        self._calls[call.id] = call
        left_us = max(1, int((call.deadline - self._loop.time()) * 1e6))
        buffers, references = call.buffers, 0
        size = sum(map(len, buffers))
        if size >= LARGE and self._arena is not None and self.hello is not None and self.hello.shares:
            buffers, references = refer(buffers, self._arena)
            size = sum(map(len, buffers))
        start = frames.head(Kind.INFER, call.id, len(call.meta), size, call.priority, left_us, references) + call.meta
        write(self._transport, [start, *buffers], size)
        if self._lone:
            self._wait()

    def _wait(self) -> None:
        """For the answer to the one call that is under way, awake or asleep."""
        self._began = time.perf_counter()
        if self._choice.awake:
            self._loop.call_soon(self._stay_awake)

    def _stay_awake(self) -> None:
        if self._lone and time.perf_counter() - self._began < AWAKE_S:
            self._loop.call_soon(self._stay_awake)

    def forget(self, call: Call) -> None:
        """Nobody waits for this call any more: it is never `done`, and the replica is free of it at once."""
        if self._transport is not None and self._calls.pop(call.id, None) is not None:
            self._lone = 0
            self._forgotten[call.id] = call.buffers
            self._transport.write(frames.head(Kind.CANCEL, call.id))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        offer = self._arena.offer if self._arena is not None else None
        self._transport.write(frames.document(Kind.HELLO, Greeting(offer=offer)))
        self._schedule()

    def get_buffer(self, hint: int) -> memoryview:
        return self._splitter.space()

    def buffer_updated(self, size: int) -> None:
        self._heard = self._loop.time()
        try:
            for frame in self._splitter.received(size):
                self._take(frame)
        except ChannelError:
            if self._transport is not None:
                self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        if self._beat is not None:
            self._beat.cancel()
        self.state, self._transport, self._lone = "lost", None, 0
        calls, self._calls = self._calls, {}
        self._forgotten.clear()
        who = f"replica {self.hello.replica} of {self.hello.model} {self.hello.version}" if self.hello else "a replica"
        self._changed(self)
        for call in calls.values():
            call.done(self, ReplicaLost(f"{who} was lost with the request in flight"))

    def _take(self, frame: Frame) -> None:
        if frame.kind == Kind.RESULT or frame.kind == Kind.ERROR:
            if frame.id == self._lone:
                self._lone = 0
                self._choice.took(time.perf_counter() - self._began)
            if (call := self._calls.get(frame.id)) is not None:
                outcome = self._result(frame) if frame.kind == Kind.RESULT else self._error(frame)
                del self._calls[frame.id]  # now: a call whose answer cannot be read is told when the connection ends
                call.done(self, outcome)
            else:
                self._forgotten.pop(frame.id, None)
        elif frame.kind == Kind.HELLO:
            self.hello = frames.read(frame.meta, Hello)
            self._become("ready")
        elif frame.kind == Kind.GOAWAY:
            self.dismissed = True
            self._become("draining")

    def _result(self, frame: Frame) -> Result:
        queue_s, infer_s, self.load, meta = frames.unpack_timing(frame.meta)
        return Result(frames.from_bytes(self._layouts.decode(meta), frame.body), queue_s, infer_s)

    def _error(self, frame: Frame) -> GaugewayError:
        fault = frames.read(frame.meta, Fault)
        return _ERRORS.get(fault.kind, ModelFailure)(fault.message)

    def _become(self, state: State) -> None:
        if self.state != state:
            self.state = state
            self._changed(self)

    def _check(self) -> None:
        """Every BEAT_S: ask for a sign of life, and judge by how long there was none."""
        if self._transport is None:
            return
        now = self._loop.time()
        self._heard += max(0.0, now - self._due)  # while this process itself stood still, it heard nobody
        silent_s = now - self._heard
        if silent_s > DEAD_S:
            self._transport.abort()
            return
        if self.hello is not None and self.state != "draining":
            self._become("suspect" if silent_s > SUSPECT_S else "ready")
        self._transport.write(frames.head(Kind.PING, self.backlog()))
        self._schedule()

    def _schedule(self) -> None:
        self._due = self._loop.time() + BEAT_S
        self._beat = self._loop.call_at(self._due, self._check)


async def connect(path: str | Path, changed: Callable[[Link], None], arena: Arena | None = None) -> Link:
    """Open a link to the replica that listens at a unix socket. Raises OSError when nobody does."""
    loop = asyncio.get_running_loop()
    _, link = await loop.create_unix_connection(lambda: Link(changed, arena), str(path))
    return link


async def connect_far(address: str, trust: Trust, changed: Callable[[Link], None]) -> Link:
    """Open a link to the replica of another node, at ``host:port``. Raises OSError, or Untrusted.

    Memory is not shared with another machine, so there is no arena.
    """
    host, _, port = address.rpartition(":")
    link = Link(changed, host=host)
    loop = asyncio.get_running_loop()
    transport, visit = await loop.create_connection(
        lambda: Visit(trust, link), host.strip("[]"), int(port), ssl=trust.client
    )
    try:
        await visit.entered
    except BaseException:  # cancelled, say
        transport.abort()
        raise
    return link


def write(transport: asyncio.Transport, buffers: list[bytes | memoryview], size: int) -> None:
    """Buffers of about `size` bytes in all."""
    if size < LARGE:
        transport.write(b"".join(buffers))
    else:
        transport.writelines(buffers)
