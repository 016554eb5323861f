from pathlib import Path

import numpy as np
import pytest

from monitors.source import BadRecord, Batch, Source, decode
from serving import record
from serving.record import Column, Frame, Position, Record, RingWriter


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
    return [request for found in batch.records for request in found.ids]


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
    first = int(batch.records[0].ids[0].strip("rx"))
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


def test_a_record_that_contradicts_itself_is_refused() -> None:
    good = batch_of(1)
    frame = Frame(4, 0, 2, record.encode(good))
    assert decode(frame) == good
    with pytest.raises(BadRecord, match=r"requests have \[2\] rows, the frame 3"):
        decode(Frame(4, 0, 3, record.encode(good)))
    good.outputs["y"] = Column("FP32", (2,), b"1234")
    with pytest.raises(BadRecord, match="column 'y' has 4 bytes, expected 8"):
        decode(Frame(4, 0, 2, record.encode(good)))
    good.outputs["y"] = Column("FP32", (3,), bytes(12))
    with pytest.raises(BadRecord, match="shape"):
        decode(Frame(4, 0, 2, record.encode(good)))


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
