"""A segment cut anywhere has all its complete batches, and nothing else."""

import os
import resource
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from monitors.capture.segment import Mark, Segment, pieces, rewrite, schema
from monitors.capture.shelf import Shelf
from serving.ring import Position

SCHEMA = pa.schema([("arrival_time", pa.timestamp("us")), ("text", pa.binary())], {"model": "m"})


def batch(first: int, rows: int = 3) -> Any:
    numbers = range(first, first + rows)
    columns = [pa.array([n * 10**6 for n in numbers], pa.timestamp("us")), pa.array([b"%d" % n * 9 for n in numbers])]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def mark(number: int) -> Mark:
    return Mark({"w.ring": Position("u", 8 * number, number, 3 * number)}, 3 * number, 100 * number)


def written(path: Path, batches: int) -> list[int]:
    """Where each batch ends."""
    segment, ends = Segment(path, SCHEMA), []
    for k in range(batches):
        segment.write(batch(3 * k), mark(k + 1))
        ends.append(segment.bytes)
    segment.close()
    assert path.stat().st_size == ends[-1]
    return ends


def texts(path: Path) -> list[bytes]:
    return [text for piece in pieces(path) for text in piece.rows.column("text").to_pylist()]


def test_a_segment_cut_at_any_byte_has_exactly_its_complete_batches(tmp_path: Path) -> None:
    ends = written(tmp_path / "whole.arrow", 3)
    data = (tmp_path / "whole.arrow").read_bytes()
    for size in range(len(data)):
        cut = tmp_path / "cut.arrow"
        cut.write_bytes(data[:size])
        found = list(pieces(cut))
        whole = sum(end <= size for end in ends)
        assert [piece.rows.to_pylist() for piece in found] == [batch(3 * k).to_pylist() for k in range(whole)]
        assert [piece.mark for piece in found] == [mark(k + 1) for k in range(whole)]
        assert [piece.end for piece in found] == ends[:whole]


@pytest.mark.parametrize("garbage", [b"\0" * 64, b"\xff" * 64, b"\xff\xff\xff\xff\x10\x00\x00\x00" + b"x" * 40])
def test_what_a_loss_of_power_leaves_behind_the_batches_is_left_out(tmp_path: Path, garbage: bytes) -> None:
    written(tmp_path / "w.arrow", 2)
    with (tmp_path / "w.arrow").open("ab") as file:
        file.write(garbage)
    assert len(list(pieces(tmp_path / "w.arrow"))) == 2


def test_a_torn_segment_is_sealed_without_what_is_torn(tmp_path: Path) -> None:
    path = tmp_path / "20251101T000000Z-000001.arrow"
    ends = written(path, 3)
    os.truncate(path, ends[1] + 17)
    shelf = Shelf(tmp_path)
    shelf.recover()
    assert texts(path) == [b"%d" % n * 9 for n in range(6)]
    (sealed,) = Shelf(tmp_path).sealed.values()
    assert (sealed.rows, sealed.first, sealed.last, sealed.mark) == (6, 0.0, 5.0, mark(2))


def test_a_segment_without_a_whole_batch_goes(tmp_path: Path) -> None:
    path = tmp_path / "20251101T000000Z-000001.arrow"
    ends = written(path, 1)
    for size in (0, 5, 100, ends[0] - 1):
        os.truncate(path, size) if path.stat().st_size > size else path.write_bytes(b"\1" * size)
        Shelf(tmp_path).recover()
        assert not path.exists()
        written(path, 1)


def test_rewriting_keeps_rows_schema_and_marks(tmp_path: Path) -> None:
    path = tmp_path / "w.arrow"
    written(path, 5)
    before = texts(path)
    assert rewrite(path) == 15
    assert texts(path) == before and schema(path).equals(SCHEMA, check_metadata=True)
    assert list(pieces(path))[-1].mark == mark(5)
    assert rewrite(path, lambda rows: rows.slice(0, 0)) == 0
    assert texts(path) == [] and list(pieces(path))[-1].mark == mark(5)


def test_a_full_disk_leaves_whole_batches(tmp_path: Path) -> None:
    """A limit of the file's size stands for the disk: a part of the batch is written, then nothing more."""
    path = tmp_path / "w.arrow"
    segment = Segment(path, SCHEMA)
    segment.write(batch(0), mark(1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (segment.bytes + 40, before[1]))  # Python ignores SIGXFSZ
    try:
        with pytest.raises(OSError, match="File too large"):
            segment.write(batch(3), mark(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    segment.close()
    assert path.stat().st_size == segment.bytes and texts(path) == [b"%d" % n * 9 for n in (0, 1, 2)]


def test_what_cannot_be_read_is_not_taken_for_empty(tmp_path: Path) -> None:
    path = tmp_path / "20251101T000000Z-000001.arrow"
    written(path, 2)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))  # no descriptor is left
    try:
        with pytest.raises(OSError, match="Too many open files"):
            list(pieces(path))
        with pytest.raises(OSError, match="Too many open files"):
            Shelf(tmp_path).seal(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert len(texts(path)) == 6


def test_only_its_owner_may_read_a_segment(tmp_path: Path) -> None:
    written(tmp_path / "w.arrow", 1)
    assert (tmp_path / "w.arrow").stat().st_mode & 0o077 == 0
