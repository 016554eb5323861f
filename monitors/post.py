"""Brings what this node sealed to the cluster's judge, and is the judge while it holds the seat.

A thread of its own: the database and the other nodes may be slow or away, and counting goes on meanwhile. What is
not acknowledged is kept by `Outbox` and sent again.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import accumulate

import msgspec

from monitors.archive import Archive, Roll
from monitors.court import Court, Judged
from monitors.parcel import Delivery, Marks, Parcel, Receipt
from serving.errors import GaugewayError, NotReady, Unavailable

POST_S = 0.5  # between two looks for something to send
BEAT_S = 2.0  # between two signs of life; five of them are a lease
MAX_WAITING = 1024  # deliveries of other nodes
MAX_PARCELS, MAX_BYTES = 256, 2**24  # of one delivery
SLOTS = "/slots"

log = logging.getLogger("gaugeway.monitors")
Send = Callable[[str, str, bytes], bytes]  # address, path, body -> answer; raises Unavailable


@dataclass
class Delivered:
    """A delivery of another node, which waits to be stored."""

    delivery: Delivery
    receipt: "Future[Receipt]" = field(default_factory=Future)


class Post:
    """`run` until `stop`. `judged` is what this node judged, None while another one does."""

    def __init__(
        self,
        archive: Archive,
        convene: Callable[[], Court],
        send: Send,
        outgoing: Callable[[], Delivery],
        receive: Callable[[Receipt], None],
        alive: Callable[[], bool],
        gone_s: float,
    ) -> None:
        self._archive, self._convene, self._send = archive, convene, send
        self._outgoing, self._receive, self._alive, self._gone_s = outgoing, receive, alive, gone_s
        self._waiting: queue.Queue[Delivered] = queue.Queue(MAX_WAITING)
        self._court: Court | None = None
        self._roll: Roll | None = None
        self._sent = Marks()
        self._beat_at = self._done_at = -BEAT_S  # monotonic
        self._spoke_at = time.monotonic()
        self._wake, self._stopping = threading.Event(), False
        self._complaint = ""
        self._thread = threading.Thread(target=self._run, name="post", daemon=True)

    @property
    def judged(self) -> Judged | None:
        court = self._court
        return court.judged if court else None

    @property
    def judge(self) -> str:
        """Address of the node that judges; empty while nobody is known to."""
        return self._roll.address if self._roll else ""

    @property
    def peers(self) -> dict[str, str]:
        """Addresses of the other nodes that are not gone, by name."""
        return self._roll.peers if self._roll else {}

    @property
    def silent_s(self) -> float:
        """Since the judge last stored or acknowledged something."""
        return time.monotonic() - self._spoke_at

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        """The first look is over when this returns, so that verdicts are known as soon as anybody can ask."""
        self.turn()
        self._thread.start()

    def wake(self) -> None:
        """There is something to send."""
        self._wake.set()

    def stop(self) -> None:
        """Bring away what is left, and leave the seat."""
        self._stopping = True
        self._wake.set()
        self._thread.join()

    def take(self, delivery: Delivery) -> "Future[Receipt]":
        """From another node. Raises NotReady when too many wait."""
        delivered = Delivered(delivery)
        try:
            self._waiting.put_nowait(delivered)
        except queue.Full:
            raise NotReady(f"{MAX_WAITING} deliveries wait already") from None
        self._wake.set()
        return delivered.receipt

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(POST_S)
            self._wake.clear()
            self.turn()
        self.turn()
        try:
            self._archive.rise()
        except Unavailable as error:
            log.warning("%s; the seat stays taken for a while", error)

    def turn(self) -> None:
        """One look: tell that this node is alive, and bring away what waits, here or to the judge."""
        waiting = self._taken()
        try:
            if self._alive():
                self._turn(waiting)
            self._complaint = ""
        except GaugewayError as error:  # whatever was done in memory and not written is read anew
            self._court, self._sent, self._beat_at = None, Marks(), -BEAT_S
            if self._complaint != str(error):
                self._complaint = str(error)
                log.warning("%s; what was sealed waits", error)
        for delivered in waiting:
            if not delivered.receipt.done():
                delivered.receipt.set_exception(NotReady(self._complaint or "this sidecar is not the judge"))

    def _turn(self, waiting: list[Delivered]) -> None:
        now = time.monotonic()
        if self._roll is None or now - self._beat_at >= BEAT_S:
            self._beat_at = now
            self._roll = self._archive.beat(self._gone_s)
        own = first(self._outgoing())
        due = now - self._done_at >= BEAT_S or (bool(own.parcels) and own.parcels[-1].marks != self._sent)
        if self._roll.judge == own.node:
            if due or waiting or self._court is None:
                self._judge(self._roll, own, waiting)
                self._done(own)
            return
        self._court = None
        if due and self._roll.address:
            self._receive(self._deliver(self._roll.address, own))
            self._done(own)

    def _judge(self, roll: Roll, own: Delivery, waiting: list[Delivered]) -> None:
        court = self._court or self._seated(roll)
        deliveries = [own, *(delivered.delivery for delivered in waiting)]
        court.prepare(deliveries, time.time())
        with self._archive.judging(roll.token) as records:
            self._archive.give(records, court.given)
            orders = self._archive.orders(records, court.ordered)
            receipts = court.step(deliveries, self._archive.live(records, self._gone_s), time.time(), records, orders)
        self._court = court
        for take, answer in zip([self._receive, *(_settle(d) for d in waiting)], receipts, strict=True):
            if isinstance(answer, Receipt):
                take(answer)
            else:
                log.warning("%s", answer)

    def _seated(self, roll: Roll) -> Court:
        court = self._convene()
        with self._archive.judging(roll.token) as records:
            if not court.load(records):
                log.info("the verdicts begin anew: nothing was judged with these slots before")
        log.info("this sidecar judges now, with token %d", roll.token)
        return court

    def _deliver(self, address: str, own: Delivery) -> Receipt:
        answer = self._send(address, SLOTS, msgspec.msgpack.encode(own))
        try:
            return msgspec.msgpack.decode(answer, type=Receipt)
        except msgspec.DecodeError as error:
            raise Unavailable(f"the judge at {address} answered what is no receipt: {error}") from None

    def _done(self, own: Delivery) -> None:
        self._done_at = self._spoke_at = time.monotonic()
        if own.parcels:
            self._sent = own.parcels[-1].marks

    def _taken(self) -> list[Delivered]:
        found: list[Delivered] = []
        while not self._waiting.empty():
            found.append(self._waiting.get_nowait())
        return [one for one in found if one.receipt.set_running_or_notify_cancel()]


def _settle(delivered: Delivered) -> Callable[[Receipt], None]:
    return delivered.receipt.set_result


def first(delivery: Delivery) -> Delivery:
    """With the oldest parcels alone, as many as the judge takes at once, or one that is larger."""
    parcels: tuple[Parcel, ...] = delivery.parcels[:MAX_PARCELS]
    fit = sum(size <= MAX_BYTES for size in accumulate(parcel.size for parcel in parcels))
    return msgspec.structs.replace(delivery, parcels=parcels[: max(1, fit)])
