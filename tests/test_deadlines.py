"""What is still there at its deadline is told soon after, once, whatever becomes of the others."""

import asyncio
import time

from serving.deadlines import TICK_S, Deadlines
from tests.replicas import until


def test_what_is_there_at_its_deadline_is_told_and_what_left_is_not() -> None:
    async def main() -> None:
        told: dict[str, float] = {}
        deadlines: Deadlines[str] = Deadlines(lambda item: told.update({item: time.monotonic()}))
        now = time.monotonic()
        due = {"late": now + 0.08, "early": now + 0.03, "left": now + 0.03}
        for item, deadline in due.items():
            deadlines.add(item, deadline)
        deadlines.discard("left", due["left"])
        await until(lambda: "late" in told)
        assert list(told) == ["early", "late"]
        assert all(told[item] > due[item] - TICK_S for item in told)

    asyncio.run(main())


def test_one_that_cannot_be_told_keeps_no_deadline_of_others() -> None:
    async def main() -> None:
        told: list[int] = []

        def expire(item: int) -> None:
            told.append(item)
            if item % 2:
                raise RuntimeError("broken")

        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        deadlines = Deadlines(expire)
        now = time.monotonic()
        for item in range(8):
            deadlines.add(item, now + 0.02)
        deadlines.add(8, now + 0.06)
        await until(lambda: 8 in told, 2.0)
        assert sorted(told) == list(range(9))

    asyncio.run(main())
