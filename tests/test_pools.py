"""Two pools of different speed behind one batcher: real engines on real sockets."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from serving.channel import connect_far
from serving.engine import Engine
from serving.protocol import Array
from serving.speed import Line
from serving.trust import Trust
from tests.replicas import SECRET, Function, listening, manifest, until
from tests.test_batching import Desk

FAST_S, SLOW_S = 0.002, 0.04


class Pair:
    """A desk with a link to each pool, and the rows that each ran."""

    def __init__(self, folder: Path, desk: Desk, fast: Function, slow: Function) -> None:
        self.folder, self.desk, self.fast, self.slow = folder, desk, fast, slow

    @property
    def rows(self) -> tuple[int, int]:
        return sum(map(len, self.fast.calls)), sum(map(len, self.slow.calls))


def with_pair(
    folder: Path, test: Callable[[Pair], Awaitable[None]], told: bool = True, most: tuple[int, int] = (1, 1)
) -> None:
    """`told`: the replicas say how fast they are; `most` rows of their runs, fast and slow."""

    async def main() -> None:
        fast, slow = (Function(lambda x: 2 * x, run_s) for run_s in (FAST_S, SLOW_S))
        lines = [Line(run_s, 0.0) if told else Line(0.0, 0.0) for run_s in (FAST_S, SLOW_S)]
        engines = [
            Engine(manifest(), model, pool=name, line=line, max_batch_rows=rows, expected_s=1.0)
            for name, model, line, rows in zip(("gpu", "cpu"), (fast, slow), lines, most, strict=True)
        ]
        desk = Desk(manifest(), max_batch_rows=min(most))
        async with listening(engines[0], folder / "fast"), listening(engines[1], folder / "slow"):
            for name in ("slow", "fast"):
                await desk.link(folder / name)
            await test(Pair(folder, desk, fast, slow))
            await until(lambda: desk.batcher.idle)
            desk.check_identity()
            await desk.close()

    asyncio.run(main())


@pytest.mark.parametrize("told", [True, False])
def test_the_faster_gets_all_until_it_is_full_then_both_do(tmp_path: Path, told: bool) -> None:
    async def test(pair: Pair) -> None:
        for k in range(20):
            assert await pair.desk.ask(k) == 2 * k
        before = pair.rows
        if told:
            assert before == (20, 0)
        else:  # each is tried until both are known
            assert before[1] < 10
        answers = await asyncio.gather(*(pair.desk.ask(k) for k in range(300)))
        assert answers == [2.0 * k for k in range(300)]
        fast, slow = (now - old for now, old in zip(pair.rows, before, strict=True))
        assert slow >= 3 and fast > 5 * slow

    with_pair(tmp_path, test, told)


def test_a_pool_takes_batches_of_its_own_size(tmp_path: Path) -> None:
    async def test(pair: Pair) -> None:
        await asyncio.gather(*(pair.desk.ask(k) for k in range(600)))
        assert max(map(len, pair.slow.calls)) <= 4
        assert 32 >= max(map(len, pair.fast.calls)) > 4

    with_pair(tmp_path, test, most=(32, 4))


def test_work_goes_to_the_slower_when_the_faster_stops_to_answer(tmp_path: Path) -> None:
    async def test(pair: Pair) -> None:
        fast, slow = pair.desk.batcher.links[1], pair.desk.batcher.links[0]
        stuck = Function(lambda x: x, 0.5)
        pair.fast.run = stuck.run  # type: ignore[method-assign]
        asked = [asyncio.create_task(pair.desk.ask(k)) for k in range(6)]
        await until(lambda: len(pair.slow.calls) == 4, 0.45)
        assert fast.inflight == 2 and slow.state == "ready"
        await asyncio.gather(*asked)

    with_pair(tmp_path, test)


def test_when_a_pool_is_gone_the_other_goes_on(tmp_path: Path) -> None:
    async def test(pair: Pair) -> None:
        asked = [asyncio.create_task(pair.desk.ask(k)) for k in range(50)]
        await until(lambda: pair.rows[0] > 5)
        pair.desk.batcher.links[1].close()
        assert [await one for one in asked] == [2.0 * k for k in range(50)]

    with_pair(tmp_path, test)


def test_what_idles_on_the_own_node_goes_first_and_all_share_what_is_too_much_for_it(tmp_path: Path) -> None:
    async def main() -> None:
        full, go_on = threading.Event(), threading.Event()

        def held(x: Array) -> Array:
            """Twice it; while the node is full, not before the other has worked."""
            assert not full.is_set() or go_on.wait(5)
            return 2 * x

        near, far = Function(held, FAST_S), Function(lambda x: 2 * x, FAST_S)
        here, there = (Engine(manifest(), model, expected_s=1.0) for model in (near, far))
        desk = Desk(manifest(), max_batch_rows=1)
        async with listening(here, tmp_path / "here"), listening(there, tmp_path / "there"):
            port = await there.listen_far("127.0.0.1", Trust(SECRET.encode()), lambda: None)
            await desk.link(tmp_path / "here")
            link = await connect_far(f"127.0.0.1:{port}", Trust(SECRET.encode()), desk.batcher.changed)
            await until(lambda: link.state == "ready")
            desk.batcher.attach(link)
            assert [await desk.ask(k) for k in range(20)] == [2 * k for k in range(20)]
            assert (len(near.calls), len(far.calls)) == (20, 0)
            full.set()
            asked = [asyncio.create_task(desk.ask(k)) for k in range(60)]
            await until(lambda: sum(map(len, far.calls)) == 58)  # all but the two that the near one holds
            go_on.set()
            assert [await one for one in asked] == [2 * k for k in range(60)]
            await desk.close()

    asyncio.run(main())
