"""The figures as a table, and the document that states them. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

BEGIN, END = "<!-- figures of python -m loadtests.monitors -->", "<!-- end of figures -->"
HEAD = ("what", "measured", "target", "floor, in the same run")


@dataclass(frozen=True)
class Figure:
    """One line: what is measured, what came of it, and what it should be."""

    what: str
    measured: str
    target: str
    floor: str = ""


def table(figures: Iterable[Figure]) -> str:
    """
    >>> print(table([Figure("50 numbers", "40 ns a value", "60 ns")]))
    | what | measured | target | floor, in the same run |
    |---|---|---|---|
    | 50 numbers | 40 ns a value | 60 ns |  |
    """
    rows = [HEAD, *((figure.what, figure.measured, figure.target, figure.floor) for figure in figures)]
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|---" * len(HEAD) + "|", *body])


def stated(document: str, text: str) -> str:
    """The document with `text` between its marks. Raises ValueError where it has none.

    >>> stated(f"before {BEGIN} old {END} after", "new").splitlines()[1:4]
    ['', 'new', '']
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document has no {BEGIN} … {END} to write between")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"
