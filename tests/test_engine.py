"""Frames that come together run together, each request gets its own rows, and nothing a model does stops the engine."""

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path
from types import NoneType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import frames
from serving.arena import Arena
from serving.channel import Call, Link, Outcome, Result, connect
from serving.engine import AGAIN_S, INLINE_S, LONG_S, RECENT, Engine, Pace
from serving.errors import DeadlineExceeded, GaugewayError, ModelFailure, Overloaded, ReplicaLost
from serving.frames import Kind, Layouts
from serving.protocol import Array, TensorSpec
from serving.runtime import Session
from tests import models
from tests.replicas import Function, X, column, linked, listening, manifest, until


class Asked:
    """Sends batches on a link and keeps what came back, in the order of sending."""

    def __init__(self, link: Link) -> None:
        self.link, self.outcomes = link, list[Outcome | None]()

    def send(self, x: Array, deadline_s: float = 10.0, specs: tuple[TensorSpec, ...] = (X,)) -> Call:
        place = len(self.outcomes)
        self.outcomes.append(None)
        body = frames.to_bytes(specs[0].datatype, x)
        meta = Layouts().encode(specs, (x.shape,), (len(body),))

        def done(link: Link, outcome: Outcome) -> None:
            assert self.outcomes[place] is None, "answered twice"
            self.outcomes[place] = outcome

        call = Call(meta, [body], len(x), asyncio.get_running_loop().time() + deadline_s, done)
        self.link.send(call)
        return call

    async def all(self) -> None:
        await until(lambda: all(outcome is not None for outcome in self.outcomes))

    def values(self, place: int) -> list[float]:
        result = self.outcomes[place]
        assert isinstance(result, Result), result
        return [float(value) for value in result.outputs[0][:, 0]]

    def errors(self) -> list[type[GaugewayError]]:
        return [type(outcome) for outcome in self.outcomes if isinstance(outcome, GaugewayError)]


def test_what_comes_together_runs_together_up_to_the_bound(tmp_path: Path) -> None:
    model = Function(lambda x: 2 * x)

    async def main() -> None:
        async with listening(Engine(manifest(), model, max_batch_rows=6), tmp_path / "s"):
            asked = Asked(await linked(tmp_path / "s"))
            for k in range(5):
                asked.send(column(k, k + 0.5))
            await asked.all()
            assert [asked.values(k) for k in range(5)] == [[2 * k, 2 * k + 1] for k in range(5)]

    asyncio.run(main())
    assert [len(call) for call in model.calls] == [6, 4]


@given(st.floats(0, 0.1), st.lists(st.sampled_from([0.0, INLINE_S, LONG_S]), max_size=3 * RECENT))
def test_runs_go_to_a_thread_by_the_recent_ones(expected_s: float, runs: list[float]) -> None:
    """As said: in the loop when the best of the recent is short and none was long."""
    pace = Pace(expected_s)
    for run_s in runs:
        pace.took(run_s)
    recent = ([expected_s] * RECENT + runs)[-RECENT:]
    assert pace.inline == (min(recent) < INLINE_S and max(recent) < LONG_S)


def test_two_gateways_that_speak_in_one_turn_share_a_short_run(tmp_path: Path) -> None:
    model = Function(lambda x: -x)

    async def main() -> None:
        async with listening(Engine(manifest(), model), tmp_path / "s") as engine:
            one, two = Asked(await linked(tmp_path / "s")), Asked(await linked(tmp_path / "s"))
            await until(lambda: len(engine.connections) == 2)
            one.send(column(1))
            two.send(column(2))
            await one.all()
            await two.all()
            assert one.values(0) + two.values(0) == [-1, -2]

    asyncio.run(main())
    assert [len(call) for call in model.calls] == [2]


def test_two_gateways_share_a_run_and_get_their_own_rows(tmp_path: Path) -> None:
    model = Function(lambda x: -x, 0.05)

    async def main() -> None:
        async with listening(Engine(manifest(), model, expected_s=1.0), tmp_path / "s"):
            one, two = Asked(await linked(tmp_path / "s")), Asked(await linked(tmp_path / "s"))
            one.send(column(0))
            await until(lambda: model.calls)
            for k in (1, 2):
                one.send(column(k))
                two.send(column(10 * k))
            await one.all()
            await two.all()
            assert [one.values(k) for k in range(3)] == [[0], [-1], [-2]]
            assert [two.values(k) for k in range(2)] == [[-10], [-20]]

    asyncio.run(main())
    assert [len(call) for call in model.calls] == [1, 4]


def test_other_shapes_and_dependent_rows_run_apart(tmp_path: Path) -> None:
    wide = TensorSpec("x", "FP32", (-1, -1))
    for independent, expected in ((True, [2, 1]), (False, [1, 1, 1])):
        model = Function(lambda x: x)

        async def main(model: Function = model, independent: bool = independent) -> None:
            of = manifest(independent=independent, inputs=[wide])
            async with listening(Engine(of, model), tmp_path / "s"):
                asked = Asked(await linked(tmp_path / "s"))
                for x in (column(1), column(2), np.ones((1, 2), np.float32)):
                    asked.send(x, specs=(wide,))
                await asked.all()

        asyncio.run(main())
        assert [len(call) for call in model.calls] == expected


def test_one_bad_request_among_sixteen(tmp_path: Path) -> None:
    index, y = TensorSpec("index", "INT64", (-1,)), TensorSpec("y", "FP32", (-1,))

    async def main() -> None:
        engine = Engine(manifest(inputs=[index], outputs=[y]), Session(models.lookup()))
        async with listening(engine, tmp_path / "s"):
            asked = Asked(await linked(tmp_path / "s"))
            for k in range(16):
                asked.send(np.array([99 if k == 7 else k % 3]), specs=(index,))
            await asked.all()
            assert asked.errors() == [ModelFailure] and "idx=99" in str(asked.outcomes[7])
            right = [r.outputs[0].tolist() for r in asked.outcomes if isinstance(r, Result)]
            assert right == [[10.0 * (k % 3 + 1)] for k in range(16) if k != 7]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (lambda x: x[:1], r"output 'y' has shape \[1, 1\] for 2 rows"),
        (lambda x: x.astype(np.float64), "output 'y' has elements of float64, it declares FP32"),
        (lambda x: [x, x], "the model gave 2 outputs, it declares 1"),
        (lambda x: [list(x)], "AttributeError"),
        (lambda x: 1 // 0, "ZeroDivisionError"),
    ],
)
@pytest.mark.parametrize("independent", [True, False])
def test_a_wrong_output_is_a_model_failure_and_the_engine_goes_on(
    tmp_path: Path, output: Callable[[Array], Array], said: str, independent: bool
) -> None:
    model = Function(lambda x: output(x) if x[0] < 0 else x)
    if "for 2 rows" in said and not independent:
        return  # any shape is right there

    async def main() -> None:
        async with listening(Engine(manifest(independent=independent), model), tmp_path / "s"):
            asked = Asked(await linked(tmp_path / "s"))
            asked.send(column(-1, 1))
            await asked.all()
            asked.send(column(3, 4))
            await asked.all()
            assert isinstance(asked.outcomes[0], ModelFailure) and re.search(said, str(asked.outcomes[0]))
            assert asked.values(1) == [3, 4]

    asyncio.run(main())


def test_text_that_is_not_bytes_is_a_model_failure(tmp_path: Path) -> None:
    text = TensorSpec("y", "BYTES", (-1, 1))

    async def main() -> None:
        model = Function(lambda x: np.array([["text"]], object))
        async with listening(Engine(manifest(outputs=[text]), model), tmp_path / "s"):
            asked = Asked(await linked(tmp_path / "s"))
            asked.send(column(1))
            await asked.all()
            assert "declares BYTES" in str(asked.outcomes[0])

    asyncio.run(main())


def test_what_expired_while_it_waited_is_answered_and_not_run(tmp_path: Path) -> None:
    model = Function(lambda x: x, 0.1)

    async def main() -> None:
        async with listening(Engine(manifest(), model, expected_s=1.0), tmp_path / "s"):
            asked = Asked(await linked(tmp_path / "s"))
            asked.send(column(1))
            await until(lambda: model.calls)
            asked.send(column(2), deadline_s=0.03)
            asked.send(column(3))
            await asked.all()
            assert asked.errors() == [DeadlineExceeded]
            assert asked.values(0) + asked.values(2) == [1, 3]

    asyncio.run(main())
    assert [call.ravel().tolist() for call in model.calls] == [[1], [3]]


def test_a_run_that_nobody_waits_for_is_interrupted(tmp_path: Path) -> None:
    async def main() -> None:
        session = Session(models.slow(2**40))
        async with listening(Engine(manifest(), session, expected_s=1.0), tmp_path / "s") as engine:
            asked = Asked(await linked(tmp_path / "s"))
            asked.send(column(1), deadline_s=0.1)
            start = time.monotonic()
            await asked.all()
            assert time.monotonic() - start < 2.0 and engine.load == 0
            assert asked.errors() in ([ModelFailure], [DeadlineExceeded])

    asyncio.run(main())


def test_cancelled_and_orphaned_jobs_are_not_started(tmp_path: Path) -> None:
    model = Function(lambda x: x, 0.1)

    async def main() -> None:
        async with listening(Engine(manifest(), model, expected_s=1.0), tmp_path / "s") as engine:
            stays, leaves = Asked(await linked(tmp_path / "s")), Asked(await linked(tmp_path / "s"))
            stays.send(column(1))
            await until(lambda: model.calls)
            forgotten = stays.send(column(2))
            leaves.send(column(3))
            await until(lambda: engine.load == 3)
            stays.link.forget(forgotten)
            leaves.link.close()
            await until(lambda: engine.load == 1)
            assert stays.link.inflight == 1
            stays.send(column(4))
            await until(lambda: stays.outcomes[2] is not None)
            assert stays.outcomes[1] is None and stays.values(2) == [4]

    asyncio.run(main())
    assert [call.ravel().tolist() for call in model.calls] == [[1], [4]]


@pytest.mark.parametrize("gone", ["forgotten", "lost"])
def test_a_run_whose_clients_have_all_left_is_interrupted(tmp_path: Path, gone: str) -> None:
    async def main() -> None:
        session = Session(models.slow(2**40))  # it would run for days
        async with listening(Engine(manifest(), session, expected_s=1.0), tmp_path / "s") as engine:
            asked = Asked(await linked(tmp_path / "s"))
            call = asked.send(column(1), deadline_s=60.0)
            await until(lambda: engine._running)
            start = time.monotonic()
            if gone == "forgotten":
                asked.link.forget(call)
            else:
                asked.link.close()
            await until(lambda: engine.load == 0)
            assert time.monotonic() - start < 1.0
            assert [type(outcome) for outcome in asked.outcomes] == (
                [NoneType] if gone == "forgotten" else [ReplicaLost]
            )
            assert not engine._running and engine.overdue_s == 0.0

    asyncio.run(main())


def test_a_run_goes_on_for_those_who_stay(tmp_path: Path) -> None:
    model = Function(lambda x: -x, 0.3)

    async def main() -> None:
        async with listening(Engine(manifest(), model, expected_s=1.0), tmp_path / "s") as engine:
            asked = Asked(await linked(tmp_path / "s"))
            calls = [asked.send(column(k)) for k in range(2)]
            await until(lambda: engine._running)
            asked.link.forget(calls[0])
            await until(lambda: engine._running[0].cancelled)
            await until(lambda: asked.outcomes[1] is not None)
            assert asked.outcomes[0] is None and asked.values(1) == [-1]
            await until(lambda: engine.load == 0)

    asyncio.run(main())
    assert model.interrupted == 0 and [len(call) for call in model.calls] == [2]


def test_the_last_deadline_is_that_of_those_who_stay(tmp_path: Path) -> None:
    async def main() -> None:
        session = Session(models.slow(2**40))
        async with listening(Engine(manifest(), session, expected_s=1.0), tmp_path / "s") as engine:
            asked = Asked(await linked(tmp_path / "s"))
            leaves = asked.send(column(1), deadline_s=60.0)
            asked.send(column(2), deadline_s=0.3)
            await until(lambda: len(engine._running) == 2)
            asked.link.forget(leaves)
            await until(lambda: engine.load == 0)
            assert asked.outcomes[0] is None and asked.errors() == [DeadlineExceeded]

    asyncio.run(main())


def test_the_queue_is_bounded(tmp_path: Path) -> None:
    model = Function(lambda x: x, 0.05)

    async def main() -> None:
        engine = Engine(manifest(), model, expected_s=1.0, max_queue_rows=4)
        async with listening(engine, tmp_path / "s"):
            asked = Asked(await linked(tmp_path / "s"))
            asked.send(column(0))
            await until(lambda: model.calls)
            for k in range(1, 8):
                asked.send(column(k))
            await asked.all()
            assert asked.errors() == [Overloaded] * 3
            assert [asked.values(k) for k in range(5)] == [[0], [1], [2], [3], [4]]
            asked.send(column(*range(9)))  # larger than the bound, but nothing else waits
            await asked.all()
            assert asked.values(8) == list(range(9))

    asyncio.run(main())


def test_long_runs_leave_the_loop_to_signs_of_life(tmp_path: Path) -> None:
    pongs: list[float] = []

    class Listener(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            pongs.append(time.monotonic())

    async def main() -> None:
        model = Function(lambda x: x, 0.3)
        async with listening(Engine(manifest(), model, expected_s=1.0), tmp_path / "s"):
            asked = Asked(await linked(tmp_path / "s"))
            ping, _ = await asyncio.get_running_loop().create_unix_connection(Listener, str(tmp_path / "s"))
            asked.send(column(1))
            await until(lambda: model.calls)
            ping.write(frames.head(Kind.PING, 1))
            await until(lambda: pongs)
            assert asked.outcomes == [None]
            await asked.all()
            ping.close()

    asyncio.run(main())


def test_drain_finishes_what_is_there_and_says_goodbye(tmp_path: Path) -> None:
    model = Function(lambda x: x, 0.1)

    async def main() -> None:
        engine = Engine(manifest(), model, expected_s=1.0, max_batch_rows=1)
        async with listening(engine, tmp_path / "s"):
            asked = Asked(await linked(tmp_path / "s"))
            states: list[str] = []
            asked.link._changed = lambda link: states.append(link.state)
            for k in range(3):
                asked.send(column(k))
            await until(lambda: model.calls)
            assert await engine.drain(10)
            await until(lambda: asked.link.state == "lost")
            assert [asked.values(k) for k in range(3)] == [[0], [1], [2]]
            assert states == ["draining", "lost"]

    asyncio.run(main())


def test_a_link_that_opens_during_a_drain_is_told(tmp_path: Path) -> None:
    model = Function(lambda x: x, 0.2)

    async def main() -> None:
        engine = Engine(manifest(), model, expected_s=1.0)
        async with listening(engine, tmp_path / "s"):
            asked = Asked(await linked(tmp_path / "s"))
            asked.send(column(1))
            await until(lambda: model.calls)
            drained = asyncio.create_task(engine.drain(10))
            await until(lambda: asked.link.state == "draining")
            late = await connect(tmp_path / "s", lambda link: None)
            await until(lambda: late.state in ("draining", "lost"))
            assert await drained and asked.values(0) == [1]

    asyncio.run(main())


def test_drain_gives_up_in_time(tmp_path: Path) -> None:
    async def main() -> None:
        model = Function(lambda x: x, 0.5)
        async with listening(Engine(manifest(), model, expected_s=1.0), tmp_path / "s") as engine:
            asked = Asked(await linked(tmp_path / "s"))
            asked.send(column(1))
            await until(lambda: model.calls)
            assert not await engine.drain(0.1)

    asyncio.run(main())


def test_garbage_closes_the_connection_and_harms_no_other(tmp_path: Path) -> None:
    layouts = [b"\xc1", Layouts().encode([TensorSpec("x", "NOPE", ())], ((1, 1),), (4,))]
    fits = Layouts().encode([X], ((1, 1),), (4,))

    async def main() -> None:
        async with listening(Engine(manifest(), Function(lambda x: x)), tmp_path / "s") as engine:
            asked = Asked(await linked(tmp_path / "s"))
            for data in (
                b"GET / HTTP/1.1\r\n" * 9,
                *(frames.head(Kind.INFER, 1, len(m), 4) + m + b"1234" for m in layouts),
                frames.head(Kind.INFER, 1, len(fits), 4, references=1) + fits + b"1234",
                frames.document(Kind.HELLO, ["first", 7]),
            ):
                reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
                writer.write(data)
                assert await asyncio.wait_for(reader.read(), 5) == b""
                writer.close()
            await until(lambda: len(engine.connections) == 1)
            asked.send(column(5))
            await asked.all()
            assert asked.values(0) == [5]

    asyncio.run(main())


def test_requests_in_shared_memory_are_joined_to_one_run_and_split_again(tmp_path: Path) -> None:
    """Two connections; on each a batch of two requests of which one lies in ordinary memory."""
    wide = TensorSpec("x", "FP32", (-1, 25_000))
    model = Function(lambda x: x[:, :1].copy(), 0.05)

    async def main() -> None:
        arena = Arena(2**22)
        async with listening(Engine(manifest(inputs=[wide]), model, expected_s=1.0), tmp_path / "s"):
            links = [await linked(tmp_path / "s", arena=arena) for _ in range(2)]
            first = Asked(links[0])
            first.send(np.zeros((1, 25_000), np.float32), specs=(wide,))
            await until(lambda: model.calls)
            got: list[tuple[int, Outcome]] = []

            def keep(k: int) -> Callable[[Link, Outcome], None]:
                return lambda link, outcome: got.append((k, outcome))

            for k, link in enumerate(links):
                slot = arena.take(200_000)
                assert slot is not None
                parts = [np.frombuffer(slot, np.float32).reshape(2, -1), np.empty((1, 25_000), np.float32)]
                parts[0][:], parts[1][:] = 10 * k + 1, 10 * k + 2
                meta = Layouts().encode((wide,), ((3, 25_000),), (300_000,))
                end = asyncio.get_running_loop().time() + 10
                buffers = [frames.to_bytes("FP32", part) for part in parts]
                link.send(Call(meta, buffers, 3, end, keep(k)))
            await until(lambda: len(got) == 2)
            for k, outcome in got:
                assert isinstance(outcome, Result)
                assert outcome.outputs[0][:, 0].tolist() == [10 * k + 1, 10 * k + 1, 10 * k + 2]

    asyncio.run(main())
    assert [len(call) for call in model.calls] == [1, 6]


def test_text_scalars_and_large_tensors_travel(tmp_path: Path) -> None:
    text, scalar, large = (
        TensorSpec("t", "BYTES", (-1, 1)),
        TensorSpec("s", "FP32", ()),
        TensorSpec("x", "FP32", (-1, -1)),
    )
    specs = (text, scalar, large)
    of = manifest(independent=False, inputs=specs, outputs=specs)

    class Echo:
        def run(self, inputs: dict[str, Array]) -> list[Array]:
            return list(inputs.values())

        def interrupt(self) -> None: ...

    async def main() -> None:
        async with listening(Engine(of, Echo()), tmp_path / "s"):
            link = await linked(tmp_path / "s")
            texts = np.array([[b"a"], [b""]], object)
            sent = [texts, np.array(1.5, np.float32), np.random.default_rng(0).random((300, 700), np.float32)]
            parts = [frames.to_bytes(s.datatype, a) for s, a in zip(specs, sent, strict=True)]
            meta = Layouts().encode(specs, tuple(a.shape for a in sent), tuple(map(len, parts)))
            got: list[Outcome] = []
            end = asyncio.get_running_loop().time() + 10
            link.send(Call(meta, parts, 2, end, lambda link, outcome: got.append(outcome)))
            await until(lambda: got)
            assert isinstance(got[0], Result)
            assert all(np.array_equal(a, b) for a, b in zip(got[0].outputs, sent, strict=True))

    asyncio.run(main())


def test_a_run_that_goes_on_after_its_deadline_is_overdue_until_it_ends(tmp_path: Path) -> None:
    model = Function(lambda x: x, 0.6)  # its interrupt only counts: as a long kernel, it goes on

    async def main() -> None:
        async with listening(Engine(manifest(), model, expected_s=1.0), tmp_path / "s") as engine:
            assert engine.overdue_s == 0.0  # before the first run
            asked = Asked(await linked(tmp_path / "s"))
            asked.send(column(1), deadline_s=0.25)
            await until(lambda: model.calls)
            assert engine.overdue_s == 0.0  # it runs, within its deadline
            await until(lambda: engine.overdue_s > 0)
            before, start = engine.overdue_s, time.monotonic()
            await asyncio.sleep(0.1)
            assert 0.1 <= engine.overdue_s - before <= time.monotonic() - start + 0.01
            assert model.interrupted and asked.outcomes == [None]
            told = model.interrupted
            await until(lambda: model.interrupted > told)  # the first may have come before the run had begun
            await asked.all()
            assert engine.overdue_s == 0.0 and engine.load == 0
            asked.send(column(2))
            await asked.all()
            assert engine.overdue_s == 0.0 and asked.values(1) == [2]
            told = model.interrupted
            await asyncio.sleep(2 * AGAIN_S)  # nothing more may come
            assert model.interrupted == told

    asyncio.run(main())
