"""A link tells each call its fate exactly once, knows a silent replica within seconds, and never swaps answers."""

import asyncio
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import uvloop

from serving import channel, frames
from serving.arena import Arena
from serving.channel import Call, Hello, Outcome, Result, connect
from serving.engine import Engine
from serving.errors import ReplicaLost
from serving.frames import Kind, Layouts
from serving.protocol import Array, TensorSpec
from tests.replicas import Function, ReplicaProcess, X, Y, column, linked, listening, manifest, until


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[ReplicaProcess]:
    process = ReplicaProcess(tmp_path, "r", manifest(), run_s=0.05)
    process.wait_ready()
    yield process
    process.kill()


def _call(k: float, outcomes: list[tuple[float, Outcome]]) -> Call:
    body = frames.to_bytes("FP32", column(k))
    meta = Layouts().encode([X], ((1, 1),), (len(body),))
    deadline = asyncio.get_running_loop().time() + 30
    return Call(meta, [body], 1, deadline, lambda link, outcome: outcomes.append((k, outcome)))


def _value(outcome: Outcome) -> float:
    assert isinstance(outcome, Result)
    return float(outcome.outputs[0][0, 0])


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        asyncio.run(linked(tmp_path / "nothing"))


def test_answers_find_their_calls(replica: ReplicaProcess) -> None:
    async def main() -> None:
        link, outcomes = await linked(replica.socket), list[tuple[float, Outcome]]()
        for k in range(20):
            link.send(_call(k, outcomes))
        assert link.inflight == 20
        await until(lambda: len(outcomes) == 20)
        assert {k: _value(outcome) for k, outcome in outcomes} == {k: 2 * k for k in range(20)}
        assert link.inflight == 0 and link.hello is not None and link.hello.replica == "r"
        link.close()
        await until(lambda: link.state == "lost")

    asyncio.run(main())


def test_a_killed_replica_is_known_at_once_and_every_call_once(replica: ReplicaProcess) -> None:
    async def main() -> None:
        link, outcomes, states = await linked(replica.socket), list[tuple[float, Outcome]](), list[str]()
        link._changed = lambda link: states.append(link.state)
        for k in range(5):
            link.send(_call(k, outcomes))
        replica.kill()
        killed = time.monotonic()
        await until(lambda: len(outcomes) == 5)
        assert time.monotonic() - killed < 0.5
        assert all(isinstance(outcome, ReplicaLost) for _, outcome in outcomes)
        assert sorted(k for k, _ in outcomes) == [0, 1, 2, 3, 4]
        await asyncio.sleep(0.1)  # nothing more may come
        assert (len(outcomes), states, link.inflight) == (5, ["lost"], 0)

    asyncio.run(main())


def test_a_stopped_replica_is_suspect_then_dead_and_its_late_answers_go_nowhere(replica: ReplicaProcess) -> None:
    async def main() -> None:
        link, outcomes, seen = await linked(replica.socket), list[tuple[float, Outcome]](), dict[str, float]()
        stopped = time.monotonic()
        link._changed = lambda link: seen.update({link.state: time.monotonic() - stopped})
        replica.signal(signal.SIGSTOP)
        link.send(_call(7, outcomes))
        await until(lambda: link.state == "lost")
        assert 0.7 < seen["suspect"] < 1.6 and 2.7 < seen["lost"] < 3.8
        assert [type(outcome) for _, outcome in outcomes] == [ReplicaLost]
        replica.signal(signal.SIGCONT)
        again = await linked(replica.socket)
        again.send(_call(8, outcomes))
        await until(lambda: len(outcomes) == 2)
        assert _value(outcomes[1][1]) == 16
        again.close()
        await until(lambda: again.state == "lost")

    asyncio.run(main())


def test_a_short_silence_is_forgiven(replica: ReplicaProcess) -> None:
    async def main() -> None:
        link, outcomes = await linked(replica.socket), list[tuple[float, Outcome]]()
        replica.signal(signal.SIGSTOP)
        link.send(_call(7, outcomes))
        await until(lambda: link.state == "suspect")
        replica.signal(signal.SIGCONT)
        await until(lambda: link.state == "ready" and outcomes)
        assert _value(outcomes[0][1]) == 14
        link.close()
        await until(lambda: link.state == "lost")

    asyncio.run(main())


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_gateway_that_stood_still_blames_no_replica(
    replica: ReplicaProcess, loop: "type[asyncio.AbstractEventLoop]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "DEAD_S", 0.6)

    async def main() -> None:
        states: list[str] = []
        link = await connect(replica.socket, lambda link: states.append(link.state))
        await until(lambda: link.state == "ready")
        time.sleep(1.0)  # as a stopped process does, or a paused machine
        await asyncio.sleep(0.3)  # a beat
        assert states == ["ready"]
        link.close()
        await until(lambda: link.state == "lost")

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


@pytest.mark.parametrize(
    "answer", [b"\0" * 40, frames.head(Kind.HELLO, 0, 3) + b"abc", frames.head(Kind.RESULT, 1, 2) + b"ab"]
)
def test_a_replica_that_talks_nonsense_is_lost(tmp_path: Path, answer: bytes) -> None:
    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read(100)
            writer.write(answer)
            await reader.read()
        finally:  # also when the test ends first
            writer.close()

    async def main() -> None:
        states: list[str] = []
        server = await asyncio.start_unix_server(nonsense, str(tmp_path / "s"))
        link = await connect(tmp_path / "s", lambda link: states.append(link.state))
        await until(lambda: link.state == "lost")
        assert states == ["lost"]
        server.close()

    asyncio.run(main())


@pytest.mark.parametrize(("kind", "meta"), [(Kind.RESULT, b"ab"), (Kind.ERROR, b"abc")])
def test_a_call_whose_answer_is_nonsense_is_told_too(tmp_path: Path, kind: Kind, meta: bytes) -> None:
    hello = frames.document(Kind.HELLO, Hello("m", "1", "", "r"))

    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read(100)
            writer.write(hello)
            await reader.read(100)
            writer.write(frames.head(kind, 1, len(meta)) + meta)
            await reader.read()
        finally:  # also when the test ends first
            writer.close()

    async def main() -> None:
        outcomes: list[tuple[float, Outcome]] = []
        server = await asyncio.start_unix_server(nonsense, str(tmp_path / "s"))
        link = await linked(tmp_path / "s")
        link.send(_call(3, outcomes))
        await until(lambda: link.state == "lost")
        assert [type(outcome) for _, outcome in outcomes] == [ReplicaLost]
        server.close()

    asyncio.run(main())


WIDE = manifest(inputs=[TensorSpec("x", "FP32", (-1, -1))], outputs=[TensorSpec("y", "FP32", (-1, -1))])


def _image(arena: Arena, rows: int, outcomes: list[tuple[float, Outcome]], fill: float) -> Call:
    """`rows` of 100 KB each, received into the arena as a body is, or into ordinary memory when that is full."""
    size = rows * 100_000
    slot = arena.take(size) or memoryview(bytearray(size))
    x = np.frombuffer(slot, np.float32).reshape(rows, -1)
    x[:] = fill
    meta = Layouts().encode(WIDE.signature.inputs, (x.shape,), (size,))
    deadline = asyncio.get_running_loop().time() + 30
    return Call(
        meta, [frames.to_bytes("FP32", x)], rows, deadline, lambda link, outcome: outcomes.append((fill, outcome))
    )


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("room_bytes", [0, 150_000, 2**20])
def test_large_tensors_arrive_whether_there_is_shared_memory_or_not(
    tmp_path: Path, loop: "type[asyncio.AbstractEventLoop]", room_bytes: int
) -> None:
    model = Function(lambda x: x[:, :1].copy())

    async def main() -> None:
        arena = Arena(room_bytes)
        all_of_it = arena.free_bytes
        async with listening(Engine(WIDE, model), tmp_path / "s"):
            link, outcomes = await linked(tmp_path / "s", arena=arena), list[tuple[float, Outcome]]()
            assert link.hello is not None and link.hello.shares == (room_bytes > 0)
            for k in range(4):
                link.send(_image(arena, 1 + k % 2, outcomes, k))
            await until(lambda: len(outcomes) == 4)
            assert all(_value(outcome) == k for k, outcome in outcomes)
            model.calls.clear()
            await until(lambda: arena.free_bytes == all_of_it)
            link.close()
            await until(lambda: link.state == "lost")

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


def test_a_slot_is_kept_until_the_replica_has_let_go_of_it(tmp_path: Path) -> None:
    release = threading.Event()

    def read_late(x: Array) -> Array:
        release.wait(10)
        return x[:, :1].copy()

    async def main() -> None:
        arena = Arena(2**20)
        all_of_it = arena.free_bytes
        async with listening(Engine(WIDE, Function(read_late), expected_s=1.0), tmp_path / "s") as engine:
            link, outcomes = await linked(tmp_path / "s", arena=arena), list[tuple[float, Outcome]]()
            runs, waits = _image(arena, 1, outcomes, 1.0), _image(arena, 1, outcomes, 2.0)
            link.send(runs)
            await until(lambda: engine.load == 1)
            link.send(waits)
            await until(lambda: engine.load == 2)
            link.forget(runs)
            link.forget(waits)
            del runs, waits
            assert link.inflight == 0
            await until(lambda: engine.load == 1)  # what waited is let go of at once,
            await until(lambda: arena.free_bytes > all_of_it - 200_000)
            assert arena.free_bytes < all_of_it  # what runs is not
            release.set()
            await until(lambda: engine.load == 0)
            await until(lambda: arena.free_bytes == all_of_it)
            assert outcomes == []

    asyncio.run(main())


def test_the_slots_of_a_lost_replica_come_back(tmp_path: Path) -> None:
    async def main() -> None:
        arena = Arena(2**20)
        all_of_it = arena.free_bytes
        engine = Engine(WIDE, Function(lambda x: x[:, :1].copy(), 0.2), expected_s=1.0)
        async with listening(engine, tmp_path / "s"):
            link, outcomes = await linked(tmp_path / "s", arena=arena), list[tuple[float, Outcome]]()
            link.send(_image(arena, 1, outcomes, 1.0))
            forgotten = _image(arena, 1, outcomes, 2.0)
            link.send(forgotten)
            link.forget(forgotten)
            del forgotten
            await until(lambda: engine.load)
            (connection,) = engine.connections
            connection.close()
            await until(lambda: link.state == "lost")
            assert [type(outcome) for _, outcome in outcomes] == [ReplicaLost]
            await until(lambda: arena.free_bytes == all_of_it)
            await until(lambda: engine.load == 0)

    asyncio.run(main())


def test_a_replica_that_cannot_see_the_memory_gets_bytes_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        arena = Arena(2**20)
        assert arena.offer is not None
        async with listening(Engine(WIDE, Function(lambda x: x[:, :1].copy())), tmp_path / "s"):
            arena.offer = msgspec.structs.replace(arena.offer, token=b"that of another!")
            outcomes: list[tuple[float, Outcome]] = []
            links = [await linked(tmp_path / "s", arena=arena) for _ in range(2)]
            for k, link in enumerate(links):
                assert link.hello is not None and not link.hello.shares
                link.send(_image(arena, 1, outcomes, k))
            await until(lambda: len(outcomes) == 2)
            assert sorted(_value(outcome) for _, outcome in outcomes) == [0, 1]

    with caplog.at_level("WARNING", "gaugeway.engine"):
        asyncio.run(main())
    assert len([r for r in caplog.records if "cannot be read: it is another one" in r.message]) == 1


def test_an_unknown_kind_of_frame_is_left_alone(tmp_path: Path) -> None:
    """A later version may say more; what was not asked is not answered."""

    async def main() -> None:
        async with listening(Engine(manifest(), Function(lambda x: x)), tmp_path / "s") as engine:
            link, outcomes = await linked(tmp_path / "s"), list[tuple[float, Outcome]]()
            (connection,) = engine.connections
            connection.write(frames.head(Kind.PONG, 5).replace(bytes([Kind.PONG]), b"\x63", 1))
            layout = Layouts().encode([Y], ((1, 1),), (4,))
            connection.send([frames.result(77, layout, 4, 0.0, 0.0, 0), b"1234"])  # to nobody
            link.send(_call(1, outcomes))
            await until(lambda: outcomes)
            assert _value(outcomes[0][1]) == 1 and link.state == "ready"

    asyncio.run(main())
