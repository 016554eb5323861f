"""The axis that all pictures share: blocks from left to right, with their times below."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from monitors.backtest.document import Block, shown
from monitors.backtest.markup import Markup, el, join

WIDTH, LEFT, RIGHT = 1130.0, 120.0, 70.0
_TICKS = 14  # at most


@dataclass(frozen=True)
class Scale:
    """Where each of `n` blocks stands between LEFT and WIDTH - RIGHT."""

    n: int

    @property
    def step(self) -> float:
        return (WIDTH - RIGHT - LEFT) / self.n

    def left(self, block: int) -> float:
        return LEFT + self.step * block

    def middle(self, block: int) -> float:
        return self.left(block) + self.step / 2


def ticks(blocks: Sequence[Block], scale: Scale, y: float) -> Iterator[Markup]:
    """Where months begin, else days, else every so many blocks."""
    for block, label in _labels(blocks):
        x = scale.left(block)
        yield el("line", class_="axis", x1=x, x2=x, y1=y - 16, y2=y - 11)
        yield el("text", label, x=x + 2, y=y)


def svg(height: float, title: str, parts: Sequence[Markup]) -> Markup:
    box = f"0 0 {WIDTH:.0f} {height:.0f}"
    return el("svg", el("title", title), join(*parts), viewBox=box, width=WIDTH, height=height, role="img")


def _labels(blocks: Sequence[Block]) -> list[tuple[int, str]]:
    starts = [shown(block.start) for block in blocks]
    for length in (7, 10):
        first = [i for i, start in enumerate(starts) if i == 0 or start[:length] != starts[i - 1][:length]]
        if isinstance(blocks[0].start, str) and 3 <= len(first) <= _TICKS:
            return [(block, starts[block][:length]) for block in first]
    every = -(-len(starts) // (_TICKS // 2))
    return [(block, starts[block]) for block in range(0, len(starts), every)]
