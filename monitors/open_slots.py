"""Slots that may still change, of all versions of a node, and what of them has to be written."""

from collections.abc import Callable, Iterable
from typing import Generic, NamedTuple, TypeVar

from monitors.journal import State
from monitors.slot import Counts, LabelCounts

Key = tuple[str, str, int]  # model, version, slot
C = TypeVar("C", Counts, LabelCounts)


class Closed(NamedTuple, Generic[C]):
    """Counts of one version in one slot, sealed."""

    model: str
    version: str
    slot: int
    counts: C


class OpenSlots(Generic[C]):
    """Counts by model, version and slot; `kind` names them in the journal.

    >>> from monitors.slot import LabelCounts, decode_labels
    >>> slots = OpenSlots("label_slot", LabelCounts, decode_labels)
    >>> slots.at(("flights", "1", 7)).predictions += 3
    >>> slots.close(before=7), [closed.counts.predictions for closed in slots.close(before=8)], len(slots)
    ([], [3], 0)
    """

    def __init__(self, kind: str, new: Callable[[], C], decode: Callable[[bytes], C]) -> None:
        self._kind = kind
        self._new: Callable[[], C] = new
        self._decode: Callable[[bytes], C] = decode
        self._slots: dict[Key, C] = {}
        self._changed: set[Key] = set()
        self._closed: set[Key] = set()

    def __len__(self) -> int:
        return len(self._slots)

    def values(self) -> Iterable[C]:
        return self._slots.values()

    def at(self, key: Key) -> C:
        """The counts of a slot, to be changed."""
        self._changed.add(key)
        counts = self._slots.get(key)
        if counts is None:
            counts = self._slots[key] = self._new()
        return counts

    def newest(self, model: str, version: str) -> int | None:
        """The last slot of a version that is open."""
        return max((slot for *of, slot in self._slots if of == [model, version]), default=None)

    def close(self, before: int) -> list[Closed[C]]:
        """Take out all slots before `before`, by version and in order."""
        ready = sorted(key for key in self._slots if key[2] < before)
        self._closed.update(ready)
        return [Closed(*key, self._slots.pop(key)) for key in ready]

    def drop(self, model: str, version: str) -> None:
        """Take out all slots of one version."""
        ready = [key for key in self._slots if key[:2] == (model, version)]
        self._closed.update(ready)
        for key in ready:
            del self._slots[key]

    def save(self, journal: State) -> None:
        """Write what changed since the last `save`."""
        journal.remove(self._kind, self._closed - self._slots.keys())
        journal.put(self._kind, {key: self._slots[key].encode() for key in self._changed if key in self._slots})
        self._changed.clear()
        self._closed.clear()

    def load(self, journal: State) -> None:
        for (model, version, slot), data in journal.all(self._kind).items():
            self._slots[str(model), str(version), int(slot)] = self._decode(data)
