"""What is said of one feature, for programs; `text` says it to people."""

from typing import Literal

import msgspec

from monitors.drift.change import Onset
from monitors.explain.cells import Median
from monitors.explain.diagnoses import Diagnosis
from monitors.marginal import Kind

Direction = Literal["higher", "lower", "wider", "narrower", "otherwise", "categories"]


class Cell(msgspec.Struct, frozen=True):
    """Shares of the rows, 0..1; `moved` is this cell's part of the rows that moved, 0..1."""

    name: str
    reference: float
    now: float
    moved: float


class Point(msgspec.Struct, frozen=True):
    """The evidence in nats when a block was judged that ended at `end`."""

    end: float
    log_e: float


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """One feature, before and now. Times in seconds since 1970 UTC, shares of its rows in 0..1.

    Now are the last judged blocks, up to ten of them, after the change where an alarm is on; `onset` is None where
    none is. `again` is a change since then, the largest of those that are kept. `moved` is the total variation
    between the reference and now.
    """

    feature: str
    kind: Kind
    alarm: bool
    since: float | None
    onset: Onset | None
    again: Onset | None
    rows: int
    blocks: int
    direction: Direction
    moved: float
    median: tuple[Median, Median] | None  # reference, now; None for categories
    cells: tuple[Cell, ...]
    vanished: tuple[str, ...]  # categories that came in the reference, and no longer do
    diagnoses: tuple[Diagnosis, ...]
    evidence: tuple[Point, ...]
    threshold: float
    text: str = ""
