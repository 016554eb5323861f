"""The segments of one version: which are sealed, with their digests, and what became of those that are not.

`manifest.json` lists the sealed ones. It can be lost: every segment that it does not list is cut after its last whole
batch, sealed and listed by `recover`.
"""

import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import file_digest
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.compute as pc

from monitors.capture.segment import Mark, pieces, rewrite, sync_folder

log = logging.getLogger("gaugeway.capture")

MANIFEST = "manifest.json"
_STREAM_END = 8  # bytes with which Arrow ends a stream


class Sealed(msgspec.Struct, frozen=True):
    """A segment that is not written to any more; times of arrival in seconds since 1970, 0 without a row."""

    name: str
    digest: str  # SHA-256 of the file
    bytes: int
    rows: int
    first: float
    last: float
    mark: Mark


class Shelf:
    """The folder of one version, as its manifest has it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sealed: dict[str, Sealed] = {}
        self._seen: tuple[int, int] | None = None
        self.refresh()

    @property
    def model(self) -> str:
        return self.folder.parent.name

    @property
    def version(self) -> str:
        return self.folder.name

    @property
    def loose(self) -> list[Path]:
        """Segments that are not sealed, oldest first."""
        return [path for path in sorted(self.folder.glob("*.arrow")) if path.name not in self.sealed]

    @property
    def bytes(self) -> int:
        return self.sealed_bytes + sum(path.stat().st_size for path in self.loose)

    @property
    def sealed_bytes(self) -> int:
        return sum(sealed.bytes for sealed in self.sealed.values())

    def mark(self) -> Mark:
        """What all sealed segments say together."""
        found = Mark()
        for name in sorted(self.sealed, key=number):
            found = self.sealed[name].mark.past(found)
        return found

    @property
    def next_number(self) -> int:
        """Of the next segment: later ones have larger numbers, whatever the clock says."""
        return max([0, *(number(path.name) for path in self.folder.glob("*.arrow"))]) + 1

    def refresh(self) -> None:
        """Take over what another process wrote into the manifest."""
        if (seen := _stamp(self.folder / MANIFEST)) != self._seen:
            self.sealed = {one.name: one for one in _listed(self.folder / MANIFEST)}
            self._seen = seen

    def recover(self) -> None:
        """Seal what a predecessor left open, without what is torn; forget what is gone."""
        for path in self.folder.glob("*.new"):
            path.unlink()
        gone = [name for name in self.sealed if not (self.folder / name).exists()]
        for name in gone:
            del self.sealed[name]
        loose = self.loose
        for path in loose:
            self.seal(path)
        if gone and not loose:
            self._save()

    def seal(self, path: Path) -> None:
        """List a segment that nobody writes to any more; one without a row and a mark goes."""
        end = max((piece.end for piece in pieces(path)), default=0)
        if not end:
            log.warning("%s has no whole batch: it is removed", path)
            path.unlink()
            return
        if (torn := path.stat().st_size - end) > _STREAM_END:
            log.warning("%s: %d bytes behind its last whole batch are cut", path, torn)
        rewrite(path)
        self.enter(path)

    def enter(self, path: Path) -> None:
        """Write down what a sealed segment is now."""
        self.sealed[path.name] = described(path)
        self._save()

    def change(self, name: str, keep: Callable[[Any], Any]) -> None:
        """Leave what `keep` leaves of a sealed segment. After a kill it is as it was, or as it will be, and loose."""
        del self.sealed[name]
        self._save()
        rewrite(self.folder / name, keep)
        self.enter(self.folder / name)

    def damaged(self) -> list[Path]:
        """Sealed segments that are not what was sealed."""
        paths = [(self.folder / name, sealed.digest) for name, sealed in self.sealed.items()]
        return [path for path, digest in paths if digest_of(path) != digest]

    def remove(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)
        del self.sealed[name]
        self._save()

    def _save(self) -> None:
        staged = self.folder / f"{MANIFEST}.new"
        with open(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(msgspec.json.encode([self.sealed[name] for name in sorted(self.sealed)]))
            file.flush()
            os.fsync(file.fileno())
        staged.rename(self.folder / MANIFEST)
        self._seen = _stamp(self.folder / MANIFEST)
        sync_folder(self.folder)


def number(name: str) -> int:
    """Of a segment `START-NUMBER.arrow`.

    >>> number("20251124T160000Z-000017.arrow")
    17
    """
    return int(name.rpartition("-")[2].partition(".")[0])


def shelves(root: Path, model: str | None = None, version: str | None = None) -> list[Shelf]:
    """Of the versions that were captured on this node; of all models or versions where none is named."""
    folders = [folder for folder in sorted(root.glob("*/*")) if folder.is_dir()]
    named = [folder for folder in folders if model in (None, folder.parent.name) and version in (None, folder.name)]
    return [Shelf(folder) for folder in named]


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """One process at a time changes segments."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (root / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def described(path: Path) -> Sealed:
    rows, mark, times = 0, Mark(), list[float]()
    for piece in pieces(path):
        rows, mark = rows + piece.rows.num_rows, piece.mark.past(mark)
        times += span(piece.rows)
    return Sealed(
        path.name, digest_of(path), path.stat().st_size, rows, min(times, default=0.0), max(times, default=0.0), mark
    )


def span(rows: Any) -> list[float]:
    """The first and the last time of arrival, if there is one."""
    found = pc.min_max(rows.column("arrival_time").cast("int64")).as_py()
    return [] if found["min"] is None else [found["min"] / 1e6, found["max"] / 1e6]


def _stamp(path: Path) -> tuple[int, int] | None:
    """Changes with every new file of this name."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def digest_of(path: Path) -> str:
    """SHA-256, in hexadecimal."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _listed(path: Path) -> list[Sealed]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Sealed])
    except FileNotFoundError:
        return []
    except msgspec.DecodeError as error:
        log.warning("%s cannot be read, and is made anew from the segments: %s", path, error)
        return []
