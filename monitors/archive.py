"""The sidecars of the cluster in the registry's database: who is alive, who judges, and what the judge knows.

One row says who judges, and until when, by the database's clock. Its token rises with every change of hands and is
checked, under the row's lock, in every transaction of the judge: who was taken for dead and was not writes nothing
more. SQLite does for sidecars of one machine, PostgreSQL for all.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import msgspec
import sqlalchemy as sa

from monitors.journal import Key
from monitors.orders import Order
from serving.database import Database, evidence, generation, judge, orders, sidecars
from serving.errors import Conflict

LEASE_S = 10.0  # without a word from the judge another sidecar takes the seat
FORGET_S = 30 * 86400.0  # after which a node that is gone is no longer listed
_MANY = 500  # rows of one statement


class Roll(NamedTuple):
    """Who judges, and where its sidecar takes deliveries; the addresses of the other sidecars, by node."""

    token: int
    judge: str
    address: str
    peers: dict[str, str]


class Archive:
    """As one sidecar sees it; `node` names it and `address` is where the others reach it."""

    def __init__(self, database: Database, node: str, address: str = "") -> None:
        self._database, self._node, self.address = database, node, address

    def beat(self, within_s: float) -> Roll:
        """Tell that this sidecar is alive; who judges, this one if nobody else does; who was heard `within_s`."""
        with self._database.writing(None) as connection:
            now = self._database.now(connection)
            self._enrol(connection, now)
            peers = self._heard(connection, within_s)
            seat = connection.execute(sa.select(judge)).one()
        address = peers.pop(self._node, "")
        if seat.node != self._node and seat.until > now:
            return Roll(seat.token, seat.node, peers.get(seat.node, ""), peers)
        return Roll(self._sit(), self._node, address, peers)

    def rise(self) -> None:
        """Leave the seat to whoever comes next."""
        with self._database.writing(judge) as connection:
            connection.execute(judge.update().where(judge.c.node == self._node).values(until=0.0))

    def _sit(self) -> int:
        """Take the seat or keep it for another while; the token. Raises Conflict when another one was faster."""
        with self._database.writing(judge) as connection:
            now, seat = self._database.now(connection), connection.execute(sa.select(judge)).one()
            if seat.node != self._node and seat.until > now:
                raise Conflict(f"{seat.node} has just become the judge")
            token: int = seat.token + (seat.node != self._node)
            connection.execute(judge.update().values(token=token, node=self._node, until=now + LEASE_S))
        return token

    @contextmanager
    def judging(self, token: int) -> "Iterator[Records]":
        """A transaction of the judge. Raises Conflict when another sidecar took the seat."""
        with self._database.writing(judge) as connection:
            found = connection.execute(sa.select(judge.c.token, judge.c.node)).one()
            if tuple(found) != (token, self._node):
                raise Conflict(f"the seat of the judge has token {found.token} ({found.node}), this one had {token}")
            yield Records(connection)

    def live(self, records: "Records", within_s: float) -> list[str]:
        """Nodes that were heard within so many seconds, as of the transaction of `records`."""
        return sorted(self._heard(records.connection, within_s))

    def orders(self, records: "Records", after: int) -> list[Order]:
        """Those with a higher number than `after`, in their order, as of the transaction of `records`."""
        query = sa.select(orders).where(orders.c.number > after).order_by(orders.c.number)
        rows = records.connection.execute(query)
        return [Order(**{name: row[name] for name in Order.__struct_fields__}) for row in rows.mappings()]

    def give(self, records: "Records", given: Iterable[Order]) -> None:
        """Write orders of the judge's own, with the next numbers and the time."""
        for order in given:
            records.connection.execute(sa.select(generation).with_for_update())  # so that numbers rise as they are seen
            row = msgspec.structs.asdict(order) | {"time": self._database.now(records.connection), "replaced": ""}
            records.connection.execute(orders.insert().values({name: row[name] for name in row if name != "number"}))

    def _heard(self, connection: sa.Connection, within_s: float) -> dict[str, str]:
        since = self._database.now(connection) - within_s
        query = sa.select(sidecars.c.node, sidecars.c.address).where(sidecars.c.heard_at >= since)
        return {str(node): str(address) for node, address in connection.execute(query)}

    def _enrol(self, connection: sa.Connection, now: float) -> None:
        values = {"address": self.address, "heard_at": now}
        if not connection.execute(sidecars.update().where(sidecars.c.node == self._node).values(**values)).rowcount:
            connection.execute(sidecars.insert().values(node=self._node, **values))
            connection.execute(sidecars.delete().where(sidecars.c.heard_at < now - FORGET_S))


class Records:
    """Values by kind and key within one transaction, as `monitors.journal.State`."""

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection

    def put(self, kind: str, values: dict[Key, bytes]) -> None:
        self.remove(kind, values)
        rows = [{"kind": kind, "key": json.dumps(key), "value": value} for key, value in values.items()]
        if rows:
            self.connection.execute(evidence.insert(), rows)

    def remove(self, kind: str, keys: Iterable[Key]) -> None:
        for part in _parts([json.dumps(key) for key in keys]):
            self.connection.execute(evidence.delete().where(evidence.c.kind == kind, evidence.c.key.in_(part)))

    def all(self, kind: str) -> dict[Key, bytes]:
        found = self.connection.execute(sa.select(evidence.c.key, evidence.c.value).where(evidence.c.kind == kind))
        return {tuple(json.loads(key)): bytes(value) for key, value in found}


def _parts(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), _MANY):
        yield keys[start : start + _MANY]
