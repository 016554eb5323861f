"""The picture of risk: the mean loss of each block, what is allowed, and the evidence that it is more."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

import numpy as np

from monitors.backtest.axis import LEFT, RIGHT, WIDTH, Scale, svg, ticks
from monitors.backtest.document import Allowed, Block, Document, Risk, shown
from monitors.backtest.markup import Markup, el

TREND_BLOCKS = 10  # behind a point of the line
_TOP, _LOSSES, _GAP, _EVIDENCE = 14.0, 230.0, 26.0, 80.0
_APART = 13.0  # of two labels

Place = Callable[[float], float]


def harm(document: Document) -> Markup | None:
    """None where no risk was judged."""
    risks = [(i, block.risk) for i, block in enumerate(document.blocks) if block.risk is not None]
    known = [(i, risk) for i, risk in risks if risk.mean is not None]
    if document.risk is None or not known:
        return None
    scale = Scale(len(document.blocks))
    bottom = _TOP + _LOSSES + _GAP + _EVIDENCE
    parts = [
        *_alarms(risks, scale, bottom),
        *_losses(document.blocks, known, document.risk, scale),
        *_evidence(risks, scale, _TOP + _LOSSES + _GAP),
        *ticks(document.blocks, scale, bottom + 18),
    ]
    return svg(bottom + 24, "Mean loss of each block, what is allowed, and the evidence of harm", parts)


def _losses(
    blocks: Sequence[Block], known: Sequence[tuple[int, Risk]], allowed: Allowed, scale: Scale
) -> Iterator[Markup]:
    most = 1.05 * max(allowed.bound, *(risk.upper if len(known) < 500 else risk.mean or 0.0 for _, risk in known))

    def y(value: float) -> float:
        return _TOP + _LOSSES * (1 - min(value, most) / most)

    yield from _grid(y, most)
    for i, risk in known:
        yield from _point(blocks[i], risk, scale.middle(i), y)
    yield el("path", class_="trend", d=_trend(known, scale, y))
    bound, known_to_be = y(allowed.bound), y(allowed.reference)
    yield from _rule(known_to_be, "known", "reference", max(known_to_be, bound + _APART))
    yield from _rule(bound, "bound", "allowed", bound)


def _point(block: Block, risk: Risk, x: float, y: Place) -> Iterator[Markup]:
    mean = risk.mean or 0.0
    said = (
        f"{shown(block.start)}: mean loss {mean:.3f} ({risk.lower:.3f} to {risk.upper:.3f}) of {risk.n:,} labels;"
        f" evidence {risk.log_e:.1f} of {risk.threshold:.1f}{', alarm' * risk.alarm}"
    )
    yield el("line", class_="interval", x1=x, x2=x, y1=y(risk.lower), y2=y(risk.upper))
    yield el("circle", el("title", said), class_="dot", cx=x, cy=y(mean), r=2.2)


def _trend(known: Sequence[tuple[int, Risk]], scale: Scale, y: Place) -> str:
    n = np.array([risk.n for _, risk in known], float)
    total = np.cumsum(n * [risk.mean or 0.0 for _, risk in known])
    rows, before = np.cumsum(n), np.maximum(np.arange(len(n)) - TREND_BLOCKS, -1)
    sums = total - np.where(before >= 0, total[before], 0.0), rows - np.where(before >= 0, rows[before], 0.0)
    points = [
        f"{scale.middle(i):.1f} {y(float(mean)):.1f}" for (i, _), mean in zip(known, sums[0] / sums[1], strict=True)
    ]
    return "M" + "L".join(points)


def _evidence(risks: Sequence[tuple[int, Risk]], scale: Scale, top: float) -> Iterator[Markup]:
    threshold = risks[-1][1].threshold
    most, width = 1.1 * max(threshold, *(risk.log_e for _, risk in risks)), max(1.0, 0.8 * scale.step)

    def y(value: float) -> float:
        return top + _EVIDENCE * (1 - max(value, 0.0) / most)

    for i, risk in risks:
        yield el("rect", class_="evidence", x=scale.left(i), y=y(risk.log_e), width=width,
                 height=y(0.0) - y(risk.log_e))  # fmt: skip
    yield el("line", class_="axis", x1=LEFT, x2=WIDTH - RIGHT, y1=y(0.0), y2=y(0.0))
    yield from _rule(y(threshold), "bound", "alarm", y(threshold))
    yield el("text", "evidence", x=0.0, y=top + _EVIDENCE / 2 + 4, class_="name")


def _alarms(risks: Sequence[tuple[int, Risk]], scale: Scale, bottom: float) -> Iterator[Markup]:
    for alarm, group in groupby(risks, lambda pair: pair[1].alarm):
        run = [i for i, _ in group]
        x, width = scale.left(run[0]), scale.step * (run[-1] - run[0] + 1)
        if alarm:
            yield el("rect", class_="shade", x=x, y=_TOP, width=width, height=bottom - _TOP)
            yield el("path", class_="flag", d=f"M{x:.1f} {_TOP:.1f}l-6 -11h12z")


def _grid(y: Place, most: float) -> Iterator[Markup]:
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if most / step <= 6)
    for k in range(int(most / step) + 1):
        at = y(k * step)
        yield el("line", class_="axis", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at)
        yield el("text", f"{k * step:.2f}", x=LEFT - 6, y=at + 4, text_anchor="end")
    yield el("text", "mean loss", x=0.0, y=_TOP + _LOSSES / 2 + 4, class_="name")


def _rule(y: float, kind: str, label: str, label_y: float) -> Iterator[Markup]:
    yield el("line", class_=kind, x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y)
    yield el("text", label, x=WIDTH - RIGHT + 5, y=label_y + 4, class_="name")
