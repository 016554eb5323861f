"""A judge without its process and database: what stations send is handed to it, and a journal keeps its state."""

import itertools
from collections.abc import Sequence

import msgspec

from monitors.court import Court, Judged
from monitors.journal import Journal
from monitors.orders import Order
from monitors.parcel import Delivery, Receipt
from monitors.report import Report
from monitors.station import Station, meaning
from serving.config import Monitors
from serving.errors import Conflict
from tests.monitors.traffic import Registry


class Judge:
    def __init__(self, settings: Monitors, registry: Registry) -> None:
        self._settings, self._registry = settings, registry
        self._state = Journal(None, "state of the judge")
        self.orders: list[Order] = []
        self._court = self._seated()

    @property
    def judged(self) -> Judged:
        return self._court.judged

    def die(self) -> None:
        """A successor has what was written."""
        self._court = self._seated()

    def step(
        self, deliveries: Sequence[Delivery], live: Sequence[str], now: float, *, killed: bool = False
    ) -> list[Receipt | Conflict]:
        """`killed`: before what it did was written."""
        self._court.prepare(deliveries, now)
        self._state.begin()
        numbers = itertools.count(len(self.orders) + 1)
        given = [msgspec.structs.replace(order, number=next(numbers), time=now) for order in self._court.given]
        orders = [order for order in (*self.orders, *given) if order.number > self._court.ordered]
        receipts = self._court.step(deliveries, live, now, self._state, orders)
        if killed:
            self._state.sql.execute("ROLLBACK")
            self.die()
            return []
        self._state.commit()
        self.orders += given
        return receipts

    def _seated(self) -> Court:
        registry = self._registry
        court = Court(
            self._settings, meaning(self._settings), registry.manifest, registry.read, registry.store
        )  # fmt: skip
        self._state.begin()
        court.load(self._state)
        self._state.commit()
        return court


def settle(station: Station, judge: Judge, now: float) -> Report:
    """Commit, have all of it judged, as the only node; the report."""
    station.commit(at_once=True)
    (receipt,) = judge.step([station.delivery], [station.node], now)
    assert isinstance(receipt, Receipt)
    station.receive(receipt)
    return station.report(now, judge.judged)
