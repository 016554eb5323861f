"""Requests of a version that sleeps: they wait within their deadline, whoever wakes is told, whoever comes answers."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np

from serving.admission import Admission, Places
from serving.batching import Answer, Batcher, Item
from serving.channel import Link, connect
from serving.engine import Engine
from serving.errors import DeadlineExceeded, GaugewayError, NotReady
from tests.replicas import Function, column, future, linked, listening, manifest, until

ENDLESS_S = 3600.0


class Sleeper:
    """A batcher without a replica that may sleep, and how long cold starts took."""

    def __init__(self) -> None:
        self.cold_starts_s: list[float] = []
        admission = Admission("m", Places(99), max_queue_rows=99, queue_target_s=0.5, rng=random.Random(1))
        self.batcher = Batcher(
            manifest(), admission, max_batch_rows=8, retries=1, finished=lambda one: None,
            cold_start=self.cold_starts_s.append, rng=random.Random(1),
        )  # fmt: skip
        self.batcher.sleep.allowed = True

    async def ask(self, k: float, deadline_s: float = 10.0) -> float | GaugewayError:
        loop = asyncio.get_running_loop()
        item = Item([column(k)], 1, loop.time() + deadline_s, loop.create_future(), key="k")
        try:
            self.batcher.submit(item)
            answer: Answer = await future(item)
        except GaugewayError as error:
            return error
        return float(answer.outputs[0][0, 0])

    async def link(self, path: Path) -> Link:
        link = await connect(path, self.batcher.changed)
        await until(lambda: link.state == "ready")
        self.batcher.attach(link)
        return link


def engine() -> Engine:
    return Engine(manifest(), Function(lambda x: 2 * x))


def run(test: Callable[[Sleeper], Awaitable[None]]) -> None:
    async def main() -> None:
        await test(Sleeper())

    asyncio.run(main())


def test_requests_wait_for_the_first_replica_and_are_answered_by_it(tmp_path: Path) -> None:
    async def test(sleeper: Sleeper) -> None:
        assert sleeper.batcher.ready and not sleeper.batcher.waits(ENDLESS_S)
        asked = [asyncio.create_task(sleeper.ask(k)) for k in (1, 2, 3)]
        await until(lambda: sleeper.batcher.queued_rows == 3)
        assert sleeper.batcher.waits(ENDLESS_S)
        async with listening(engine(), tmp_path / "s"):
            await sleeper.link(tmp_path / "s")
            assert await asyncio.gather(*asked) == [2, 4, 6]
            assert not sleeper.batcher.waits(0.0)
        assert len(sleeper.cold_starts_s) == 1

    run(test)


def test_who_waits_too_long_is_told_so_and_nobody_is_woken_for_it() -> None:
    async def test(sleeper: Sleeper) -> None:
        assert isinstance(await sleeper.ask(1, deadline_s=0.05), DeadlineExceeded)
        assert not sleeper.batcher.waits(ENDLESS_S)

    run(test)


def test_a_replica_that_says_goodbye_leaves_a_version_that_sleeps(tmp_path: Path) -> None:
    async def test(sleeper: Sleeper) -> None:
        async with listening(engine(), tmp_path / "s") as leaving:
            await sleeper.link(tmp_path / "s")
            assert await sleeper.ask(1) == 2
            assert await leaving.drain(5)
            await until(lambda: not sleeper.batcher.links)
        asked = asyncio.create_task(sleeper.ask(5))
        await until(lambda: sleeper.batcher.waits(ENDLESS_S))
        async with listening(engine(), tmp_path / "t"):
            await sleeper.link(tmp_path / "t")
            assert await asked == 10

    run(test)


def test_a_request_that_comes_while_the_last_replica_leaves_waits_for_the_next(tmp_path: Path) -> None:
    async def test(sleeper: Sleeper) -> None:
        async with listening(engine(), tmp_path / "s") as leaving:
            link = await sleeper.link(tmp_path / "s")
            drained = asyncio.create_task(leaving.drain(5))
            await until(lambda: link.state != "ready")
            asked = asyncio.create_task(sleeper.ask(4))
            await drained
        async with listening(engine(), tmp_path / "t"):
            await sleeper.link(tmp_path / "t")
            assert await asked == 8

    run(test)


def test_replicas_that_died_are_not_asleep_until_one_comes_back(tmp_path: Path) -> None:
    async def test(sleeper: Sleeper) -> None:
        async with listening(engine(), tmp_path / "s"):
            await sleeper.link(tmp_path / "s")
        await until(lambda: not sleeper.batcher.links)  # its connection ended, and it had said nothing
        assert not sleeper.batcher.ready and isinstance(await sleeper.ask(1), NotReady)
        async with listening(engine(), tmp_path / "t") as back:
            await sleeper.link(tmp_path / "t")
            assert await sleeper.ask(1) == 2
            await back.drain(5)
        await until(lambda: not sleeper.batcher.links)
        assert sleeper.batcher.ready

    run(test)


def test_somebody_who_waits_for_long_behind_replicas_that_are_busy_is_told_of(tmp_path: Path) -> None:
    """So that pools that sleep beside them are woken."""

    async def test(sleeper: Sleeper) -> None:
        slow = Engine(manifest(), Function(lambda x: x, run_s=0.3), max_batch_rows=1)
        sleeper.batcher.resize(1)
        async with listening(slow, tmp_path / "s"):
            await sleeper.link(tmp_path / "s")
            asked = [asyncio.create_task(sleeper.ask(k)) for k in range(4)]
            await until(lambda: sleeper.batcher.waits(0.1))
            assert not sleeper.batcher.waits(ENDLESS_S)
            assert await asyncio.gather(*asked) == [0, 1, 2, 3]

    run(test)


def test_a_replica_hears_how_many_rows_wait_for_it_at_the_gateway(tmp_path: Path) -> None:
    async def test(sleeper: Sleeper) -> None:
        asked = engine()
        async with listening(asked, tmp_path / "s"):
            link = await linked(tmp_path / "s")
            link.backlog = lambda: 17
            await until(lambda: asked.backlog_rows == 17)
            link.backlog = lambda: 0
            await until(lambda: asked.backlog_rows == 0)
            link.close()
            assert np.isfinite(asked.meter.read(asked.backlog_rows, asyncio.get_running_loop().time()).queue_s)

    run(test)
