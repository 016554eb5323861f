"""Who judges, and what only the judge may write: the same on SQLite and on PostgreSQL."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest

from monitors.archive import FORGET_S, Archive
from monitors.orders import Order
from serving.database import Database, judge, orders, sidecars
from serving.errors import Conflict
from tests.postgres import Server

GONE_S = 60.0
Open = Callable[[str], Archive]


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    if request.param == "sqlite":
        return Database(f"sqlite:///{tmp_path}/r.db")
    server: Server = request.getfixturevalue("postgres")
    return Database(server.database(uuid4().hex))


def archive(database: Database, node: str) -> Archive:
    return Archive(database, node, f"{node}:1")


def _end_lease(database: Database) -> None:
    with database.writing(judge) as connection:
        connection.execute(judge.update().values(until=0.0))


def test_orders_are_read_in_their_order_behind_those_that_are_known(database: Database) -> None:
    for number in (1, 2, 3):
        with database.writing() as connection:
            row = {"model": "m", "version": "1", "kind": "reset", "by": "me", "why": f"reason {number}"}
            connection.execute(orders.insert().values(**row, time=float(number)))
    subject = archive(database, "a")
    with subject.judging(subject.beat(GONE_S).token) as records:
        found = subject.orders(records, 1)
    assert found == [Order(k, "reset", "m", "1", float(k), "me", f"reason {k}") for k in (2, 3)]


def test_orders_of_the_judge_itself_get_the_next_numbers_and_the_time(database: Database) -> None:
    subject = archive(database, "a")
    learned = Order(0, "learn", "m", "1", 0.0, "the monitors", "monitors.learn_blocks is 9", "d" * 64, "90 rows")
    token = subject.beat(GONE_S).token
    with pytest.raises(Conflict), subject.judging(token) as records:
        subject.give(records, [learned])
        raise Conflict("another judge")
    with subject.judging(token) as records:
        subject.give(records, [learned])
        (first,) = subject.orders(records, 0)
        subject.give(records, [learned])
        assert [order.number for order in subject.orders(records, 0)] == [first.number, first.number + 1]
    assert first == msgspec.structs.replace(learned, number=first.number, time=first.time)
    assert first.time > 1.7e9


def test_who_comes_first_judges_and_the_others_know_where(database: Database) -> None:
    a, b = archive(database, "a"), archive(database, "b")
    first = a.beat(GONE_S)
    assert (first.judge, first.address, first.peers) == ("a", "a:1", {})
    assert b.beat(GONE_S) == (first.token, "a", "a:1", {"a": "a:1"})
    assert a.beat(GONE_S) == (first.token, "a", "a:1", {"b": "b:1"})
    a.rise()
    second = b.beat(GONE_S)
    assert (second.judge, second.token) == ("b", first.token + 1)


def test_a_judge_that_was_taken_for_dead_writes_nothing_more(database: Database) -> None:
    a, b = archive(database, "a"), archive(database, "b")
    old = a.beat(GONE_S)
    with a.judging(old.token) as records:
        records.put("monitor", {("m", "1"): b"of a"})
    _end_lease(database)
    new = b.beat(GONE_S)
    with pytest.raises(Conflict, match=r"token 2 \(b\), this one had 1"), a.judging(old.token):
        pytest.fail("it was let in")
    with b.judging(new.token) as records:
        assert records.all("monitor") == {("m", "1"): b"of a"}
    assert a.beat(GONE_S).judge == "b"


def test_what_a_judge_began_and_did_not_end_is_not_there(database: Database) -> None:
    a = archive(database, "a")
    token = a.beat(GONE_S).token
    with pytest.raises(KeyError), a.judging(token) as records:
        records.put("monitor", {("m", "1"): b"half"})
        raise KeyError
    with a.judging(token) as records:
        assert records.all("monitor") == {}


def test_of_many_who_stand_at_once_one_judges(database: Database) -> None:
    def stand(number: int) -> str:
        subject = archive(database, str(number))
        try:
            return subject.beat(GONE_S).judge
        except Conflict:  # another was faster
            return subject.beat(GONE_S).judge

    for _ in range(3):
        with ThreadPoolExecutor(6) as pool:
            assert len(set(pool.map(stand, range(6)))) == 1
        _end_lease(database)


def test_values_are_put_replaced_and_removed(database: Database) -> None:
    a = archive(database, "a")
    token = a.beat(GONE_S).token
    many: dict[tuple[str | int, ...], bytes] = {("m", "1", k): b"%d" % k for k in range(1200)}
    with a.judging(token) as records:
        records.put("slot", many)
        records.put("slot", {("m", "1", 7): b"new"})
        records.put("other", {(): b"\x00\xff"})
        records.remove("slot", [("m", "1", k) for k in range(8, 1200)])
    with a.judging(token) as records:
        assert records.all("slot") == {("m", "1", k): b"%d" % k for k in range(7)} | {("m", "1", 7): b"new"}
        assert records.all("other") == {(): b"\x00\xff"}


def test_who_is_silent_is_not_live_and_in_the_end_forgotten(database: Database) -> None:
    a, b = archive(database, "a"), archive(database, "b")
    a.beat(GONE_S), b.beat(GONE_S)
    with a.judging(1) as records:
        assert a.live(records, GONE_S) == ["a", "b"]
    for silent_s, listed in ((GONE_S + 1, 2), (FORGET_S + 1, 1)):
        with database.writing(judge) as connection:
            heard_at = database.now(connection) - silent_s
            connection.execute(sidecars.update().where(sidecars.c.node == "b").values(heard_at=heard_at))
        assert "b" not in a.beat(GONE_S).peers
        archive(database, f"new {listed}").beat(GONE_S)
        with a.judging(1) as records:
            assert "b" not in a.live(records, GONE_S)
            assert ("b" in a.live(records, 1e9)) is (listed == 2)
