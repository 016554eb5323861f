"""Shares of the rows by cell as pairs of bars: in the reference, and in the blocks behind an alarm."""

from collections.abc import Iterator

from monitors.backtest.document import Shift
from monitors.backtest.markup import Markup, el, join
from monitors.explain.cells import percent

_WIDTH, _LEFT, _ROW = 340.0, 126.0, 21.0
_LEAST = 0.0005  # a cell with less on both sides is not shown


def pairs(shift: Shift, *, said: bool) -> Markup:
    """A figure of one feature; with `said` its explanation is above."""
    cells = list(zip(shift.cells, shift.reference, shift.then, strict=True))
    used = [cell for cell in cells if max(cell[1:]) >= _LEAST]
    most = max(max(cell[1:]) for cell in used)
    parts = [part for i, cell in enumerate(used) for part in _pair(*cell, most, _ROW * i)]
    height = _ROW * len(used)
    title = f"{shift.feature}: share of the rows in each cell, in the reference and then"
    picture = el("svg", el("title", title), join(*parts), viewBox=f"0 0 {_WIDTH:.0f} {height:.0f}",
                 width=_WIDTH, height=height, role="img")  # fmt: skip
    caption = el("figcaption", *([shift.explanation] if said else [el("b", shift.feature)]))
    return el("figure", caption, picture)


def _pair(name: str, reference: float, then: float, most: float, y: float) -> Iterator[Markup]:
    scale = (_WIDTH - _LEFT - 44) / most
    yield el("text", name if len(name) < 22 else f"{name[:20]}…", x=_LEFT - 8, y=y + 15, text_anchor="end")
    for kind, share, at in (("bar-reference", reference, y + 2), ("bar-then", then, y + 10)):
        said = el("title", f"{name}: {percent(share)}")
        yield el("rect", said, class_=kind, x=_LEFT, y=at, width=max(0.5, scale * share), height=7.0)
        yield el("text", percent(share), x=_LEFT + 4 + scale * share, y=at + 7, class_="value")
