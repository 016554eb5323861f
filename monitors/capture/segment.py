"""One file of captured rows: an Arrow IPC stream, of which a `kill -9` at any byte leaves all complete batches.

Each batch carries the places in the rings up to which its version is captured with it, so that rows and places last
together. A batch is handed to the kernel whole: a killed process loses nothing that was written. `sync` is for a
machine that loses power.
"""

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from serving.ring import Position

_MARK = b"gaugeway"
_MERGED_ROWS = 2**16


class Mark(msgspec.Struct, frozen=True):
    """Up to where, in each ring, the version's rows are captured, and how many that made since its first."""

    positions: dict[str, Position] = {}  # by the ring file's name
    rows: int = 0
    bytes: int = 0

    def past(self, other: "Mark") -> "Mark":
        """This one, which was written after `other`."""
        return Mark(other.positions | self.positions, max(self.rows, other.rows), max(self.bytes, other.bytes))


class Piece(msgspec.Struct, frozen=True):
    """One complete batch, its mark, and where it ends in the file."""

    rows: Any  # a pyarrow.RecordBatch
    mark: Mark
    end: int


class Segment:
    """A file that is being written. Raises OSError: then it ends with its last whole batch, and takes no more."""

    def __init__(self, path: Path, schema: Any, options: Any = None) -> None:
        self.path, self.schema = path, schema
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._sink, self.bytes, self._synced = io.BytesIO(), 0, 0
        self._writer = pa.ipc.new_stream(self._sink, schema, options=options)

    def write(self, rows: Any, mark: Mark) -> None:
        self._writer.write_batch(rows, custom_metadata={_MARK: msgspec.json.encode(mark)})
        self._flush()

    def here(self) -> bool:
        """Whether the file is still the one of this name."""
        try:
            return os.stat(self.path).st_ino == os.fstat(self._descriptor).st_ino
        except FileNotFoundError:
            return False

    def sync(self) -> None:
        if self._synced != self.bytes:
            os.fdatasync(self._descriptor)
            self._synced = self.bytes

    def finish(self) -> None:
        """Write the end of the stream, and have it last."""
        self._writer.close()
        self._flush()
        self.sync()

    def close(self) -> None:
        os.close(self._descriptor)

    def _flush(self) -> None:
        data = memoryview(self._sink.getvalue())
        self._sink.seek(0)
        self._sink.truncate()
        left = data
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError:
            os.ftruncate(self._descriptor, self.bytes)
            raise
        self.bytes += len(data)


def schema(path: Path) -> Any:
    """None where the file does not have it whole. Raises OSError when it cannot be read."""
    with pa.OSFile(str(path)) as file:
        try:
            return pa.ipc.open_stream(file).schema
        except (pa.ArrowInvalid, OSError) as error:
            _refuse_trouble(error)
            return None


def pieces(path: Path) -> Iterator[Piece]:
    """Every complete batch; what is torn behind them is left out. Raises OSError when the file cannot be read."""
    with pa.OSFile(str(path)) as file:
        try:
            stream = pa.ipc.open_stream(file)
            while True:
                rows, about = stream.read_next_batch_with_custom_metadata()
                yield Piece(rows, msgspec.json.decode(about[_MARK], type=Mark), file.tell())
        except (StopIteration, pa.ArrowInvalid, OSError) as error:  # the end, no message, half a body
            _refuse_trouble(error)
            return


def _refuse_trouble(error: Exception) -> None:
    """Arrow says with an OSError of its own, without a number, that a body is cut short; all others are the disk's."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error


def rewrite(path: Path, keep: Callable[[Any], Any] = lambda rows: rows) -> int:
    """Put what `keep` leaves of each batch, compressed and in larger batches, in the place of a segment, at once.

    Returns the rows that are left. All marks stay.
    """
    found, staged = schema(path), path.with_suffix(".new")
    staged.unlink(missing_ok=True)
    after = Segment(staged, found, pa.ipc.IpcWriteOptions(compression="zstd"))
    try:
        total = _copy(path, after, keep)
        after.finish()
    except BaseException:
        staged.unlink()  # a full disk needs its room
        raise
    finally:
        after.close()
    staged.rename(path)
    sync_folder(path.parent)
    return total


def _copy(path: Path, after: Segment, keep: Callable[[Any], Any]) -> int:
    waiting: list[Any] = []
    mark, total = Mark(), 0
    for piece in pieces(path):
        mark, rows = piece.mark.past(mark), keep(piece.rows)
        total += rows.num_rows
        waiting.append(rows)
        if sum(batch.num_rows for batch in waiting) >= _MERGED_ROWS:
            after.write(_merged(waiting), mark)
            waiting.clear()
    after.write(_merged(waiting) if waiting else pa.RecordBatch.from_pylist([], after.schema), mark)
    return total


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _merged(batches: list[Any]) -> Any:
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)
