from monitors.journal import Journal
from monitors.open_slots import OpenSlots
from monitors.slot import LabelCounts, decode_labels


def test_what_is_saved_is_what_is_open_whenever_slots_close_or_open_again() -> None:
    journal = Journal(None, "test")
    slots = OpenSlots("s", LabelCounts, decode_labels)
    for slot in (1, 2, 3):
        slots.at(("m", "1", slot)).predictions += slot
    slots.save(journal)
    assert [closed.slot for closed in slots.close(before=3)] == [1, 2]
    slots.at(("m", "1", 2)).predictions += 9
    slots.drop("m", "2")
    slots.save(journal)
    again = OpenSlots("s", LabelCounts, decode_labels)
    again.load(journal)
    assert [(c.slot, c.counts.predictions) for c in again.close(before=99)] == [(2, 9), (3, 3)]
    assert len(again) == 0
