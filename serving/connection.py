"""The replica's end of the direct channel: frames of one gateway worker in, what the engine says out."""

import asyncio
import socket
import struct
import time
from typing import Protocol, cast

from serving import frames
from serving.arena import Offer, Window
from serving.channel import Fault, Greeting, write
from serving.errors import ChannelError, GaugewayError
from serving.frames import Frame, Kind, Splitter

_INFER = int(Kind.INFER)  # an enum's member is compared slowly
_PEER = struct.Struct("3i")  # process, user and group at the other end of a unix socket


class Engine(Protocol):
    """What computes."""

    connections: "set[Connection]"

    def submit(self, owner: "Connection", frame: Frame, now: float) -> None: ...
    def cancel(self, owner: "Connection", id: int | None = None) -> None: ...
    def greet(self, connection: "Connection") -> None: ...
    def wake(self) -> None: ...


class Connection(asyncio.BufferedProtocol):
    """One gateway worker, and the memory that it shares."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._splitter = Splitter()
        self._transport: asyncio.Transport | None = None
        self.window: Window | None = None
        self.failure: Exception | None = None  # why there is no window
        self.backlog_rows = 0  # that wait at the gateway for this replica

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._engine.connections.add(self)

    def get_buffer(self, hint: int) -> memoryview:
        return self._splitter.space()

    def buffer_updated(self, size: int) -> None:
        now = time.monotonic()
        try:
            for frame in self._splitter.received(size):
                if frame.kind == _INFER:
                    self._engine.submit(self, frame, now)
                else:
                    self._obey(frame)
        except ChannelError:
            self.close()
        self._engine.wake()

    def _obey(self, frame: Frame) -> None:
        if frame.kind == Kind.PING:
            self.backlog_rows = frame.id
            self.write(frames.head(Kind.PONG, frame.id))
        elif frame.kind == Kind.CANCEL:
            self._engine.cancel(self, frame.id)
        elif frame.kind == Kind.HELLO:
            if (offer := frames.read(frame.meta, Greeting).offer) is not None:
                self.window = self._open(offer)
            self._engine.greet(self)

    def _open(self, offer: Offer) -> Window | None:
        """The other end's memory, if it runs on this node, as this user, where this process sees it."""
        assert self._transport is not None
        try:
            peer = self._transport.get_extra_info("socket").getsockopt(
                socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size
            )
            return Window(offer, _PEER.unpack(peer)[0])
        except (OSError, OverflowError, ValueError) as error:
            self.failure = error
            return None

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = self.window = None
        self._engine.connections.discard(self)
        self._engine.cancel(self)

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def send(self, buffers: list[bytes | memoryview]) -> None:
        if self._transport is not None:
            write(self._transport, buffers, sum(map(len, buffers)))

    def fail(self, id: int, error: GaugewayError) -> None:
        self.write(frames.document(Kind.ERROR, Fault(type(error).__name__, str(error)), id))

    def release(self, id: int) -> None:
        """The end of a cancelled job: an ERROR that says nothing, since nobody reads it."""
        self.write(frames.head(Kind.ERROR, id))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
