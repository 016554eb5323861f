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


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What rows of one cell carry of a rise of the mean loss: `mix` as there are more of them or fewer where the loss
    was high or low before, `rate` as they are predicted worse or better. Of all cells they add up to the rise.

    `beyond` is what both are beyond the cell's share of the rows. It may be off by `error`, of all cells at once with
    probability 0.95; None: by how much is not known. `carries` says that it is more than that.
    """

    name: str
    reference: float  # share of the rows, 0..1
    now: float
    loss_before: float | None  # mean loss, 0..1; None without a row
    loss: float | None
    mix: float
    rate: float
    beyond: float
    error: float | None
    carries: bool


class Carrier(msgspec.Struct, frozen=True, kw_only=True):
    """What the cells of one feature carry of a rise: `share` of it, those that `where` names.

    The share lies between `lower` and `upper` with probability 0.95, and is above 1 where other rows lower the loss;
    `mix` of it is since there are more of these rows. Where no cell carries more than its share of the rows, `where` is
    empty and the numbers are 0.
    """

    feature: str
    where: str = ""
    share: float = 0.0
    lower: float = 0.0
    upper: float = 0.0
    mix: float = 0.0
    now: float = 0.0  # share of the rows, 0..1
    reference: float = 0.0
    loss: float = 0.0  # mean loss of these rows, 0..1
    loss_before: float | None = None  # None where the reference has no such row
    parts: tuple[Part, ...] = ()
    text: str = ""


class Rise(msgspec.Struct, frozen=True, kw_only=True):
    """Of the mean loss, from `reference` to `now`, 0..1: of the labelled rows of the blocks since it rose.

    Features are views of the same rows: the shares of two do not add up.
    """

    reference: float
    now: float
    rows: int
    blocks: int
    carriers: tuple[Carrier, ...]  # those that carry the most first
    text: str = ""
