from pathlib import Path

from monitors.journal import Journal
from monitors.ledger import Sealed
from monitors.open_slots import Closed
from monitors.parcel import Marks, Outbox
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
