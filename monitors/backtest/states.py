"""The map of states: what is judged from top to bottom, blocks from left to right, and the same as a table."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from monitors.backtest.axis import LEFT, WIDTH, Scale, svg, ticks
from monitors.backtest.document import Block, Document, Evidence, Feature, shown
from monitors.backtest.markup import Markup, el, join
from monitors.budget import ALL, COVERAGE, QUALITY
from monitors.checkup import CALIBRATION
from monitors.drift.joint import JOINT

LEVELS = (0.1, 0.25, 1.0, 4.0)  # PSI: a shift is called moderate and large from the first two on; far; beyond
_NAMES = ("below 0.1", "0.1 to 0.25", "0.25 to 1", "1 to 4", "over 4")
_HEIGHT, _STRIPE, _COLUMNS = 22.0, 5.0, 12

_OTHERS = {
    QUALITY: "data quality",
    COVERAGE: "labels",
    CALIBRATION: "calibration",
    ALL: "all features",
    JOINT: "together",
}


@dataclass(frozen=True)
class Cell:
    """`psi` is of the block's rows; None where a row has none, or nothing was judged."""

    psi: float | None
    alarm: bool
    judged: bool = True

    @property
    def level(self) -> int:
        return 0 if self.psi is None else int(np.searchsorted(LEVELS, self.psi, side="right"))


def states(document: Document) -> dict[str, list[Cell]]:
    """By name of the row, one for each block: harm and all else that is no feature, then features by time in alarm."""
    blocks = document.blocks
    rows = {"harm": [_cell(block.risk) for block in blocks]}
    rows |= {name: [_cell(block.others.get(subject)) for block in blocks] for subject, name in _OTHERS.items()}
    rows["prediction"] = [_cell(block.prediction) for block in blocks]
    names = {name: None for block in blocks for name in block.features}
    features = {name: [_cell(block.features.get(name)) for block in blocks] for name in names}
    order = sorted(features, key=lambda name: (-sum(c.alarm for c in features[name]), -_largest(features[name]), name))
    rows |= {name: features[name] for name in order}
    return {name: cells for name, cells in rows.items() if any(cell.judged for cell in cells)}


def state_map(document: Document) -> Markup:
    rows, scale = states(document), Scale(len(document.blocks))
    parts = [part for i, (name, cells) in enumerate(rows.items())
             for part in _row(name, cells, document.blocks, scale, i * _HEIGHT)]  # fmt: skip
    bottom = len(rows) * _HEIGHT
    return svg(
        bottom + 24, "State of each feature in each block", [*parts, *ticks(document.blocks, scale, bottom + 18)]
    )


def legend() -> Markup:
    """What the colours mean."""
    x, parts = 0.0, []
    for number, name in enumerate(_NAMES):
        parts += [
            el("rect", class_=f"level-{number}", x=x, y=0.0, width=22.0, height=14.0),
            el("text", name, x=x + 28, y=12.0),
        ]
        x += 128
    parts += [
        el("rect", class_="stripe", x=x, y=5.0, width=22.0, height=_STRIPE),
        el("text", "in alarm", x=x + 28, y=12.0),
    ]
    return el(
        "svg", el("title", "Legend"), join(*parts), viewBox=f"0 0 {WIDTH:.0f} 16", width=WIDTH, height=16, role="img"
    )


def state_table(document: Document) -> Markup:
    """Up to a dozen spans of blocks; the largest PSI of a block, and whether there was an alarm."""
    rows, spans = states(document), np.array_split(np.arange(len(document.blocks)), min(_COLUMNS, len(document.blocks)))
    head = [el("th", shown(document.blocks[int(span[0])].start)) for span in spans]
    body = [
        el("tr", el("td", name), *(_entry([cells[i] for i in span]) for span in spans)) for name, cells in rows.items()
    ]
    return el("table", el("tr", el("th", "from"), *head), *body)


def _cell(evidence: Evidence | None) -> Cell:
    if evidence is None:
        return Cell(None, False, judged=False)
    return Cell(evidence.effects.get("psi") if isinstance(evidence, Feature) else None, evidence.alarm)


def _largest(cells: Sequence[Cell]) -> float:
    return max((cell.psi or 0.0 for cell in cells), default=0.0)


def _row(name: str, cells: Sequence[Cell], blocks: Sequence[Block], scale: Scale, y: float) -> Iterator[Markup]:
    yield el("text", name, x=LEFT - 8, y=y + _HEIGHT - 8, text_anchor="end", class_="name")
    runs = groupby(range(len(cells)), lambda i: (cells[i].judged, cells[i].level, cells[i].alarm))
    for (judged, level, alarm), group in runs:
        run = list(group)
        x, width = scale.left(run[0]), scale.step * len(run)
        said = el("title", _said(name, [cells[i] for i in run], blocks[run[0]], blocks[run[-1]]))
        if judged:
            yield el("rect", said, class_=f"level-{level}", x=x, y=y, width=width + 0.3, height=_HEIGHT - 3)
        if alarm:
            yield el("rect", said, class_="stripe", x=x, y=y + _HEIGHT - 3 - _STRIPE, width=width + 0.3, height=_STRIPE)


def _said(name: str, cells: Sequence[Cell], first: Block, last: Block) -> str:
    psi = [cell.psi for cell in cells if cell.psi is not None]
    span = f"{name}, {shown(first.start)} to {shown(last.end)}: {'in alarm' if cells[0].alarm else 'no alarm'}"
    return f"{span}, PSI of a block {min(psi):.2g} to {max(psi):.2g}" if psi else span


def _entry(cells: Sequence[Cell]) -> Markup:
    alarm = any(cell.alarm for cell in cells)
    psi = [cell.psi for cell in cells if cell.psi is not None]
    text = " ".join(filter(None, [f"{max(psi):.2f}" if psi else "", "ALARM" if alarm else ""]))
    return el("td", text or ("ok" if any(cell.judged for cell in cells) else "-"), class_="on" if alarm else None)
