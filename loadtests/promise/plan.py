"""All that is measured, as steps; what becomes of their results."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

from loadtests.promise import delays, quarter, streams, table
from loadtests.promise.delays import Rise, Shift
from loadtests.promise.mutants import MUTANTS
from loadtests.promise.nulls import NULLS, Null, limit
from loadtests.promise.rivals import running
from loadtests.promise.steps import Course, Step
from loadtests.promise.streams import Outcome
from loadtests.promise.table import Caught, Row

ROW_S = {"numeric": 2e-7, "categorical": 2e-6}  # seconds of a row of a stream, by kind
STREAM_S, DAY_S, RULES_S = 0.008, 0.9, 6.0  # of a stream beside its rows, of a day of the quarter, of its delays


@dataclass(frozen=True)
class Size:
    """How much is measured. Of rivals: runs, windows of each length, and about how many seconds a run takes."""

    streams: int  # of a null and reference
    blocks: int  # of a stream
    days: int  # of the quarter
    rivals: dict[str, tuple[int, int, float]]


FULL = Size(60, 400, streams.DAYS, {"river": (4, 1440, 16), "evidently": (3, 30, 60), "alibi_detect": (3, 24, 60)})
QUICK = Size(10, 100, 2, {"river": (1, 240, 8), "evidently": (1, 5, 20), "alibi_detect": (1, 5, 60)})


@dataclass(frozen=True)
class Findings:
    """`seconds` are those of the steps; `failures` say by step why there is nothing of it."""

    seconds: float
    rows: list[Row]
    mutants: list[Caught]
    outcomes: list[Outcome]
    shifts: list[Shift]
    rises: list[Rise]
    failures: dict[str, str]

    def broken(self) -> Iterator[str]:
        """What should not be, in sentences."""
        yield from (f"the promise is broken: {row}" for row in self.rows if not row.kept)
        yield from (f"a mutant is not caught: {mutant}" for mutant in self.mutants if mutant.alarms <= mutant.limit)
        for found in self.outcomes:
            if found.promised is not None and found.calls > limit(1, 1 / found.promised):
                yield f"the promise is broken: {found}"
        yield from (f"a shift is found too late: {one}" for one in self.shifts if one.rows > one.required)
        yield from (f"a risk is found too late: {one}" for one in self.rises if one.labels > one.required)


def steps(size: Size) -> list[Step]:
    """In the order of the page, so that ours are done before others'."""
    return [*_nulls(size), *_mutants(), *_quarter(size), *_delays(), *_rivals(size)]


def findings(course: Course, size: Size) -> Findings:
    def of(some: Iterable[Step]) -> list[Any]:
        return [course.results[step.name] for step in some if step.name in course.results]

    return Findings(
        course.seconds,
        of(_nulls(size)),
        of(_mutants()),
        [*chain(*of(_quarter(size))), *streams.merged(chain(*of(_rivals(size))))],
        [found for found in of(_delays()) if isinstance(found, Shift)],
        [found for found in of(_delays()) if isinstance(found, Rise)],
        course.failures,
    )


def _nulls(size: Size) -> Iterator[Step]:
    for name in table.NAMES:
        for rows in table.REFERENCES:
            what = f"null streams: {name}, reference of {rows:,} rows"
            yield Step(
                what,
                _seconds(NULLS[name], rows, size.streams, size.blocks),
                Row,
                table.row,
                (name, rows, size.streams, size.blocks),
                _of(table),
            )


def _seconds(null: Null, reference_rows: int, streams: int, blocks: int) -> float:
    return streams * (STREAM_S + ROW_S[null.kind] * (reference_rows + blocks * null.block_rows))


def _mutants() -> Iterator[Step]:
    """As many streams in any run: with a few, one that is hardly wrong is not caught."""
    for name, mutant in MUTANTS.items():
        what, much = f"mutant: {mutant.wrong}", (FULL.streams, FULL.blocks)
        null = NULLS[mutant.null]
        yield Step(what, _seconds(null, null.reference_rows, *much), Caught, table.caught, (name, *much), _of(table))


def _quarter(size: Size) -> Iterator[Step]:
    what = f"{size.days} days without drift: Gaugeway, KS, PSI"
    yield Step(what, RULES_S + DAY_S * size.days, list[Outcome], quarter.outcomes, (size.days,), _of(quarter))


def _delays() -> Iterator[Step]:
    yield from (Step(f"delay: shift of {at}", 0.5, Shift, delays.shift, (at,), _of(delays)) for at in delays.SHIFTS)
    yield from (Step(f"delay: risk of {at}", 0.1, Rise, delays.rise, (at,), _of(delays)) for at in delays.RISKS)


def _rivals(size: Size) -> Iterator[Step]:
    for name, (runs, windows, seconds) in size.rivals.items():
        files = (running.program(name), running.listed(name))
        for number in range(runs):
            what = f"{name}, run {number + 1} of {runs}"
            yield Step(what, seconds, list[Outcome], running.run, (name, number, windows), files)


def _of(module: ModuleType) -> tuple[Path, ...]:
    assert module.__file__ is not None  # it has a source
    return (Path(module.__file__),)
