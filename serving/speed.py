"""How long runs take by their rows: measured, as a line, as it is now, and what follows for the next batch.

Pure: no socket, and the clock is an argument. A run of n rows takes about ``fixed_s + n * row_s``. Both are known from
the publication or from the replica's start; one factor on them follows what a pool's runs take now.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

BATCH_S = 1e-4  # of a batch outside the model: queue, frame, socket; about as much as was measured for small rows
ENOUGH = 0.9  # of the best rows per second
RUNS = 3  # of each size, of which the shortest counts
ALPHA = 0.2  # of the newest run in the factor
JUMP = 4.0  # a run that took longer than so many expected ones counts as so many: one pause is no slow pool


class Timed(msgspec.Struct, frozen=True, array_like=True):
    """A run of `rows` took `run_s` seconds."""

    rows: int
    run_s: float


class Line(NamedTuple):
    """Seconds of a run: `fixed_s`, and `row_s` for each row."""

    fixed_s: float
    row_s: float

    def run_s(self, rows: float) -> float:
        return self.fixed_s + rows * self.row_s


UNKNOWN = Line(1e-3, 0.0)  # of a replica that did not say


def timed(run: Callable[[int], object], most: int, budget_s: float, clock: Callable[[], float]) -> tuple[Timed, ...]:
    """Runs of 1, 2, 4, … `most` rows, until the next size is not expected to fit into the budget."""
    until = clock() + budget_s
    points: list[Timed] = []
    rows = 1
    while not points or (points[-1].rows < most and clock() + 2 * RUNS * points[-1].run_s < until):
        times = []
        for _ in range(RUNS):
            start = clock()
            run(rows)
            times.append(clock() - start)
        points.append(Timed(rows, min(times)))
        rows = min(2 * rows, most)
    return tuple(points)


def line(points: Sequence[Timed]) -> Line:
    """Through the first and the last; neither part is below 0.

    >>> round(line([Timed(1, 0.003), Timed(11, 0.023)]).run_s(100), 6)
    0.201
    """
    if not points:
        return UNKNOWN
    first, last = points[0], points[-1]
    row_s = max(0.0, (last.run_s - first.run_s) / (last.rows - first.rows)) if last.rows > first.rows else 0.0
    return Line(max(0.0, first.run_s - first.rows * row_s), row_s)


def batch_rows(points: Sequence[Timed]) -> int:
    """The smallest batch with ENOUGH of the best rows per second: more rows would only wait longer for their run.

    >>> batch_rows([Timed(1, 1.0), Timed(2, 1.2), Timed(4, 1.9), Timed(8, 3.6)])
    4
    """
    rates = [point.rows / (point.run_s + BATCH_S) for point in points]
    return next(point.rows for point, rate in zip(points, rates, strict=True) if rate >= ENOUGH * max(rates))


class Speed:
    """A pool's speed as it is now.

    >>> speed = Speed(Line(0.001, 0.0))
    >>> for _ in range(50):
    ...     speed.took(8, 0.002)
    >>> round(speed.run_s(8), 6)
    0.002
    """

    def __init__(self, prior: Line) -> None:
        self._prior = prior if prior.fixed_s + prior.row_s > 0 else UNKNOWN
        self._factor = 1.0

    def run_s(self, rows: float) -> float:
        """Seconds that a run of so many rows is expected to take."""
        return self._factor * self._prior.run_s(rows)

    def took(self, rows: int, run_s: float) -> None:
        measured = min(run_s / self._prior.run_s(rows), JUMP * self._factor)
        self._factor = max(1e-6, self._factor + ALPHA * (measured - self._factor))


class Seat(NamedTuple):
    """A replica as the next batch sees it: whether it can be sent there now, and when it would be answered."""

    free: bool
    done_s: float  # from now; of a full one, for all that waits, shared with the others of its pool


def choose(seats: Sequence[Seat], waited_s: float, patience_s: float) -> int | None:
    """The free seat that answers first. None: there is none, or it is worth to wait for a full one.

    It is as long as that, with what the batch has `waited_s` already, takes less than the free seat would from now, and
    less than `patience_s`. All that waits is counted, not the next batch alone: else a fast pool would be waited for
    however long its queue, and a slow one stay idle.

    Reference: W. Lin, P. R. Kumar, "Optimal control of a queueing system with two heterogeneous servers", IEEE
    Transactions on Automatic Control 29 (1984): the slower is used once the queue is longer than a threshold.

    >>> fast, slow = Seat(False, 0.015), Seat(True, 0.040)
    >>> choose([fast, slow], 0.0, 0.1), choose([fast, slow], 0.030, 0.1), choose([fast, slow], 0.0, 0.01)
    (None, 1, 1)
    """
    free = [at for at, seat in enumerate(seats) if seat.free]
    if not free:
        return None
    best = min(free, key=lambda at: seats[at].done_s)
    full_s = min((seat.done_s for seat in seats if not seat.free), default=float("inf"))
    return best if waited_s + full_s >= min(seats[best].done_s, patience_s) else None
