"""All versions that a node captures: batches of rows into segments, sealed by size and age, expired by age and size."""

import logging
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monitors.capture.figures import Name, Written
from monitors.capture.segment import Mark, Segment
from monitors.capture.shelf import Sealed, Shelf, alone, shelves, span
from serving.config import Capture
from serving.ring import Position

log = logging.getLogger("gaugeway.capture")

SEGMENT_BYTES = 64 * 2**20
SEGMENT_S = 3600.0
PARTS = 24  # of the retention and of the largest size that a segment is at most
DAY_S = 86400.0


class _Open:
    """A version while it is captured."""

    def __init__(self, shelf: Shelf, mark: Mark) -> None:
        self.shelf, self.mark = shelf, shelf.mark().past(mark)
        self.segment: Segment | None = None
        self.since = 0.0  # of the first row in it, wall clock

    @property
    def unsealed_bytes(self) -> int:
        """Of its segment, which another process may have sealed."""
        return self.segment.bytes if self.segment and self.segment.path.name not in self.shelf.sealed else 0

    def close(self) -> None:
        if self.segment is not None:
            self.segment.close()
            self.segment = None


class CaptureLog:
    """Captures below `root`. Who opens it seals what a predecessor left open. One writer; raises OSError.

    `settings` says of each model how large its captures may be, and how old: of others nothing expires. `written` is
    what a predecessor counted.
    """

    def __init__(self, root: Path, written: Mapping[Name, Written] | None = None) -> None:
        self._root = root
        self.settings: Mapping[str, Capture] = {}
        self.expired = Counter[str](age=0, bytes=0)
        self._open: dict[Name, _Open] = {}
        with alone(root):
            for shelf in shelves(root):
                shelf.recover()
                before = (written or {}).get((shelf.model, shelf.version), Written())
                self._open[shelf.model, shelf.version] = _Open(shelf, Mark({}, before.rows, before.bytes))

    @property
    def written(self) -> dict[Name, Written]:
        return {name: Written(one.mark.rows, one.mark.bytes) for name, one in self._open.items()}

    @property
    def stored(self) -> dict[Name, int]:
        """Without a look at the disk: of sealed segments, and of the one that is written."""
        return {name: one.shelf.sealed_bytes + one.unsealed_bytes for name, one in self._open.items()}

    def position(self, name: Name, ring: str) -> Position | None:
        """Up to where the rows of a version are captured from a ring; None: not one was."""
        return self._open[name].mark.positions.get(ring) if name in self._open else None

    def write(self, name: Name, rows: Any, ring: str, position: Position, now: float) -> None:
        """Rows of one version, of what lies in `ring` before `position`."""
        with alone(self._root):
            one = self._open.get(name) or self._begin(name)
            self._fit(one, rows, now)
            assert one.segment is not None
            grown = Mark({ring: position}, one.mark.rows + rows.num_rows, one.mark.bytes + rows.nbytes).past(one.mark)
            try:
                one.segment.write(rows, grown)
            except OSError:
                one.close()
                raise
            one.mark = grown

    def sync(self) -> None:
        """All that was written outlasts a loss of power."""
        for one in self._open.values():
            if one.segment is not None:
                one.segment.sync()

    def tidy(self, now: float) -> bool:
        """Seal what is old or large enough, and remove what is too old or too much; whether anything was removed."""
        before = self.expired.total()
        with alone(self._root):
            for one in self._open.values():
                if self._full(one, now):
                    one.close()
                _seal(one)
            for model in {name[0] for name in self._open} & self.settings.keys():
                self._expire(model, self.settings[model], now)
        return self.expired.total() > before

    def close(self) -> None:
        """Seal all segments."""
        with alone(self._root):
            for one in self._open.values():
                one.close()
                _seal(one)

    def _begin(self, name: Name) -> _Open:
        folder = self._root / name[0] / name[1]
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._open[name] = _Open(Shelf(folder), Mark())
        return self._open[name]

    def _fit(self, one: _Open, rows: Any, now: float) -> None:
        """Have a segment of this schema. That another process sealed the one before is seen by its file."""
        segment = one.segment
        if segment is not None and not (segment.here() and segment.schema.equals(rows.schema, check_metadata=True)):
            one.close()
        if one.segment is None:
            start = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(min(span(rows.slice(0, 1)), default=now)))
            one.segment = Segment(one.shelf.folder / f"{start}-{one.shelf.next_number:06d}.arrow", rows.schema)
            one.since = now

    def _full(self, one: _Open, now: float) -> bool:
        said = self.settings.get(one.shelf.model, Capture())
        largest = min(SEGMENT_BYTES, said.max_bytes // PARTS)
        longest_s = min(SEGMENT_S, said.retention_days * DAY_S / PARTS)
        return one.segment is not None and (one.segment.bytes >= largest or not 0 <= now - one.since < longest_s)

    def _expire(self, model: str, said: Capture, now: float) -> None:
        """A segment goes with its oldest row, so that no row is older than it may be."""
        ours = [one.shelf for name, one in self._open.items() if name[0] == model]
        for shelf in ours:
            for sealed in list(shelf.sealed.values()):
                if sealed.first < now - said.retention_days * DAY_S:
                    self._remove(shelf, sealed, "age")
        oldest = sorted(((sealed.first, shelf.version, sealed, shelf) for shelf in ours
                         for sealed in shelf.sealed.values()), key=lambda found: found[:2])  # fmt: skip
        total = sum(shelf.bytes for shelf in ours)
        for *_, sealed, shelf in oldest:
            if total <= said.max_bytes:
                break
            total -= sealed.bytes
            self._remove(shelf, sealed, "bytes")

    def _remove(self, shelf: Shelf, sealed: Sealed, reason: str) -> None:
        shelf.remove(sealed.name)
        self.expired[reason] += sealed.rows
        log.info("%d captured rows of %s version %s are removed for their %s: %s",
                 sealed.rows, shelf.model, shelf.version, reason, sealed.name)  # fmt: skip


def _seal(one: _Open) -> None:
    """All segments that are not written to any more, also one that could not be sealed before."""
    one.shelf.refresh()
    for path in one.shelf.loose:
        if one.segment is None or path != one.segment.path or not one.segment.here():
            one.shelf.seal(path)
