"""One node's monitors without their process: rings, ledger, aggregator and journal, driven by whoever has a clock.

Every method takes the wall clock as `now`. All that changes between two commits lies in one transaction; after an
error in the middle of it the station is not to be used again: what was committed is read anew.
"""

import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from monitors.aggregator import Aggregator
from monitors.catalogue import Catalogue
from monitors.journal import Journal, Key
from monitors.labels import Arrival, Label, LabelStore
from monitors.ledger import Ledger
from monitors.report import Report, report
from monitors.source import Batch, Source
from serving.config import Monitors
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
        self._settings, self._node = settings, node
        self._journal = Journal(path, f"slots of {settings.slot_s} s by {settings.event_time} time")
        if self._journal.fresh:
            log.warning("the monitors begin anew: %s was written with other slots", path)
        self.ledger = Ledger(settings, LabelStore(self._journal.sql, settings.label_budget_rows))
        self.ledger.load(self._journal)
        self.aggregator = Aggregator(settings, [node])
        self.aggregator.load(self._journal)
        self.catalogue = Catalogue(manifest_of, read, self._journal)
        for version in self.catalogue.known:
            self.aggregator.know(version)
        self._source = Source(rings, _positions(self._journal))
        self._moved: dict[str, Position] = {}
        self._held: Batch | None = None
        self._changed = False
        self._read_at = 0.0  # monotonic
        self._committed_at = 0.0  # monotonic
        self._newest = 0.0  # arrival time of the newest row that was counted
        self._drained = False

    def poll(self, now: float) -> bool:
        """Count what is new, seal and judge what is due. True: there is more to read at once.

        Raises Unavailable when the repository cannot be reached; then nothing was counted, and the next poll takes
        up the same records.
        """
        batch = self._held or self._source.read()
        self._held = batch
        identities = {record.layout.identity for record in batch.records}
        versions = {identity: self.catalogue.find(identity, now) for identity in identities}
        self._held = None
        self._journal.begin()
        for version in versions.values():
            if version is not None:
                self.aggregator.know(version)
        self.ledger.ingest(batch.records, versions, now)
        self._account(batch)
        self._seal(now)
        self._read_at = time.monotonic()
        return bool(batch.records) and not batch.drained

    def expect(self, served: Iterable[Manifest]) -> None:
        """Versions that are served have a state before their first row: `no_data`. Raises Unavailable as `poll`."""
        versions = [self.catalogue.learn(manifest) for manifest in served]
        self._journal.begin()
        self._changed = True
        for version in versions:
            self.aggregator.know(version)

    def label(self, labels: list[Label], now: float) -> Arrival:
        """Join or park labels. What they answer is true only after `commit`."""
        self._journal.begin()
        self._changed = True
        return self.ledger.label(labels, now)

    def commit(self, *, at_once: bool = False) -> None:
        """Write what changed, in one transaction, unless the last time was a moment ago."""
        at = time.monotonic()
        if self._changed and (at_once or at - self._committed_at >= COMMIT_S):
            self.ledger.save(self._journal)
            self.aggregator.save(self._journal)
            moved: dict[Key, bytes] = {(name,): msgspec.msgpack.encode(to) for name, to in self._moved.items()}
            self._journal.put("position", moved)
            self._moved.clear()
            self._journal.commit()
            self._changed, self._committed_at = False, at

    def clock(self, now: float) -> float:
        """The time of a label that comes without one."""
        clock = self.ledger.marks.clock if self._settings.event_time == "request" else None
        return now if clock is None else clock

    def report(self, now: float, *, stale: bool = False) -> Report:
        """What is known now. `stale` says that the rings or the repository cannot be read."""
        lag_s = 0.0 if self._drained and not stale else max(0.0, now - self._newest) if self._newest else 0.0
        return report(
            self.ledger, self.aggregator, self._settings, now=now, lag_s=lag_s, stale=stale, cpu_s=time.process_time()
        )

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

    def _seal(self, now: float) -> None:
        """The wall clock closes slots only once all that was written before it is read."""
        wall = now if self._drained and self._settings.event_time == "arrival" else None
        sealed = self.ledger.seal(wall)
        self._changed = self._changed or bool(sealed.slots or sealed.labels)
        self.aggregator.take(self._node, sealed, now)


def _positions(journal: Journal) -> dict[str, Position]:
    stored = journal.all("position")
    return {str(name): msgspec.msgpack.decode(data, type=Position) for (name,), data in stored.items()}
