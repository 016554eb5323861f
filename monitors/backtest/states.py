"""The map of states: what is judged from top to bottom, blocks from left to right, and the same as a table."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from monitors.backtest.axis import LEFT, Scale, svg, ticks
from monitors.backtest.document import Block, Document, Evidence, Feature, shown
from monitors.backtest.markup import Markup, el
from monitors.budget import ALL, COVERAGE, QUALITY
from monitors.checkup import CALIBRATION
from monitors.drift.joint import JOINT

LEVELS = (0.1, 0.25, 1.0, 4.0)  # PSI: a shift is called moderate and large from the first two on; far; beyond
MOST = 40  # features on the map, the ones that were in alarm first
_NAMES = ("below 0.1", "0.1 to 0.25", "0.25 to 1", "1 to 4", "over 4")
_HEIGHT, _STRIPE, _COLUMNS = 22.0, 5.0, 12
_LETTERS = 15  # of a name beside the map

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


Rows = dict[str, list[Cell]]


def states(document: Document) -> tuple[Rows, Rows]:
    """By name of the row, one cell for each block: harm and all else that is no feature, then features by time in
    alarm; and the features for which there is no room."""
    blocks = document.blocks
    rows = {"harm": [_cell(block.risk) for block in blocks]}
    rows |= {name: [_cell(block.others.get(subject)) for block in blocks] for subject, name in _OTHERS.items()}
    rows["prediction"] = [_cell(block.prediction) for block in blocks]
    names = {name: None for block in blocks for name in block.features}
    features = {name: [_cell(block.features.get(name)) for block in blocks] for name in names}
    order = sorted(features, key=lambda name: (-sum(c.alarm for c in features[name]), -_largest(features[name]), name))
    rows |= {f"{name} (feature)" if name in rows else name: features[name] for name in order[:MOST]}
    return {name: cells for name, cells in rows.items() if any(cell.judged for cell in cells)}, {
        name: features[name] for name in order[MOST:]
    }


def state_map(document: Document, rows: Rows) -> Markup:
    scale = Scale(len(document.blocks))
    parts = [part for i, (name, cells) in enumerate(rows.items())
             for part in _row(name, cells, document.blocks, scale, i * _HEIGHT)]  # fmt: skip
    bottom = len(rows) * _HEIGHT
    return svg(
        bottom + 24, "State of each feature in each block", [*parts, *ticks(document.blocks, scale, bottom + 18)]
    )


def left_out(features: Rows) -> str:
    """What is to be said of features that are not on the map."""
    alarms = sum(any(cell.alarm for cell in cells) for cells in features.values())
    psi = max(_largest(cells) for cells in features.values())
    said = f"{alarms:,} of them were in alarm" if alarms else "None of them was in alarm"
    return f"{len(features):,} more features are not shown. {said}; the largest PSI of a block is {psi:.2f}."


def legend() -> Markup:
    """What the colours mean."""
    psi = [_key(f"level-{number}", name, 14.0) for number, name in enumerate(_NAMES)]
    return el("p", "PSI of a block: ", *psi, _key("stripe", "in alarm", _STRIPE), class_="legend")


def state_table(document: Document, rows: Rows) -> Markup:
    """Up to a dozen spans of blocks; the largest PSI of a block, and whether there was an alarm."""
    spans = np.array_split(np.arange(len(document.blocks)), min(_COLUMNS, len(document.blocks)))
    head = [el("th", shown(document.blocks[int(span[0])].start)) for span in spans]
    body = [
        el("tr", el("td", name), *(_entry([cells[i] for i in span]) for span in spans)) for name, cells in rows.items()
    ]
    return el("table", el("tr", el("th", "from"), *head), *body)


def _key(kind: str, name: str, height: float) -> Markup:
    box = el("rect", class_=kind, x=0.0, y=(14 - height) / 2, width=22.0, height=height)
    picture = el("svg", el("title", name), box, viewBox="0 0 22 14", width=22, height=14, role="img")
    return el("span", picture, name)


def _cell(evidence: Evidence | None) -> Cell:
    if evidence is None:
        return Cell(None, False, judged=False)
    return Cell(evidence.effects.get("psi") if isinstance(evidence, Feature) else None, evidence.alarm)


def _largest(cells: Sequence[Cell]) -> float:
    return max((cell.psi or 0.0 for cell in cells), default=0.0)


def _row(name: str, cells: Sequence[Cell], blocks: Sequence[Block], scale: Scale, y: float) -> Iterator[Markup]:
    yield el("text", el("title", name), _short(name), x=LEFT - 8, y=y + _HEIGHT - 8, text_anchor="end", class_="name")
    runs = groupby(range(len(cells)), lambda i: (cells[i].judged, cells[i].level, cells[i].alarm))
    for (judged, level, alarm), group in runs:
        run = list(group)
        x, width = scale.left(run[0]), scale.step * len(run)
        said = el("title", _said(name, [cells[i] for i in run], blocks[run[0]], blocks[run[-1]]))
        if judged:
            yield el("rect", said, class_=f"level-{level}", x=x, y=y, width=width + 0.3, height=_HEIGHT - 3)
        if alarm:
            yield el("rect", said, class_="stripe", x=x, y=y + _HEIGHT - 3 - _STRIPE, width=width + 0.3, height=_STRIPE)


def _short(name: str) -> str:
    """Names that are long are often alike at their beginning, or at their end."""
    return name if len(name) <= _LETTERS else f"{name[:8]}…{name[-6:]}"


def _said(name: str, cells: Sequence[Cell], first: Block, last: Block) -> str:
    psi = [cell.psi for cell in cells if cell.psi is not None]
    span = f"{name}, {shown(first.start)} to {shown(last.end)}: {'in alarm' if cells[0].alarm else 'no alarm'}"
    return f"{span}, PSI of a block {min(psi):.2g} to {max(psi):.2g}" if psi else span


def _entry(cells: Sequence[Cell]) -> Markup:
    alarm = any(cell.alarm for cell in cells)
    psi = [cell.psi for cell in cells if cell.psi is not None]
    text = " ".join(filter(None, [f"{max(psi):.2f}" if psi else "", "ALARM" if alarm else ""]))
    return el("td", text or ("ok" if any(cell.judged for cell in cells) else "-"), class_="on" if alarm else None)
