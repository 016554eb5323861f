"""What a backtest found, as JSON: blocks, and the alarms that there would have been.

A mark is where a block begins or ends: ISO 8601 in UTC, or the number of a row where blocks are of rows.
"""

from typing import Any, Literal

import msgspec

from monitors.alarm import Severity, State
from monitors.scorecard import Scorecard
from monitors.selftest import SelfTest

Mark = str | int
Kind = Literal["risk", "drift", "prediction", "feature", "quality", "calibration", "coverage"]


def shown(mark: Mark) -> str:
    """A mark as people read it: midnight is a date, and seconds are left out where there are none.

    >>> shown("2013-06-01T00:00:00Z"), shown("2013-06-01T06:30:00Z"), shown("2013-06-01T06:30:09Z"), shown(12000)
    ('2013-06-01', '2013-06-01 06:30', '2013-06-01 06:30:09', 'row 12,000')
    """
    if isinstance(mark, int):
        return f"row {mark:,}"
    return mark.removesuffix("Z").removesuffix("T00:00:00").removesuffix(":00").replace("T", " ")


class File(msgspec.Struct, frozen=True):
    """What was read: its name, rows and the SHA-256 of its bytes."""

    name: str
    rows: int
    sha256: str


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """When the block was judged, in nats."""

    log_e: float
    threshold: float
    alarm: bool


class Feature(Evidence, frozen=True, kw_only=True):
    """A feature, or the prediction."""

    effects: dict[str, float | None]  # of the block's counted rows; `monitors.drift.EFFECTS`
    intervals: dict[str, tuple[float, float]]


class Risk(Evidence, frozen=True, kw_only=True):
    """`lower` and `upper` hold the mean loss that the block's rows were drawn with, with probability 0.95, where they
    are independent given what all of them share, as the day's weather (Maurer & Pontil 2009)."""

    mean: float | None  # of the labelled rows, 0..1; None without one
    lower: float
    upper: float
    n: int  # labelled rows
    coverage: float  # labelled share, 0..1
    state: State


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """`judged` is False for the last one where it has too few rows."""

    start: Mark
    end: Mark
    rows: int
    judged: bool
    features: dict[str, Feature] = {}
    prediction: Feature | None = None
    risk: Risk | None = None
    others: dict[str, Evidence] = {}  # `_all`, `_joint`, and what is no drift, once they were judged
    quality: dict[str, dict[str, float]] = {}  # by feature: shares of the counted rows that are missing, …


class Shift(msgspec.Struct, frozen=True):
    """Of a feature in alarm: what changed, and the shares of its rows by cell in the reference and then."""

    feature: str
    explanation: str
    cells: tuple[str, ...]
    reference: tuple[float, ...]
    then: tuple[float, ...]


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """`time` is the end of the block that raised it, `until` of the one that cleared it; None: it was on at the end."""

    time: Mark
    until: Mark | None
    kind: Kind
    severity: Severity
    subject: str
    explanation: str
    shifts: tuple[Shift, ...] = ()

    @property
    def raised(self) -> str:
        return shown(self.time)

    @property
    def cleared(self) -> str:
        return "on at the end" if self.until is None else f"until {shown(self.until)}"


class Allowed(msgspec.Struct, frozen=True):
    """The risk of the reference, and what is allowed: its upper bound plus the tolerance."""

    task: str
    reference: float
    bound: float
    n: int


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. `settings` are those of `[monitors]` that a verdict depends on, and the time zone."""

    v: int = 1
    gaugeway: str
    reference: File
    data: File
    by: Literal["time", "rows"]
    settings: dict[str, Any]
    promise: str
    notes: tuple[str, ...]
    risk: Allowed | None
    metrics: Scorecard  # of all labels, in time or not
    selftest: SelfTest  # the monitor's test of itself
    reference_quality: dict[str, dict[str, float]]  # as in a block
    blocks: tuple[Block, ...]
    alarms: tuple[Alarm, ...]

    def encode(self) -> bytes:
        """JSON in which effect sizes stand beside the evidence: ``{"log_e": 7.1, "alarm": true, "psi": 0.3, …}``."""
        tree = msgspec.to_builtins(self)
        for block in tree["blocks"]:
            for feature in filter(None, [*block["features"].values(), block["prediction"]]):
                feature |= feature.pop("effects")
        return msgspec.json.encode(tree)
