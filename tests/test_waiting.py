"""Nobody is lost, nobody overtakes within a line, nobody starves."""

from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.admission import PRIORITIES
from serving.waiting import LINES, PATIENCE, Waiting


@dataclass(frozen=True)
class Item:
    priority: int
    number: int


def test_there_is_a_line_for_every_priority() -> None:
    assert len(PRIORITIES) == LINES


@given(st.lists(st.one_of(st.integers(0, LINES - 1), st.none())))
def test_what_goes_in_comes_out_once_and_in_the_order_of_its_line(steps: list[int | None]) -> None:
    """A number appends an item of that priority, None takes one."""
    queue: Waiting[Item] = Waiting()
    taken: list[Item] = []
    for number, step in enumerate(steps):
        if step is not None:
            queue.append(Item(step, number))
        elif queue:
            head = queue.head()
            taken.append(queue.popleft())
            assert taken[-1] is head
    assert len(queue) == len(list(queue))
    taken += [queue.popleft() for _ in range(len(queue))]
    for line in range(LINES):
        expected = [number for number, step in enumerate(steps) if step == line]
        assert [item.number for item in taken if item.priority == line] == expected
    with pytest.raises(IndexError):
        queue.popleft()


def test_critical_goes_first_and_the_last_line_still_moves() -> None:
    queue: Waiting[Item] = Waiting()
    for priority in range(LINES):
        for number in range(1000):
            queue.append(Item(priority, number))
    turns = [queue.popleft().priority for _ in range(1000)]
    assert turns[:PATIENCE] == [0] * PATIENCE
    assert turns.count(0) >= 1000 * (1 - (LINES - 1) / PATIENCE)
    for line in range(1, LINES):
        places = [at for at, turn in enumerate(turns) if turn == line]
        assert len(places) > 1 and max(b - a for a, b in pairwise(places)) <= PATIENCE + LINES


def test_what_is_put_back_goes_before_its_own_line_only() -> None:
    queue: Waiting[Item] = Waiting()
    queue.append(Item(1, 1))
    queue.append(Item(0, 2))
    queue.appendleft(Item(1, 3))
    assert [queue.popleft().number for _ in range(3)] == [2, 3, 1]


def test_what_is_over_leaves_the_front_of_its_line() -> None:
    queue: Waiting[Item] = Waiting()
    for number in range(10):
        queue.append(Item(2, number))
        queue.append(Item(0, number))
    queue.prune(2, lambda item: item.number < 4 or item.number == 7)
    assert len(queue) == 16 and len(list(queue)) == 16
    rest = [queue.popleft() for _ in range(16)]
    assert [item.number for item in rest if item.priority == 2] == [4, 5, 6, 7, 8, 9]  # 7 is behind one that is not
