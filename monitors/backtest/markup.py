"""HTML and SVG from nested calls; whatever is not markup already is escaped."""

from collections.abc import Iterator
from html import escape

_EMPTY = frozenset({"circle", "line", "meta", "path", "rect"})  # written without an end tag


class Markup(str):
    """Text that is HTML."""

    __slots__ = ()


def el(name: str, /, *children: str, **attributes: object) -> Markup:
    """An element. Of an attribute's name a last `_` is dropped and others are hyphens; None leaves it out.

    >>> el("p", "1 < 2 ", el("b", "yes"), class_="note", data_n=1.25, id=None)
    '<p class="note" data-n="1.25">1 &lt; 2 <b>yes</b></p>'
    >>> el("rect", x=1.23456, y=0.0)
    '<rect x="1.23" y="0"/>'
    """
    said = "".join(_attributes(attributes))
    if name in _EMPTY:
        return Markup(f"<{name}{said}/>")
    return Markup(f"<{name}{said}>{join(*children)}</{name}>")


def join(*children: str) -> Markup:
    """One after the other."""
    return Markup("".join(child if isinstance(child, Markup) else escape(child, quote=False) for child in children))


def _attributes(attributes: dict[str, object]) -> Iterator[str]:
    for name, value in attributes.items():
        if value is not None:
            text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
            yield f' {name.removesuffix("_").replace("_", "-")}="{escape(text)}"'
