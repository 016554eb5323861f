"""What is added up of labelled rows: integers. Nodes and restarts add, and a corrected label subtracts, exactly.

A row of sums is an array of int64; several rows, one a segment, have shape (segments, width). Losses and scores are
counted in units of 2^-32 of the largest there may be, so a sum is exact up to 2^31 rows.
"""

import math
from functools import lru_cache
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitors.metrics.sequence import Floats
from monitors.slot import LOSS_UNIT

Sums = NDArray[np.int64]
Task = Literal["classification", "regression"]

ERROR_CAPS = 8.0  # absolute errors are counted up to as many of the caps of the risk's loss
LEAST = 2.0**-23  # of a probability in a log loss, so that one row costs at most 15.9 nats
MOST_NATS = -math.log(LEAST)
_FINE = 1 / 80  # width of bins of scores; outside [_FINE, 1 - _FINE] they halve
_HALVINGS = 16
_LOSSES = 4  # squared error, its square, log loss, its square
_ERRORS = 7  # rows; of errors above and below the label: their sum, squares, fourth powers
_KPI = 2  # sum and squares, the last columns


class Plan(msgspec.Struct, frozen=True, array_like=True):
    """How the labels of a version are counted. Part of its state, so that sums of different plans are never added."""

    task: Task
    threshold: float = 0.5  # a score of at least this predicts 1
    quantile: float = 0.5  # of the label, that a regression predicts
    cap: float = 1.0  # absolute error that counts as a loss of 1
    design_effect: float = 1.0  # rows that are worth one independent row
    low: float = 0.0  # the range of a KPI whose mean is told; none: both are 0
    high: float = 0.0

    @property
    def most_error(self) -> float:
        """Absolute errors are counted up to this, in the label's unit."""
        return self.cap * ERROR_CAPS

    @property
    def width(self) -> int:
        """Numbers in a row of sums."""
        own = _ERRORS if self.task == "regression" else 3 * (len(edges(self.threshold)) + 1) + _LOSSES
        return own + _KPI

    def rows(self, sums: Sums) -> Sums:
        """Labelled rows behind sums of shape (segments, width): shape (segments,)."""
        first = 1 if self.task == "regression" else 2 * (len(edges(self.threshold)) + 1)
        found: Sums = sums[:, :first].sum(1)
        return found

    def count(
        self, scores: Floats, labels: Floats, signs: Sums, places: NDArray[np.intp] | None = None, rows: int = 1,
        kpis: Floats | None = None,
    ) -> Sums:  # fmt: skip
        """Sums of shape (rows, width): each score with its label counted `signs` times in row `places` of them.

        Without `kpis` the labels are these.

        >>> plan, one = Plan("regression", cap=0.5), np.array([1])
        >>> plan.count(np.array([3.0]), np.array([2.0]), one).tolist()
        [[1, 1073741824, 268435456, 16777216, 0, 0, 0, 0, 0]]
        """
        columns, values = (_of_errors if self.task == "regression" else _of_scores)(self, scores, labels)
        if self.high > self.low:
            columns += [self.width - 2, self.width - 1]
            share = np.clip(((labels if kpis is None else kpis) - self.low) / (self.high - self.low), 0.0, 1.0)
            values += [_units(share), _units(share**2)]
        found = np.zeros((rows, self.width), np.int64)
        place = np.zeros(len(scores), np.intp) if places is None else places
        for column, value in zip(columns, values, strict=True):
            np.add.at(found.ravel(), place * self.width + column, value * signs)
        return found


@lru_cache(256)
def edges(threshold: float) -> Floats:
    """Inner edges of the bins of scores, [edge, next edge), increasing: tenths and the threshold are among them.

    They are fine where models of rare events are: 3e-7 beside 0 and 1.

    >>> len(edges(0.5)), len(edges(0.123)), edges(0.5)[15:18].round(3).tolist()
    (111, 112, [0.006, 0.012, 0.025])
    """
    tails = _FINE * 2.0 ** -np.arange(1, _HALVINGS + 1)
    even = np.arange(1, round(1 / _FINE)) / round(1 / _FINE)
    inner = {*even.tolist(), *tails.tolist(), *(1 - tails).tolist(), threshold}
    return np.array(sorted(edge for edge in inner if 0 < edge < 1))


Columns = list[int | NDArray[np.intp]]


def _of_scores(plan: Plan, scores: Floats, labels: Floats) -> tuple[Columns, list[Sums]]:
    """Rows with label 0 by bin, with label 1 by bin, sums of scores by bin, losses."""
    inner = edges(plan.threshold)
    bins, n = np.searchsorted(inner, scores, side="right"), len(inner) + 1
    positive = labels >= 0.5
    error = np.minimum(np.abs(scores - labels), 1.0)
    p = np.clip(scores, LEAST, 1 - LEAST)
    nats = -np.log(np.where(positive, p, 1 - p)) / MOST_NATS
    columns: Columns = [bins + n * positive, 2 * n + bins, *range(3 * n, 3 * n + _LOSSES)]
    ones = np.ones(len(scores), np.int64)
    return columns, [ones, *map(_units, (np.clip(scores, 0, 1), error**2, error**4, nats, nats**2))]


@np.errstate(over="ignore")  # errors are clipped
def _of_errors(plan: Plan, predictions: Floats, labels: Floats) -> tuple[Columns, list[Sums]]:
    error = np.clip((predictions - labels) / plan.most_error, -1.0, 1.0)
    over, under = np.maximum(error, 0.0), np.maximum(-error, 0.0)
    powers = [side**power for side in (over, under) for power in (1, 2, 4)]
    return [*range(_ERRORS)], [np.ones(len(error), np.int64), *map(_units, powers)]


def _units(values: Floats) -> Sums:
    return np.rint(values / LOSS_UNIT).astype(np.int64)
