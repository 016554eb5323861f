"""What a ring keeps, loses and counts: whole frames, whatever kills its writer."""

import mmap
import os
import random
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serving.ring import Frame, Position, RingError, RingReader, RingWriter

SMALL = 2**10  # bytes; a ring that wraps every few frames


def payload(number: int, size: int) -> bytes:
    """A payload that says its number and whose every byte follows from it."""
    return struct.pack("<Q", number) + random.Random(number).randbytes(max(size - 8, 0))


def assert_exact(frames: list[Frame]) -> None:
    """Every payload is the one that was written under its number."""
    for frame in frames:
        assert frame.payload == payload(frame.number, len(frame.payload))
        assert frame.rows == frame.number % 7


def append(writer: RingWriter, size: int) -> bool:
    return writer.append(payload(writer.number, size), rows=writer.number % 7)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(8, SMALL // 3)),
        st.tuples(st.just("read"), st.integers(1, 5)),
        st.tuples(st.just("reopen writer"), st.just(0)),
        st.tuples(st.just("reopen reader"), st.just(0)),
    ),
    max_size=150,
)


@settings(max_examples=300, deadline=None)
@given(steps=steps)
@example(steps=[("write", size) for size in (8, 73, 121, 129, 193, 209)])  # ends where no further frame would fit
def test_frames_read_and_lost_add_up_to_frames_written(steps: list[tuple[str, int]], tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("ring") / "w.ring"
    writer = RingWriter(path, SMALL)
    reader = RingReader(path)
    read: list[Frame] = []
    lost = lost_rows = 0
    for what, amount in steps:
        if what == "write":
            append(writer, amount)
        elif what == "read":
            read += reader.read(amount)
        elif what == "reopen writer":
            writer.close()
            writer = RingWriter(path, SMALL)
        else:
            lost, lost_rows = lost + reader.lost_frames, lost_rows + reader.lost_rows
            reader.close()
            reader = RingReader(path, reader.position)
    append(writer, 8)  # the frame after a gap is what shows it
    read += reader.read()
    assert_exact(read)
    assert [f.number for f in read] == sorted({f.number for f in read})
    assert len(read) + lost + reader.lost_frames == writer.number
    assert sum(f.rows for f in read) + lost_rows + reader.lost_rows == writer.rows
    assert reader.lag_bytes == 0 and reader.read() == []
    reader.close()
    writer.close()


def test_a_reader_that_keeps_up_loses_nothing_over_many_wraps(tmp_path: Path) -> None:
    writer = RingWriter(tmp_path / "w.ring", SMALL)
    reader = RingReader(tmp_path / "w.ring")
    for number in range(500):
        assert append(writer, 8 + number % 200)
        (frame,) = reader.read()
        assert_exact([frame])
    assert (reader.lost_frames, reader.lost_rows) == (0, 0)


def test_a_frame_that_is_too_large_is_refused_and_counted(tmp_path: Path) -> None:
    writer = RingWriter(tmp_path / "w.ring", SMALL)
    reader = RingReader(tmp_path / "w.ring")
    assert not writer.append(b"x" * SMALL, rows=5)
    writer.close()
    writer = RingWriter(tmp_path / "w.ring", SMALL)  # the refusal outlives the writer
    assert writer.append(b"small", rows=1)
    assert [f.number for f in reader.read()] == [1]
    assert (reader.lost_frames, reader.lost_rows) == (1, 5)


def test_a_position_of_another_ring_is_not_used(tmp_path: Path) -> None:
    writer = RingWriter(tmp_path / "w.ring", SMALL)
    writer.append(b"first", rows=1)
    reader = RingReader(tmp_path / "w.ring", Position("another", offset=400, number=17, rows=99))
    assert [f.payload for f in reader.read()] == [b"first"]
    assert reader.lost_frames == 0


class DyingMap(mmap.mmap):
    """A map whose process dies at a chosen store."""

    stores_left = 10**9

    def __setitem__(self, key: Any, value: Any) -> None:
        if self.stores_left == 0:
            raise KeyboardInterrupt
        self.stores_left -= 1
        super().__setitem__(key, value)


def dying_writer(path: Path, stores: int) -> RingWriter:
    writer = RingWriter(path, SMALL)
    with path.open("r+b") as file:
        dying = DyingMap(file.fileno(), 0)
    dying.stores_left = stores
    writer._map.close()
    writer._map = dying
    return writer


@pytest.mark.parametrize("filled", [0, 3, 9, 24])
@pytest.mark.parametrize("size", [8, 100, 200])
def test_death_at_every_store_leaves_a_ring_that_reads_and_continues(tmp_path: Path, filled: int, size: int) -> None:
    for stores in range(25):
        path = tmp_path / f"{stores}.ring"
        writer = RingWriter(path, SMALL)
        for _ in range(filled):
            append(writer, 130)
        writer.close()
        reader = RingReader(path)
        read = reader.read(max_frames=2)

        victim = dying_writer(path, stores)
        with pytest.raises(KeyboardInterrupt):
            while True:
                append(victim, size)
        victim._map.close()

        read += reader.read()
        successor = RingWriter(path, SMALL)
        append(successor, size)
        read += reader.read()
        assert_exact(read)
        assert len(read) + reader.lost_frames == successor.number
        assert sum(f.rows for f in read) + reader.lost_rows == successor.rows
        successor.close()


WRITE_FOR_EVER = """
import sys
from pathlib import Path
from serving.ring import RingWriter
from tests.test_ring import append
writer = RingWriter(Path(sys.argv[1]), 2**16)
print("writing", flush=True)
while True:
    append(writer, 8 + writer.number * 37 % 900)
"""


def test_kill_9_of_the_writer_again_and_again(tmp_path: Path) -> None:
    path = tmp_path / "w.ring"
    RingWriter(path, 2**16).close()
    reader = RingReader(path)
    read = rows = 0
    for life in range(5):
        writer = subprocess.Popen([sys.executable, "-c", WRITE_FOR_EVER, str(path)], stdout=subprocess.PIPE)
        assert writer.stdout and writer.stdout.readline() == b"writing\n"
        until = time.monotonic() + 0.05 + 0.013 * life
        while time.monotonic() < until:
            frames = reader.read()
            assert_exact(frames)
            read, rows = read + len(frames), rows + sum(f.rows for f in frames)
        writer.kill()
        writer.communicate()
    successor = RingWriter(path, 2**16)
    append(successor, 8)
    frames = reader.read()
    assert_exact(frames)
    assert read + len(frames) + reader.lost_frames == successor.number > 1000
    assert rows + sum(f.rows for f in frames) + reader.lost_rows == successor.rows


def test_damage_is_passed_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "w.ring"
    writer = RingWriter(path, SMALL)
    reader = RingReader(path)
    for _ in range(4):
        append(writer, 100)
    with path.open("r+b") as file:
        file.seek(4096 + 50)  # within the payload of the first frame
        file.write(b"\xff")
    assert reader.read() == [] and reader.read() == []  # a second look before it is given up
    append(writer, 100)
    assert [f.number for f in reader.read()] == [4]
    assert (reader.lost_frames, reader.lost_rows) == (4, sum(n % 7 for n in range(4)))


def test_a_frame_that_becomes_whole_by_the_second_look_is_read(tmp_path: Path) -> None:
    path = tmp_path / "w.ring"
    append(RingWriter(path, SMALL), 100)
    reader = RingReader(path)
    whole = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(4096 + 50)
        file.write(b"\xff")
        file.flush()
        assert reader.read() == []
        file.seek(4096 + 50)
        file.write(whole[4096 + 50 : 4096 + 51])
    assert [f.number for f in reader.read()] == [0]
    assert reader.lost_frames == 0


@pytest.mark.parametrize("at", [4096, 4104, 4112, 4120])
def test_damage_of_any_field_of_a_frame_is_seen(tmp_path: Path, at: int) -> None:
    path = tmp_path / "w.ring"
    append(RingWriter(path, SMALL), 100)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\x7f\x7f")
    reader = RingReader(path)
    assert reader.read() == [] and reader.read() == []


def test_a_writer_outlives_damage(tmp_path: Path) -> None:
    path = tmp_path / "w.ring"
    writer = RingWriter(path, SMALL)
    for _ in range(5):
        append(writer, 100)
    writer.close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(SMALL))
    writer, reader = RingWriter(path, SMALL), RingReader(path)
    reader.read(), reader.read()
    for _ in range(40):
        append(writer, 100)
    frames = reader.read()
    assert_exact(frames)
    assert frames[-1].number == 44
    assert len(frames) + reader.lost_frames == writer.number


def test_a_file_that_is_no_ring_is_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.ring"
    foreign.write_bytes(b"SQLite format 3\0" + bytes(8192))
    empty = tmp_path / "empty.ring"
    empty.touch()
    for path in (foreign, empty):
        with pytest.raises(RingError, match="is not a ring of this version"):
            RingReader(path)
        with pytest.raises(RingError, match="is not a ring of this version"):
            RingWriter(path, SMALL)
    assert foreign.read_bytes().startswith(b"SQLite")


def test_a_ring_that_was_cut_short_is_refused_instead_of_killing_by_sigbus(tmp_path: Path) -> None:
    path = tmp_path / "w.ring"
    RingWriter(path, SMALL).close()
    os.truncate(path, 4096 + SMALL // 2)
    with pytest.raises(RingError, match="cut short or damaged: it has 4608 bytes, expected 5120"):
        RingReader(path)
    with pytest.raises(RingError, match="cut short"):
        RingWriter(path, SMALL)


def test_a_ring_has_one_writer(tmp_path: Path) -> None:
    first = RingWriter(tmp_path / "w.ring", SMALL)
    with pytest.raises(RingError, match="has a writer already"):
        RingWriter(tmp_path / "w.ring", SMALL)
    first.close()
    RingWriter(tmp_path / "w.ring", SMALL).close()


def test_its_blocks_are_reserved_when_it_is_made(tmp_path: Path) -> None:
    RingWriter(tmp_path / "w.ring", 2**20).close()
    assert (tmp_path / "w.ring").stat().st_blocks * 512 >= 2**20


def test_no_room_is_an_error_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RingError, match=r"cannot make .*w\.ring of \d+ bytes: "):
        RingWriter(tmp_path / "w.ring", 2**60)
    assert list(tmp_path.iterdir()) == []


def test_rows_that_were_expected_and_never_written_count_as_lost(tmp_path: Path) -> None:
    path = tmp_path / "w.ring"
    writer = RingWriter(path, 2**16)
    writer.append(b"before", 2)
    writer.expect(5)
    writer.close()  # as a kill between an answer and its record
    successor = RingWriter(path, 2**16)
    successor.expect(3)
    successor.append(b"after", 3)
    reader = RingReader(path)
    assert [(frame.number, frame.rows) for frame in reader.read()] == [(0, 2), (2, 3)]
    assert (reader.lost_frames, reader.lost_rows) == (1, 5)


def test_rows_that_were_expected_and_given_up_count_as_lost_and_the_next_have_their_own(tmp_path: Path) -> None:
    path = tmp_path / "w.ring"
    writer = RingWriter(path, 2**16)
    writer.expect(5)  # and making the frame failed
    writer.expect(2)
    writer.forfeit(5)
    writer.append(b"other", 2)
    reader = RingReader(path)
    assert [(frame.number, frame.rows_before, frame.rows) for frame in reader.read()] == [(1, 5, 2)]
    assert (reader.lost_frames, reader.lost_rows) == (1, 5)


def test_what_several_announce_is_lost_only_as_far_as_it_was_not_written(tmp_path: Path) -> None:
    """Whichever of them comes first, and however often they announce."""
    path = tmp_path / "w.ring"
    writer, reader = RingWriter(path, 2**16), RingReader(path)
    for rows in (1, 4, 2):
        writer.expect(rows)
    writer.append(b"later", 4)
    assert [(frame.rows_before, frame.rows) for frame in reader.read()] == [(0, 4)] and reader.lost_rows == 0
    writer.append(b"earlier", 1)
    writer.close()  # as a kill
    RingWriter(path, 2**16).append(b"successor", 3)
    assert [(frame.rows_before, frame.rows) for frame in reader.read()] == [(4, 1), (7, 3)]
    assert reader.lost_rows == 2
