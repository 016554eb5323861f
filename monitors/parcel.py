"""What a node sends to the aggregator: slots it has sealed, and what it tells of itself.

A node seals a slot once, so its watermark numbers what it sends: of a parcel that comes twice, the slots before the
mark that the aggregator has of this node are known already. Nothing else is needed to take each slot exactly once.
"""

from collections.abc import Iterable

import msgspec

from monitors.adoption import Adoption
from monitors.book import Book
from monitors.journal import Journal
from monitors.ledger import NEVER, Identity, Sealed
from monitors.slot import decode

# Of what waits to be acknowledged, two weeks of slots of a minute; then the oldest are given up.
MAX_PARCELS, MAX_BYTES = 20_000, 2**30

Entry = tuple[str, str, int, bytes]  # model, version, slot, counts


class Marks(msgspec.Struct, frozen=True, array_like=True, order=True):
    """All slots before `slot`, all label slots before `label_slot`."""

    slot: int = NEVER
    label_slot: int = NEVER


class Parcel(msgspec.Struct, frozen=True, array_like=True):
    """What was sealed up to `marks` since the parcel before."""

    marks: Marks
    slots: tuple[Entry, ...] = ()
    labels: tuple[Entry, ...] = ()

    @property
    def rows(self) -> int:
        return sum(decode(counts).rows for *_, counts in self.slots)

    @property
    def size(self) -> int:
        """Bytes of the counts."""
        return sum(len(counts) for *_, counts in (*self.slots, *self.labels))


class Tally(msgspec.Struct, frozen=True):
    """A node's running totals. They replace those it told before, and those of all nodes add up."""

    clock: float | None = None
    books: tuple[tuple[str, str, Book], ...] = ()
    versions: tuple[Identity, ...] = ()  # that are served or were met
    parked: dict[str, int] = {}  # labels that wait for their prediction, by model
    unknown: dict[str, int] = {}  # labels that never met one
    dropped: dict[str, int] = {}  # rows by reason
    marks: Marks = Marks()  # up to where it has sealed
    open_rows: int = 0  # counted and not sealed: lost if the node does not come back
    lag_s: float = 0.0
    doubled: int = 0  # labels that said what was known
    conflicting: int = 0
    unusable: int = 0  # that cannot be judged, which was not known when they came


class Delivery(msgspec.Struct, frozen=True):
    """`meaning` says what the numbers of slots stand for; nodes that disagree on it cannot be added up."""

    node: str
    meaning: str
    parcels: tuple[Parcel, ...]
    tally: Tally


class Receipt(msgspec.Struct, frozen=True):
    """All before `marks` is stored and need not be sent again. `clock` is the largest of all nodes.

    `adoptions` are of all versions that have another reference than that of their publication, or had one at a node.
    """

    marks: Marks
    clock: float | None
    adoptions: tuple[Adoption, ...] = ()


class Outbox:
    """Parcels that wait to be acknowledged, as durable as the counts they were taken from.

    >>> from monitors.journal import Journal
    >>> outbox = Outbox(Journal(None, "doctest"))
    >>> for slot in (7, 7, 8):
    ...     outbox.add(Sealed(slot, 0))
    ...     lost_rows = outbox.pack()
    >>> [parcel.marks.slot for parcel in outbox.waiting]
    [7, 8]
    >>> outbox.acknowledge(Marks(7, 0))
    >>> [parcel.marks.slot for parcel in outbox.waiting]
    [8]
    """

    def __init__(self, journal: Journal, max_parcels: int = MAX_PARCELS, max_bytes: int = MAX_BYTES) -> None:
        self._journal, self._max_parcels, self._max_bytes = journal, max_parcels, max_bytes
        stored = journal.all("parcel")
        self._parcels = {int(key[0]): msgspec.msgpack.decode(stored[key], type=Parcel) for key in sorted(stored)}
        self._bytes = sum(parcel.size for parcel in self._parcels.values())
        self._next = max(self._parcels, default=0) + 1
        self._marks = max((parcel.marks for parcel in self._parcels.values()), default=Marks())
        self._slots: list[Entry] = []
        self._labels: list[Entry] = []
        self._sealed = self._marks
        self._gone: list[int] = []

    @property
    def waiting(self) -> tuple[Parcel, ...]:
        """What was committed, oldest first."""
        return tuple(self._parcels.values())

    @property
    def sealed(self) -> Marks:
        """Up to where all was sealed, sent or not."""
        return self._sealed

    @property
    def pending(self) -> bool:
        """Whether `pack` would change anything."""
        return bool(self._gone) or self._sealed != self._marks

    def add(self, sealed: Sealed) -> None:
        self._slots += _entries(sealed.slots)
        self._labels += _entries(sealed.labels)
        self._sealed = max(self._sealed, Marks(sealed.watermark, sealed.label_watermark))

    def acknowledge(self, marks: Marks) -> None:
        """Forget what is stored elsewhere; `pack` takes it off the disk."""
        known = [n for n, parcel in self._parcels.items() if _covers(marks, parcel.marks)]
        self._forget(known)

    def pack(self) -> int:
        """Put what was added into a parcel, in the journal's transaction; the rows that had to be given up for it."""
        lost = 0
        if self._sealed != self._marks:
            self._marks = self._sealed
            parcel = Parcel(self._marks, tuple(self._slots), tuple(self._labels))
            self._parcels[self._next] = parcel
            self._bytes += parcel.size
            self._journal.put("parcel", {(self._next,): msgspec.msgpack.encode(parcel)})
            self._next += 1
            self._slots.clear()
            self._labels.clear()
        while len(self._parcels) > self._max_parcels or self._bytes > self._max_bytes:
            oldest = next(iter(self._parcels))
            lost += self._parcels[oldest].rows
            self._forget([oldest])
        self._journal.remove("parcel", [(n,) for n in self._gone])
        self._gone.clear()
        return lost

    def _forget(self, numbers: Iterable[int]) -> None:
        for n in numbers:
            self._bytes -= self._parcels.pop(n).size
            self._gone.append(n)


def _covers(known: Marks, sent: Marks) -> bool:
    return known.slot >= sent.slot and known.label_slot >= sent.label_slot


def _entries(closed: Iterable[tuple[str, str, int, object]]) -> list[Entry]:
    return [(model, version, slot, counts.encode()) for model, version, slot, counts in closed]  # type: ignore[attr-defined]
