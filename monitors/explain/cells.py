"""The cells of a feature in the words and units of who sends it."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitors.marginal import Marginal


class Median(msgspec.Struct, frozen=True):
    """Of the rows that are not missing; where it lies `beyond` the reference's range, `value` is the end of that."""

    value: float
    beyond: Literal["", "below", "above"] = ""

    def __str__(self) -> str:
        return f"{self.beyond} {number(self.value)}".strip()


def names(law: Marginal) -> list[str]:
    """One for each of the K cells, in their order.

    >>> from monitors.reference import marginal
    >>> names(marginal(np.repeat(["AA", "UA"], 2000).astype(object), "categorical"))
    ['AA', 'UA', 'other known values', 'values the reference lacks', 'missing']
    """
    if law.kind == "categorical":
        return [*map(category, law.categories), "other known values", "values the reference lacks", "missing"]
    low, high = number(law.low), number(law.high)
    edges = [low, *map(number, law.edges), high]
    bins = [f"{a} to {b}" for a, b in pairwise(edges)]
    return [f"below {low}", *bins, f"above {high}", "missing"]


def spans(law: Marginal, which: Sequence[int]) -> list[str]:
    """Of some cells, in increasing order; neighbouring bins of a number are one.

    >>> from monitors.reference import marginal
    >>> spans(marginal(np.arange(2000.0), "numeric"), [0, 2, 3, 9, 10, 11, 12])
    ['below 0', '200 to 600', '1,600 or above', 'missing']
    """
    known = names(law)
    if law.kind == "categorical":
        return [known[k] for k in which]
    ends, runs = (law.low, *law.edges, law.high), list[list[int]]()
    for k in which:
        if runs and k == runs[-1][-1] + 1 <= len(ends):
            runs[-1].append(k)
        else:
            runs.append([k])
    return [known[run[0]] if len(run) == 1 else _between(ends, run[0], run[-1]) for run in runs]


def _between(ends: Sequence[float], first: int, last: int) -> str:
    """Of cells, of which 0 is below the first end, and the last above the last end."""
    if first == 0:
        return f"below {number(ends[last])}"
    return f"{number(ends[first - 1])} {f'to {number(ends[last])}' if last < len(ends) else 'or above'}"


def number(value: float) -> str:
    """
    >>> [number(x) for x in (0.123456, 12.0, 1234.5, 1234567.0)]
    ['0.1235', '12', '1,234', '1,234,567']
    """
    return f"{value:,.0f}" if 1e3 <= abs(value) < 1e15 else f"{value:.4g}"


def category(value: float | str) -> str:
    """
    >>> category("UA"), category(3.0), category(1000001.0), category(0.5)
    ('UA', '3', '1000001', '0.5')
    """
    if isinstance(value, str):
        return value
    return f"{value:.0f}" if value == round(value) and abs(value) < 1e15 else f"{value:g}"


def percent(share: float) -> str:
    """
    >>> [percent(x) for x in (0.0, 0.0004, 0.057, 0.314, 1.0)]
    ['0 %', '0.04 %', '5.7 %', '31 %', '100 %']
    """
    return f"{100 * share:.{0 if share >= 0.1 else 1 if share >= 0.01 else 2}f}".removesuffix(".00") + " %"


def median(law: Marginal, counts: Sequence[int] | NDArray[np.int64]) -> Median | None:
    """By linear interpolation inside the bin that holds it; None without rows, or for a category.

    >>> from monitors.reference import marginal
    >>> law = marginal(np.arange(2000.0), "numeric")
    >>> str(median(law, law.counts)), str(median(law, law.count(np.full(9, 1e6))))
    ('1,000', 'above 1,999')
    """
    rows = np.asarray(counts, np.float64)[:-1]
    if law.kind != "numeric" or not rows.sum():
        return None
    half, total = rows.sum() / 2, rows.cumsum()
    cell = int(np.searchsorted(total, half))
    if cell in (0, len(rows) - 1):
        return Median(law.high, "above") if cell else Median(law.low, "below")
    edges = (law.low, *law.edges, law.high)
    inside = (half - (total[cell] - rows[cell])) / rows[cell]
    return Median(float(edges[cell - 1] + inside * (edges[cell] - edges[cell - 1])))
