from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monitors.source import Batch, Source
from serving import record
from serving.packed import REQUEST, Unpacker
from serving.record import Column, Record
from serving.ring import Position, RingWriter


def batch_of(k: int, *, rows: int = 2, at: float = 0.0, pad: int = 0) -> Record:
    return Record(
        model="m", version="1", digest="d", role="primary", ids=[f"r{k}" + "x" * pad], first_rows=[0], counts=[rows],
        reasons=["weights"], propensities=[1.0], keys=[0], event_times=[at or float(k)],
        arrival_times=[at or float(k)], statuses=[200], queue_s=[0.0], infer_s=0.0, inputs={},
        outputs={"y": Column.of("FP32", np.full(rows, k, np.float32))},
    )  # fmt: skip


def append(ring: RingWriter, found: Record) -> None:
    assert ring.append(record.encode(found), found.rows)


def ids(batch: Batch) -> list[str]:
    return [found.ids.decode() for found in batch.records]


def test_records_come_once_and_go_on_from_a_committed_position(tmp_path: Path) -> None:
    ring = RingWriter(tmp_path / "worker-0.ring", 2**16)
    for k in range(5):
        append(ring, batch_of(k))
    first = Source(tmp_path, {}).read()
    assert ids(first) == [f"r{k}" for k in range(5)]
    assert first.drained
    append(ring, batch_of(5))
    again = Source(tmp_path, first.positions)
    assert ids(again.read()) == ["r5"]
    assert again.read().positions == {}


def test_rings_are_merged_by_arrival(tmp_path: Path) -> None:
    a, b = RingWriter(tmp_path / "worker-0.ring", 2**16), RingWriter(tmp_path / "worker-1.ring", 2**16)
    for k in (1, 2, 5, 6):
        append(a, batch_of(k))
    for k in (3, 4, 7):
        append(b, batch_of(k))
    assert ids(Source(tmp_path, {}).read()) == [f"r{k}" for k in range(1, 8)]


@pytest.mark.parametrize("max_frames", [1, 2, 3, 10])
def test_a_backlog_in_one_ring_holds_the_others_back_and_nothing_is_lost_over_restarts(
    tmp_path: Path, max_frames: int
) -> None:
    a, b = RingWriter(tmp_path / "worker-0.ring", 2**16), RingWriter(tmp_path / "worker-1.ring", 2**16)
    for k in range(20):
        append(a if k % 5 else b, batch_of(k + 1))
    seen: list[str] = []
    positions: dict[str, Position] = {}
    source = Source(tmp_path, positions, max_frames=max_frames)
    for turn in range(100):
        if turn % 3 == 2:  # a restart forgets what was read ahead
            source = Source(tmp_path, positions, max_frames=max_frames)
        batch = source.read()
        seen += ids(batch)
        positions |= batch.positions
        if batch.drained:
            break
    assert batch.drained
    assert seen == [f"r{k + 1}" for k in range(20)]


def test_rows_overwritten_unread_are_counted_exactly(tmp_path: Path) -> None:
    ring = RingWriter(tmp_path / "worker-0.ring", 2**16)
    source = Source(tmp_path, {})
    append(ring, batch_of(0, rows=3))
    assert ids(source.read()) == ["r0"]
    for k in range(1, 1001):
        append(ring, batch_of(k, rows=1 + k % 3, pad=200))
    batch = source.read()
    first = int(ids(batch)[0].strip("rx"))
    assert batch.lost_frames == first - 1 > 0
    assert batch.lost_rows == sum(1 + k % 3 for k in range(1, first))
    assert sum(found.rows for found in batch.records) + batch.lost_rows == ring.rows - 3


def test_a_bad_record_is_counted_and_what_follows_is_read(tmp_path: Path) -> None:
    ring = RingWriter(tmp_path / "worker-0.ring", 2**16)
    ring.append(b"\xc1 not msgpack", 7)
    append(ring, batch_of(1))
    batch = Source(tmp_path, {}).read()
    assert (batch.bad_rows, ids(batch)) == (7, ["r1"])
    assert "frame 0 is not a record" in batch.errors[0]


def changed(**facts: Any) -> bytes:
    """A record of two rows with some other facts in its table."""
    data = record.encode(batch_of(1))
    found = Unpacker()(data)
    table = np.frombuffer(found.table, REQUEST).copy()
    for name, value in facts.items():
        table[name] = value
    return data.replace(found.table, table.tobytes())


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (record.encode(batch_of(1)), "it has 2 rows, the frame 3"),
        (changed(rows=3), "1 rows and 0 bytes of ids too many"),
        (changed(id_bytes=9), "0 rows and 7 bytes of ids too many"),
        (record.encode(batch_of(1))[:-1], "7 bytes of tensors, expected 8"),
        (b"\x01" + record.encode(batch_of(1))[1:], "it has version 1, expected 2"),
        (b"\x02", "it cannot be read"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(tmp_path: Path, payload: bytes, why: str) -> None:
    ring = RingWriter(tmp_path / "worker-0.ring", 2**16)
    rows = 3 if why.startswith("it has 2") else 2
    ring.append(payload, rows)
    append(ring, batch_of(2))
    batch = Source(tmp_path, {}).read()
    assert (batch.bad_rows, ids(batch)) == (rows, ["r2"])
    assert len(batch.errors) == 1 and why in batch.errors[0]


def test_a_file_that_is_no_ring_is_reported_once_and_a_new_ring_in_its_place_is_read(tmp_path: Path) -> None:
    path = tmp_path / "worker-0.ring"
    path.write_bytes(b"nonsense" * 1000)
    source = Source(tmp_path, {})
    assert len(source.read().errors) == 1
    assert source.read().errors == []
    path.unlink()
    append(RingWriter(path, 2**16), batch_of(1))
    assert ids(source.read()) == ["r1"]
    path.unlink()
    append(RingWriter(path, 2**16), batch_of(2))
    assert ids(source.read()) == ["r2"]
