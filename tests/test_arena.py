"""Slots never overlap and live as long as what looks into them; others read them only where that is safe."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.arena import ALIGN_BYTES, Arena, Extents, Offer, Window
from serving.errors import ChannelError
from serving.handover import listen
from serving.http import Request, Response
from serving.server import Server


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 300), st.integers(0, 100)), max_size=80))
def test_taken_extents_never_overlap_and_all_that_comes_back_is_one_again(steps: list[tuple[bool, int, int]]) -> None:
    free, taken = Extents(64, 1000), list[tuple[int, int]]()
    for take, size, which in steps:
        if take:
            start = free.take(size)
            if start is None:
                gaps = _gaps(sorted(taken))
                assert all(end - begin < size for begin, end in gaps)  # only what does not fit is refused
            else:
                assert 64 <= start and start + size <= 1064
                assert all(start + size <= other or other + length <= start for other, length in taken)
                taken.append((start, size))
        elif taken:
            free.give(*taken.pop(which % len(taken)))
        assert free.free_bytes == 1000 - sum(size for _, size in taken)
    for extent in taken:
        free.give(*extent)
    assert free.take(1000) == 64


def _gaps(taken: list[tuple[int, int]]) -> list[tuple[int, int]]:
    edges = [64, *(edge for start, size in taken for edge in (start, start + size)), 1064]
    return list(zip(edges[::2], edges[1::2], strict=True))


def test_a_slot_lives_as_long_as_the_last_view_of_it() -> None:
    arena = Arena(2**16)
    all_of_it = arena.free_bytes
    slot = arena.take(30_000)
    assert slot is not None and arena.take(60_000) is None
    array = np.frombuffer(slot, np.float32, offset=8, count=100).reshape(10, 10)
    del slot
    part = array[2:]
    del array
    assert arena.free_bytes == all_of_it - 30_016
    view = part.data
    del part
    assert arena.free_bytes < all_of_it
    del view
    assert arena.free_bytes == all_of_it and arena.take(60_000) is not None


def test_the_byte_that_is_named_is_aligned() -> None:
    arena = Arena(2**16)
    for at in (0, 1, 63, 64, 137):
        slot = arena.take(1000, at)
        assert slot is not None and len(slot) == 1000
        assert np.frombuffer(slot, np.uint8)[at:].__array_interface__["data"][0] % ALIGN_BYTES == 0


def test_what_lies_elsewhere_has_no_place() -> None:
    arena, other = Arena(2**16), Arena(2**16)
    slot, foreign = arena.take(100), other.take(100)
    assert slot is not None and foreign is not None
    at = arena.place(slot)
    assert at is not None and arena.place(slot[7:20]) == at + 7
    for elsewhere in (foreign, memoryview(bytes(100)), slot[:0]):
        assert arena.place(elsewhere) is None


@pytest.mark.parametrize("size_bytes", [0, ALIGN_BYTES])
def test_without_memory_there_are_no_slots_and_no_offer(size_bytes: int) -> None:
    arena = Arena(size_bytes)
    assert (arena.take(1), arena.take(0), arena.offer, arena.free_bytes) == (None, None, None, 0)
    assert arena.place(memoryview(b"bytes")) is None


def test_another_process_reads_what_is_written_and_cannot_write() -> None:
    arena = Arena(2**20)
    slot = arena.take(5)
    assert slot is not None and arena.offer is not None
    slot[:] = b"hello"
    offer = arena.offer
    code = (
        "import sys; from serving.arena import Offer, Window\n"
        "fd, size, token, pid, at = sys.argv[1:]\n"
        "window = Window(Offer(int(fd), int(size), bytes.fromhex(token)), int(pid))\n"
        "view = window.bytes_at(int(at), 5); print(bytes(view), view.readonly)"
    )
    words = [offer.fd, offer.size_bytes, offer.token.hex(), os.getpid(), arena.place(slot)]
    command = [sys.executable, "-c", code, *map(str, words)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "b'hello' True\n"


def test_bytes_outside_of_the_memory_are_an_error() -> None:
    arena = Arena(4096)
    assert arena.offer is not None
    window = Window(arena.offer, os.getpid())
    assert len(window.bytes_at(0, 4096)) == 4096 and len(window.bytes_at(4096, 0)) == 0
    for start, size in ((-1, 4), (4093, 4), (4097, 0), (0, 2**64 - 1), (2**63 - 1, 2**63), (0, -1)):
        with pytest.raises(ChannelError, match="shared memory"):
            window.bytes_at(start, size)


def test_memory_that_is_not_what_was_offered_is_not_taken(tmp_path: Path) -> None:
    arena = Arena(4096)
    assert arena.offer is not None
    good = arena.offer
    with (tmp_path / "file").open("wb+") as file, (tmp_path / "file").open("rb") as reader:
        file.write(good.token.ljust(4096, b"\0"))
        file.flush()
        pipe, end = os.pipe()
        bad = [
            (Offer(good.fd, good.size_bytes, b"another token 16"), os.getpid()),
            (Offer(good.fd, 8192, good.token), os.getpid()),  # more than there is
            (Offer(good.fd, 2**70, good.token), os.getpid()),
            (Offer(good.fd, -1, good.token), os.getpid()),
            (Offer(10**6, 4096, good.token), os.getpid()),  # no descriptor
            (Offer(-1, 4096, good.token), os.getpid()),
            (Offer(reader.fileno(), 4096, good.token), os.getpid()),  # a file could be cut while it is read
            (Offer(pipe, 4096, good.token), os.getpid()),
            (good, 0),  # a process that cannot be seen from here
        ]
        for offer, pid in bad:
            with pytest.raises((OSError, OverflowError, ValueError)):
                Window(offer, pid)
        os.close(pipe)
        os.close(end)
    assert Window(good, os.getpid()).memory.readonly


def test_its_size_cannot_change() -> None:
    arena = Arena(4096)
    assert arena.offer is not None
    for size in (0, 8192):
        with pytest.raises(PermissionError):
            os.ftruncate(arena.offer.fd, size)


def test_nothing_is_left_when_it_goes() -> None:
    before = os.listdir("/proc/self/fd")
    arena = Arena(2**20)
    slot = arena.take(1000)
    del arena
    assert slot is not None
    slot[:3] = b"abc"  # still there
    del slot
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("text_bytes", [0, 100, 20_000])
@pytest.mark.parametrize("room_bytes", [0, 2**20])
def test_a_large_body_is_received_there_with_its_tensors_aligned(text_bytes: int, room_bytes: int) -> None:
    """And into ordinary memory, as well aligned, where there is none."""
    arena, tensor = Arena(room_bytes), np.random.default_rng(0).bytes(2**19)
    all_of_it = arena.free_bytes
    seen: list[tuple[bytes, bool, int]] = []

    def application(request: Request) -> None:
        data = memoryview(request.body)[text_bytes:]
        address = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
        seen.append((bytes(data), arena.place(data) is not None, address % ALIGN_BYTES))
        request.answer(Response(b"{}"))

    async def main() -> None:
        server, sock = Server(application, room=arena.take), listen("127.0.0.1", 0)
        await server.listen(sock)
        reader, writer = await asyncio.open_connection("127.0.0.1", sock.getsockname()[1])
        head = "POST / HTTP/1.1\r\nhost: a\r\ninference-header-content-length: {}\r\ncontent-length: {}\r\n\r\n"
        writer.write(head.format(text_bytes, text_bytes + len(tensor)).encode() + b" " * text_bytes + tensor)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        writer.close()
        await server.drain(5.0)

    asyncio.run(main())
    assert seen == [(tensor, room_bytes > 0, 0)]
    assert arena.free_bytes == all_of_it


def test_of_a_killed_process_nothing_is_left_but_what_is_still_read() -> None:
    code = (
        "import time; from serving.arena import Arena\n"
        "arena = Arena(4096); offer = arena.offer\n"
        "print(offer.fd, offer.size_bytes, offer.token.hex(), flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        fd, size, token = process.stdout.readline().split()
    offer = Offer(int(fd), int(size), bytes.fromhex(token))
    try:
        assert os.readlink(f"/proc/{process.pid}/fd/{fd}") == "/memfd:gaugeway-arena (deleted)"  # it has no name
        window = Window(offer, process.pid)
    finally:
        process.kill()
        process.wait()
    assert window.memory[:16] == offer.token
    with pytest.raises(OSError):
        Window(offer, process.pid)
