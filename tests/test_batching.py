"""Every request is answered exactly once, alone in its fate, in time - whatever its replicas do."""

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from serving.admission import CRITICAL, DEFAULT, SHEDDABLE, Admission, Places
from serving.batching import Answer, Batcher, Finished, Item
from serving.channel import Link, connect
from serving.engine import Engine
from serving.errors import DeadlineExceeded, GaugewayError, ModelFailure, NotReady, Overloaded
from serving.manifest import Manifest
from serving.protocol import Array, TensorSpec
from serving.retrying import RetryBudget
from serving.runtime import Session
from serving.waiting import PATIENCE
from tests import models
from tests.replicas import POISON, Function, ReplicaProcess, column, future, listening, manifest, until


class Desk:
    """A batcher with links to sockets, and what became of everything that was submitted."""

    def __init__(self, of: Manifest, *, max_batch_rows: int = 8, retries: int = 1) -> None:
        self.finished: list[Finished] = []
        self.retried = 0
        self.submitted = self.refused = 0
        self.batcher = Batcher(
            of,
            Admission("m", Places(4096), max_queue_rows=4096, queue_target_s=0.5, rng=random.Random(1)),
            max_batch_rows=max_batch_rows,
            retries=retries,
            finished=self.finished.append,
            retried=self._count,
            rng=random.Random(1),
        )

    async def link(self, path: Path) -> Link:
        link = await connect(path, self.batcher.changed)
        await until(lambda: link.state == "ready")
        self.batcher.attach(link)
        return link

    def item(self, x: Array, deadline_s: float = 10.0, key: object = "k", id: str = "") -> Item:
        loop = asyncio.get_running_loop()
        return Item([x], len(x), loop.time() + deadline_s, loop.create_future(), id, key=key)

    def submit(self, *items: Item) -> None:
        self.submitted += len(items)
        try:
            self.batcher.submit(*items)
        except GaugewayError:
            self.refused += len(items)
            raise

    async def ask(self, k: float, deadline_s: float = 10.0) -> float | GaugewayError:
        """f(k), or why there is none."""
        item = self.item(column(k), deadline_s)
        try:
            self.submit(item)
            answer: Answer = await future(item)
        except GaugewayError as error:
            return error
        return float(answer.outputs[0][0, 0])

    async def close(self) -> None:
        for link in list(self.batcher.links):
            link.close()
        await until(lambda: not self.batcher.links)

    @property
    def statuses(self) -> Counter[int]:
        return Counter(status for finished in self.finished for status in finished.statuses)

    def check_identity(self) -> None:
        """submitted = finished + refused, and nothing is left."""
        assert self.submitted == sum(self.statuses.values()) + self.refused
        assert self.batcher.queued_rows == 0 and self.batcher.idle

    def _count(self, n: int) -> None:
        self.retried += n


@contextmanager
def processes(folder: Path, n: int, run_s: float = 0.0) -> Iterator[list[ReplicaProcess]]:
    replicas = [ReplicaProcess(folder, f"r{i}", manifest(), run_s=run_s) for i in range(n)]
    try:
        for replica in replicas:
            replica.wait_ready()
        yield replicas
    finally:
        for replica in replicas:
            replica.kill()


def with_engine(
    path: Path,
    engine: Callable[[], Engine],
    test: Callable[[Desk], Awaitable[None]],
    of: Manifest | None = None,
    **bounds: int,
) -> None:
    """Run a test against one engine of this process."""

    async def main() -> None:
        async with listening(engine(), path):
            desk = Desk(of or manifest(), **bounds)
            await desk.link(path)
            await test(desk)
            await until(lambda: desk.batcher.idle)
            desk.check_identity()
            await desk.close()

    asyncio.run(main())


def test_an_idle_system_does_not_wait_and_a_busy_one_batches(tmp_path: Path) -> None:
    model = Function(lambda x: 2 * x, 0.05)

    async def test(desk: Desk) -> None:
        first = asyncio.create_task(desk.ask(0))
        await until(lambda: model.calls)
        answers = await asyncio.gather(*(desk.ask(k) for k in range(1, 20)))
        assert [await first, *answers] == [2.0 * k for k in range(20)]

    with_engine(tmp_path / "s", lambda: Engine(manifest(), model, expected_s=1.0, max_batch_rows=8), test)
    assert [len(call) for call in model.calls] == [1, 8, 8, 3]


def test_other_shapes_and_items_without_a_key_go_alone(tmp_path: Path) -> None:
    wide = manifest(inputs=[TensorSpec("x", "FP32", (-1, -1))])

    async def test(desk: Desk) -> None:
        items = [desk.item(column(1), key=None), desk.item(column(2), key=None)]
        items += [desk.item(np.full((1, w), w, np.float32), key=w) for w in (2, 2, 3)]
        for item in items:
            desk.submit(item)
        assert [float((await future(item)).outputs[0][0, 0]) for item in items] == [1, 2, 2, 2, 3]
        assert [len(finished.items) for finished in desk.finished] == [1, 1, 2, 1]

    with_engine(tmp_path / "s", lambda: Engine(wide, Function(lambda x: x[:, :1])), test, wide)


def test_one_bad_request_among_sixteen(tmp_path: Path) -> None:
    of = manifest(inputs=[TensorSpec("index", "INT64", (-1,))], outputs=[TensorSpec("y", "FP32", (-1,))])

    async def test(desk: Desk) -> None:
        items = [desk.item(np.array([99 if k == 5 else k % 3])) for k in range(16)]
        for item in items:
            desk.submit(item)
        got = await asyncio.gather(*(future(item) for item in items), return_exceptions=True)
        right = [answer.outputs[0].tolist() for answer in got if isinstance(answer, Answer)]
        assert right == [[10.0 * (k % 3 + 1)] for k in range(16) if k != 5]
        assert isinstance(got[5], ModelFailure)
        assert desk.statuses == {200: 15, 500: 1}

    with_engine(tmp_path / "s", lambda: Engine(of, Session(models.lookup())), test, of, max_batch_rows=16)


def test_a_deadline_is_kept_and_what_missed_it_is_not_computed(tmp_path: Path) -> None:
    model = Function(lambda x: x, 0.4)

    async def test(desk: Desk) -> None:
        running = [asyncio.create_task(desk.ask(k)) for k in (1, 2)]
        await until(lambda: model.calls)
        start = time.monotonic()
        assert isinstance(await desk.ask(3, deadline_s=0.1), DeadlineExceeded)
        assert 0.09 < time.monotonic() - start < 0.25
        assert isinstance(await desk.ask(4, deadline_s=0.05), DeadlineExceeded)
        assert await asyncio.gather(*running) == [1, 2]
        assert desk.statuses == {504: 2, 200: 2}

    with_engine(tmp_path / "s", lambda: Engine(manifest(), model, expected_s=1.0), test, max_batch_rows=1)
    assert {float(x) for call in model.calls for x in call.ravel()} == {1, 2}


def test_a_request_in_flight_expires_too(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        start = time.monotonic()
        assert isinstance(await desk.ask(1, deadline_s=0.1), DeadlineExceeded)
        assert 0.09 < time.monotonic() - start < 0.2
        await until(lambda: desk.batcher.idle)
        assert desk.statuses == {504: 1}

    with_engine(tmp_path / "s", lambda: Engine(manifest(), Function(lambda x: x, 0.3), expected_s=1.0), test)


def test_critical_items_go_first_and_the_others_still_go(tmp_path: Path) -> None:
    model = Function(lambda x: x, 0.005)

    async def test(desk: Desk) -> None:
        first = desk.item(column(-1))
        desk.submit(first)
        await until(lambda: model.calls)
        items = [desk.item(column(k)) for k in range(40)]
        for k, item in enumerate(items):
            item.priority = (SHEDDABLE, DEFAULT, CRITICAL, CRITICAL)[k // 10]
        desk.submit(*items)
        await asyncio.gather(*(future(item) for item in items))
        order = [int(call[0, 0]) for call in model.calls[1:]]
        assert [k for k in order if k >= 20] == list(range(20, 40))  # first come, first served within a class
        assert set(order[:PATIENCE]) == set(range(20, 20 + PATIENCE))
        assert {0, 10} <= set(order[: 2 * PATIENCE])  # and nobody waits for ever

    with_engine(
        tmp_path / "s", lambda: Engine(manifest(), model, expected_s=1.0, max_batch_rows=1), test, max_batch_rows=1
    )


def test_a_client_that_leaves_hangs_nobody(tmp_path: Path) -> None:
    model = Function(lambda x: x, 0.05)

    async def test(desk: Desk) -> None:
        tasks = [asyncio.create_task(desk.ask(k)) for k in range(12)]
        await until(lambda: model.calls)
        for k in (0, 3, 11):  # running, and waiting
            tasks[k].cancel()
        got = await asyncio.gather(*tasks, return_exceptions=True)
        assert [k for k in range(12) if isinstance(got[k], asyncio.CancelledError)] == [0, 3, 11]
        assert [got[k] for k in range(12) if k not in (0, 3, 11)] == [k for k in range(12) if k not in (0, 3, 11)]
        await until(lambda: desk.batcher.idle)
        assert desk.statuses == {200: 9, 499: 3}

    with_engine(tmp_path / "s", lambda: Engine(manifest(), model, expected_s=1.0), test, max_batch_rows=2)


def test_an_overloaded_replica_is_not_asked_sixteen_times(tmp_path: Path) -> None:
    model = Function(lambda x: x, 0.1)

    async def main() -> None:
        engine = Engine(manifest(), model, expected_s=1.0, max_queue_rows=1)
        async with listening(engine, tmp_path / "s"):
            busy, desk = Desk(manifest()), Desk(manifest(), max_batch_rows=16)
            await busy.link(tmp_path / "s")
            await desk.link(tmp_path / "s")
            others = [asyncio.create_task(busy.ask(-1))]
            await until(lambda: model.calls)
            others.append(asyncio.create_task(busy.ask(-2)))
            await until(lambda: engine.load == 2)
            got = await asyncio.gather(*(desk.ask(k) for k in range(16)))
            assert all(isinstance(error, Overloaded) for error in got)
            assert len(desk.finished) == 16 and desk.retried == 0
            await asyncio.gather(*others)
            await desk.close()
            await busy.close()

    asyncio.run(main())


def test_without_replicas_nobody_waits(tmp_path: Path) -> None:
    async def main() -> None:
        desk = Desk(manifest())
        assert isinstance(await desk.ask(1), NotReady)
        desk.check_identity()

    asyncio.run(main())


def test_the_last_replica_takes_the_queue_with_it(tmp_path: Path) -> None:
    with processes(tmp_path, 1, run_s=0.2) as (only,):

        async def main() -> None:
            desk = Desk(manifest(), max_batch_rows=2)
            await desk.link(only.socket)
            tasks = [asyncio.create_task(desk.ask(k)) for k in range(11)]
            tasks.append(asyncio.create_task(desk.ask(99, deadline_s=0.05)))
            await until(lambda: tasks[-1].done())
            only.kill()
            killed = time.monotonic()
            got = await asyncio.gather(*tasks)
            assert time.monotonic() - killed < 0.5
            assert [type(error) for error in got] == [NotReady] * 11 + [DeadlineExceeded]
            assert desk.statuses == {503: 11, 504: 1}
            assert isinstance(await desk.ask(1), NotReady)
            desk.check_identity()

        asyncio.run(main())


async def _under_load(desk: Desk, n: int, between: Callable[[int], None]) -> list[float | GaugewayError]:
    """n requests, 32 at a time; `between` is called with the number of those that are answered."""
    answered, gate = 0, asyncio.Semaphore(32)

    async def one(k: int) -> float | GaugewayError:
        nonlocal answered
        async with gate:
            got = await desk.ask(k)
        answered += 1
        between(answered)
        return got

    return list(await asyncio.gather(*(one(k) for k in range(n))))


@pytest.mark.parametrize("retries", [1, 0])
def test_a_killed_replica_loses_no_request_unless_retries_are_off(tmp_path: Path, retries: int) -> None:
    with processes(tmp_path, 2, run_s=0.004) as (lives, dies):

        async def main() -> list[float | GaugewayError]:
            desk = Desk(manifest(), retries=retries, max_batch_rows=4)
            for replica in (lives, dies):
                await desk.link(replica.socket)
            got = await _under_load(desk, 1000, lambda n: dies.kill() if n == 300 else None)
            desk.check_identity()
            assert (desk.retried > 0) == (retries > 0)
            await desk.close()
            return got

        got = asyncio.run(main())
        executed = Counter(lives.computed) + Counter(dies.computed)
    failed = [error for error in got if isinstance(error, GaugewayError)]
    assert all(answer == 2 * k for k, answer in enumerate(got) if not isinstance(answer, GaugewayError))
    assert max(executed.values()) <= 2
    if retries:
        assert failed == []
    else:  # the control: the kill did hit requests
        assert failed and all(isinstance(error, NotReady) for error in failed)


def test_what_a_node_lost_is_tried_on_another_node_even_if_it_must_wait(tmp_path: Path) -> None:
    with processes(tmp_path, 3, run_s=0.3) as (other, dies, neighbour):

        async def main() -> None:
            desk = Desk(manifest())
            await desk.link(other.socket)
            first = asyncio.create_task(desk.ask(1))
            await until(lambda: desk.batcher.links[0].inflight)
            lost = await desk.link(dies.socket)
            second = asyncio.create_task(desk.ask(2))
            await until(lambda: lost.inflight)
            lost.host = (await desk.link(neighbour.socket)).host = "another machine"
            dies.kill()
            assert list(await asyncio.gather(first, second)) == [2.0, 4.0]
            await desk.close()

        asyncio.run(main())
        assert other.computed == [1, 2] and neighbour.computed == []


def test_a_stopped_replica_gets_no_new_work_and_loses_nothing(tmp_path: Path) -> None:
    with processes(tmp_path, 2, run_s=0.004) as (lives, stops):

        async def main() -> None:
            desk = Desk(manifest(), max_batch_rows=4)
            await desk.link(lives.socket)
            link = await desk.link(stops.socket)
            got = await _under_load(desk, 300, lambda n: stops.signal(signal.SIGSTOP) if n == 100 else None)
            assert [answer for answer in got if isinstance(answer, GaugewayError)] == []
            assert got == [2.0 * k for k in range(300)]
            assert link.state == "lost" and desk.retried > 0
            stops.signal(signal.SIGCONT)
            assert await desk.ask(7) == 14
            desk.check_identity()
            await desk.close()

        asyncio.run(main())


def test_poison_kills_two_replicas_alone_and_no_third(tmp_path: Path) -> None:
    with processes(tmp_path, 3, run_s=0.02) as replicas:

        async def main() -> None:
            desk = Desk(manifest(), max_batch_rows=8)
            for replica in replicas:
                await desk.link(replica.socket)
            tasks = [asyncio.create_task(desk.ask(k)) for k in range(40)]
            poison = asyncio.create_task(desk.ask(POISON))
            tasks += [asyncio.create_task(desk.ask(k)) for k in range(40, 80)]
            assert await asyncio.gather(*tasks) == [2.0 * k for k in range(80)]
            assert isinstance(await poison, NotReady)
            again = await desk.ask(POISON)
            assert isinstance(again, ModelFailure) and "refused" in str(again)
            assert sum(replica.running for replica in replicas) == 1
            desk.check_identity()
            await desk.close()

        asyncio.run(main())


def test_the_same_innocent_input_in_many_deaths_is_not_refused(tmp_path: Path) -> None:
    """Probes send one input over and over: what is computed between two deaths is no poison."""
    with processes(tmp_path, 4, run_s=0.01) as replicas:

        async def main() -> None:
            desk = Desk(manifest(), retries=0)
            for replica in replicas:
                await desk.link(replica.socket)
            for dying in replicas[:3]:
                tasks = [asyncio.create_task(desk.ask(5)) for _ in range(40)]
                await until(lambda: all(link.inflight for link in desk.batcher.links))
                dying.kill()
                got = await asyncio.gather(*tasks)
                assert any(isinstance(error, NotReady) for error in got)
                assert not any(isinstance(error, ModelFailure) for error in got)
                assert await desk.ask(5) == 10
            await desk.close()

        asyncio.run(main())


def test_beyond_the_budget_requests_fail_rather_than_pile_up(tmp_path: Path) -> None:
    with processes(tmp_path, 2, run_s=0.05) as (lives, dies):

        async def main() -> None:
            desk = Desk(manifest(), max_batch_rows=4)
            desk.batcher._budget = RetryBudget(minimum=0, ratio=0.0)
            for replica in (lives, dies):
                await desk.link(replica.socket)
            tasks = [asyncio.create_task(desk.ask(k)) for k in range(16)]
            await until(lambda: dies.computed)
            dies.kill()
            got = await asyncio.gather(*tasks)
            assert {type(error) for error in got if isinstance(error, GaugewayError)} == {NotReady}
            assert desk.retried == 0
            desk.check_identity()
            await desk.close()

        asyncio.run(main())


def test_answers_of_a_text_model_are_cut_by_rows(tmp_path: Path) -> None:
    text = TensorSpec("text", "BYTES", (-1, 1))
    of = manifest(inputs=[text], outputs=[TensorSpec("echo", "BYTES", (-1, 1)), TensorSpec("score", "FP32", (-1, 1))])

    async def test(desk: Desk) -> None:
        words = [[b"good"], [b"bad", b"", b"x" * 300], [b"good", b"bad"]]
        items = [desk.item(np.array([[w] for w in row], object)) for row in words]
        for item in items:
            desk.submit(item)
        answers = [await future(item) for item in items]
        assert [a.outputs[0].ravel().tolist() for a in answers] == words
        assert [a.outputs[1].ravel().tolist() for a in answers] == [[1], [-1, 0, 0], [1, -1]]
        assert len(desk.finished) == 1

    with_engine(tmp_path / "s", lambda: Engine(of, Session(models.text())), test, of)
