"""One node's counting without its process: rings, ledger, outbox and journal, driven by whoever has a clock.

Every method takes the wall clock as `now`. All that changes between two commits lies in one transaction; after an
error in the middle of it the station is not to be used again: what was committed is read anew. What was sealed and
committed is `delivery`, to be given to the cluster's judge by another thread, whose receipt comes back by `receive`.
"""

import logging
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from monitors.adoption import Adoption
from monitors.book import Version
from monitors.catalogue import Catalogue
from monitors.court import Judged
from monitors.journal import Journal, Key
from monitors.labels import Arrival, Label, LabelStore
from monitors.ledger import Identity, Ledger
from monitors.parcel import Delivery, Outbox, Receipt, Tally
from monitors.report import Report, dropped_rows, report
from monitors.source import Batch, Source
from serving.config import Monitors
from serving.errors import ArtifactCorrupt, Unavailable
from serving.manifest import Manifest
from serving.ring import Position

COMMIT_S = 1.0  # at most this often without labels; what was not committed is read from the rings again

log = logging.getLogger("gaugeway.monitors")


class Station:
    """Counts what the rings in `rings` bring; `path` is the journal's file, None for one in memory."""

    def __init__(
        self,
        settings: Monitors,
        node: str,
        rings: Path,
        path: Path | None,
        manifest_of: Callable[[str, str], Manifest],
        read: Callable[[Manifest, str], bytes],
    ) -> None:
        self._settings, self.meaning = settings, meaning(settings)
        self._journal = Journal(path, self.meaning)
        self.node = _named(node, self._journal)
        if self._journal.fresh:
            log.warning("the monitors begin anew: %s was written with other slots", path)
        self.ledger = Ledger(settings, LabelStore(self._journal.sql, settings.label_budget_rows))
        self.ledger.load(self._journal)
        self.catalogue = Catalogue(manifest_of, read, self._journal)
        self._outbox = Outbox(self._journal)
        self._received: tuple[Receipt, list[tuple[Adoption, bytes]]] | None = None
        self._clock: float | None = None  # the latest of all nodes
        self._source = Source(rings, _positions(self._journal))
        self._moved: dict[str, Position] = {}
        self._held: Batch | None = None
        self._changed = False
        self._read_at = 0.0  # monotonic
        self._committed_at = 0.0  # monotonic
        self._newest = 0.0  # arrival time of the newest row that was counted
        self._drained = False
        self._now = 0.0  # of the last poll
        self.delivery = self._delivery()

    def poll(self, now: float) -> bool:
        """Count what is new, seal and judge what is due. True: there is more to read at once.

        Raises Unavailable when the repository cannot be reached; then nothing was counted, and the next poll takes
        up the same records.
        """
        self._now = now
        self._acknowledge()
        batch = self._held or self._source.read()
        self._held = batch
        identities = {record.layout.identity for record in batch.records}
        versions = {identity: self.catalogue.find(identity, now) for identity in identities}
        self._held = None
        self._journal.begin()
        self.ledger.ingest(batch.records, versions, now)
        self._account(batch)
        self._seal(now)
        self._read_at = time.monotonic()
        return bool(batch.records) and not batch.drained

    def expect(self, served: Iterable[Manifest]) -> None:
        """Versions that are served have a state before their first row: `no_data`. Raises Unavailable as `poll`."""
        for manifest in served:
            self.catalogue.learn(manifest)
        self._journal.begin()
        self._changed = True

    def label(self, labels: list[Label], now: float) -> Arrival:
        """Join or park labels. What they answer is true only after `commit`."""
        self._journal.begin()
        self._changed = True
        return self.ledger.label(labels, now)

    def leave(self, labels: Sequence[Label], unusable: Sequence[Label] = ()) -> None:
        """As `LabelStore.leave`: labels that met their prediction at another node wait here no longer."""
        self._journal.begin()
        self._changed = True
        self.ledger.store.leave(labels, unusable)

    def commit(self, *, at_once: bool = False) -> None:
        """Write what changed, in one transaction, unless the last time was a moment ago."""
        at = time.monotonic()
        if self._changed and (at_once or at - self._committed_at >= COMMIT_S):
            self.ledger.drop("undelivered", self._outbox.pack())
            self.ledger.save(self._journal)
            moved: dict[Key, bytes] = {(name,): msgspec.msgpack.encode(to) for name, to in self._moved.items()}
            self._journal.put("position", moved)
            self._moved.clear()
            self._journal.commit()
            self._changed, self._committed_at = False, at
            self.delivery = self._delivery()

    def receive(self, receipt: Receipt) -> None:
        """What the judge has stored; may be called from another thread, which fetches references while others count."""
        self._received = receipt, [(one, data) for one in receipt.adoptions if (data := self._fetch(one)) is not None]

    def clock(self, now: float) -> float:
        """The time of a label that comes without one."""
        clock = self.ledger.marks.clock if self._settings.event_time == "request" else None
        return now if clock is None else clock

    def tally(self) -> Tally:
        """What this node tells of itself."""
        ledger, parked = self.ledger, self.ledger.store.parked
        return Tally(
            clock=ledger.marks.clock,
            books=tuple((*name, book.copy()) for name, book in ledger.books.items()),
            versions=tuple(_identity(version) for version in self.catalogue.known),
            parked={model: n for model, n in parked.items() if n},
            unknown=dict(ledger.marks.unknown),
            dropped=dropped_rows(ledger),
            marks=self._outbox.sealed,
            open_rows=ledger.open_rows,
            lag_s=0.0 if self._drained or not self._newest else max(0.0, self._now - self._newest),
            doubled=ledger.marks.doubled,
            conflicting=ledger.marks.conflicting,
            unusable=ledger.marks.unusable,
        )

    def report(self, now: float, judged: Judged | None, *, stale: bool = False) -> Report:
        """What is known now; of the verdicts only where `judged` is given, by the one node that judges.

        `stale` says that the rings, the repository or the registry cannot be read.
        """
        tally = self.tally()
        if stale and self._newest:
            tally = msgspec.structs.replace(tally, lag_s=max(0.0, now - self._newest))
        marks, sampling = self.ledger.marks, self.ledger.store.probability
        return report(
            self.node, tally, judged, self._settings, now=now, stale=stale,
            lost_frames=marks.lost_frames, sampling_ratio=sampling, cpu_s=time.process_time(),
        )  # fmt: skip

    def close(self) -> None:
        self.commit(at_once=True)
        self._source.close()
        self._journal.close()

    def _account(self, batch: Batch) -> None:
        for error in batch.errors[:10]:
            log.warning("%s", error)
        self.ledger.drop("lost", batch.lost_rows)
        self.ledger.drop("undecodable", batch.bad_rows)
        self.ledger.marks.lost_frames += batch.lost_frames
        self._moved |= batch.positions
        self._changed = self._changed or bool(batch.positions)
        self._drained = batch.drained
        self._newest = max(self._newest, batch.newest)

    def _acknowledge(self) -> None:
        received, self._received = self._received, None
        if received is not None:
            receipt, fetched = received
            self._clock = receipt.clock
            self._outbox.acknowledge(receipt.marks)
            for adoption, profile in fetched:
                self._adopt(adoption, profile)

    def _fetch(self, adoption: Adoption) -> bytes | None:
        """The profile of a reference that is new here; None also where it cannot be read yet: it is told again."""
        if not self.catalogue.lacks(adoption):
            return None
        try:
            return self.catalogue.fetch((adoption.model, adoption.version), adoption.reference)
        except (Unavailable, ArtifactCorrupt) as error:
            log.warning("%s version %s keeps its reference for now: %s", adoption.model, adoption.version, error)
            return None

    def _adopt(self, adoption: Adoption, profile: bytes) -> None:
        """From the next slot on that has no row yet."""
        if self.catalogue.lacks(adoption):
            name = adoption.model, adoption.version
            since = max(adoption.since, self.ledger.next_slot(name))
            self.catalogue.adopt(adoption, since, profile, self.ledger.sealed)
            self._changed = True
            log.info("slots of %s version %s from %d on have the reference of order %d", *name, since, adoption.order)

    def _seal(self, now: float) -> None:
        """Clocks from outside close slots only once all that was written before they were read is read."""
        outside = now if self._settings.event_time == "arrival" else self._clock
        self._outbox.add(self.ledger.seal(outside if self._drained else None))
        self._changed = self._changed or self._outbox.pending

    def _delivery(self) -> Delivery:
        return Delivery(self.node, self.meaning, self._outbox.waiting, self.tally())


def meaning(settings: Monitors) -> str:
    """What the numbers of slots stand for."""
    named = f", a row a {settings.unit}" if settings.unit.startswith("cluster:") else ""
    return f"slots of {settings.slot_s} s by {settings.event_time} time{named}"


def _named(node: str, journal: Journal) -> str:
    """The node's name among all, which lasts as long as its journal: a wiped one begins as a new node."""
    if (own := journal.one("node")) is None:
        journal.begin()
        journal.put("node", {(): (own := f"{node}-{secrets.token_hex(4)}".encode())})
        journal.commit()
    return bytes(own).decode()


def _identity(version: Version) -> Identity:
    manifest = version.manifest
    return manifest.model, manifest.version, manifest.digest


def _positions(journal: Journal) -> dict[str, Position]:
    stored = journal.all("position")
    return {str(name): msgspec.msgpack.decode(data, type=Position) for (name,), data in stored.items()}
