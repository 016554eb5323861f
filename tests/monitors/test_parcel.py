from pathlib import Path

from monitors.journal import Journal
from monitors.ledger import Sealed
from monitors.open_slots import Closed
from monitors.parcel import Delivery, Marks, Outbox, Parcel, Tally
from monitors.post import MAX_BYTES, MAX_PARCELS, first
from monitors.slot import Counts


def _outbox(path: Path) -> tuple[Journal, Outbox]:
    journal = Journal(path / "j.db", "60 s")
    return journal, Outbox(journal)


def _seal(outbox: Outbox, slot: int) -> int:
    outbox.add(Sealed(slot + 1, slot - 5, [Closed("m", "1", slot, Counts(slot))]))
    return outbox.pack()


def test_what_was_committed_waits_until_it_is_acknowledged(tmp_path: Path) -> None:
    journal, outbox = _outbox(tmp_path)
    journal.begin()
    for slot in (3, 4, 5):
        _seal(outbox, slot)
    journal.commit()
    outbox.acknowledge(Marks(5, -1))
    assert outbox.pending
    journal.begin()
    outbox.pack()
    journal.commit()
    journal.begin()
    _seal(outbox, 6)  # and is lost before it is committed
    journal.close()
    journal, again = _outbox(tmp_path)
    assert [found.marks for found in again.waiting] == [Marks(6, 0)]
    assert [found.rows for found in again.waiting] == [5]
    journal.close()


def test_a_mark_that_covers_only_the_slots_acknowledges_nothing(tmp_path: Path) -> None:
    journal, outbox = _outbox(tmp_path)
    _seal(outbox, 3)
    outbox.acknowledge(Marks(4, -3))
    assert len(outbox.waiting) == 1
    journal.close()


def test_what_nobody_takes_is_given_up_from_the_oldest_on_and_counted() -> None:
    journal = Journal(None, "60 s")
    outbox = Outbox(journal, max_parcels=2)
    assert [_seal(outbox, slot) for slot in (3, 4, 5, 6)] == [0, 0, 3, 4]
    assert [found.rows for found in outbox.waiting] == [5, 6]
    journal.close()


def test_what_waits_is_bounded_in_bytes_too_also_after_a_restart(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.db", "60 s")
    size = len(Counts(3).encode())
    for first_slot in (3, 6):
        outbox = Outbox(journal, max_bytes=3 * size)
        lost = [_seal(outbox, slot) for slot in range(first_slot, first_slot + 3)]
        assert lost == ([0, 0, 0] if first_slot == 3 else [3, 4, 5])
    assert [found.rows for found in outbox.waiting] == [6, 7, 8]
    journal.close()


def test_a_delivery_has_what_the_judge_takes_at_once_and_at_least_one_parcel() -> None:
    def parcels(*sizes: int) -> tuple[Parcel, ...]:
        return tuple(Parcel(Marks(k, k), (("m", "1", k, bytes(size)),)) for k, size in enumerate(sizes))

    def sent(*sizes: int) -> int:
        return len(first(Delivery("n", "60 s", parcels(*sizes), Tally())).parcels)

    assert sent(MAX_BYTES // 2, MAX_BYTES // 2, 1) == 2
    assert sent(MAX_BYTES + 1, 1) == 1 and sent() == 0
    assert sent(*[1] * 300) == MAX_PARCELS
