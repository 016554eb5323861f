"""The page `docs/promise.md`: what was measured, in words and tables."""

import math
from collections.abc import Iterable, Iterator, Sequence

from loadtests.promise.streams import BLOCKS, DAYS, FEATURES, FOUND_WITHIN, REFERENCE_ROWS, ROWS, SIGMA, Outcome
from loadtests.promise.table import RUNS, Caught, Row

IMAGE = "images/promise.png"
INTRODUCTION = """# Is the promise kept?

Written by `make promise`, {when}, on {machine}, in {minutes:.0f} minutes. Every seed is fixed: the counts are the same on any machine. What is promised, and under which assumptions: [statistics](statistics.md). A smaller version of the first three tables is in `make test`.

## A quarter without drift

{features} features of mean 0 and standard deviation 1, blocks of a minute with {rows} rows, {days} days: {blocks:,} blocks. Nothing changes; the reference has {reference:,} rows. Somebody is called when any feature alarms; Gaugeway calls when its evidence over all features does, with a budget of one false call in {days} days that four other alarms share (harm, predictions, data quality, labels). The delay is the median time until a shift of one feature by {sigma} standard deviations is an alarm, which is counted for Gaugeway among {features} features and for the others in that feature alone.

Rules that are slow to compute looked at fewer days, and their counts are scaled to {days}. Evidently, alibi-detect and river run as they come, in environments of their own (`loadtests/promise/rivals`). alibi-detect's detector has no default for windows and expected run time; it was given about the longest that its default of bootstraps can tell, and 200 rows of the reference."""  # noqa: E501
COUNTS = """
## Null streams

{streams} streams of {blocks} blocks for each A: alarms, and the count that a detector which just keeps the promise exceeds with probability 0.001. Blocks have 200 rows, on the boundary of the tolerance 1,000, small ones 20. `unfit`: the reference is too small for such data, and nothing is judged. A bet that is safe against every law within ε loses a little on most of them, so alarms are rarer than they may be; what that costs is the delay."""  # noqa: E501
MUTANTS = """
## Mutants

Honest detectors alarm more rarely than they may, so a test that only they pass proves little. Each of these is wrong in one place, and must exceed its limit at A = {run:.0f}:"""  # noqa: E501
DELAYS = """
## Delays

Median blocks of 200 rows until a shift is an alarm of its feature; A = 1,000, ε = 0.02, 13 cells."""
RISKS = """
Median labels until a risk above the tolerated 0.12 is an alarm; A = 1,000, 0/1 loss, blocks of 20 labels."""


def page(
    *,
    when: str,
    machine: str,
    minutes: float,
    outcomes: Sequence[Outcome],
    rows: Sequence[Row],
    mutants: Iterable[Caught],
    delays: Iterable[tuple[float, float, float, float]],
    risks: Iterable[tuple[float, float, float]],
    missing: Sequence[str] = (),
) -> str:
    """`delays`: sigma, at most, rows, blocks as units. `risks`: risk, at most, labels. `missing`: who was not run."""
    facts = {
        "when": when, "machine": machine, "minutes": minutes, "features": FEATURES, "rows": ROWS, "days": DAYS,
        "blocks": BLOCKS * DAYS, "reference": REFERENCE_ROWS, "sigma": SIGMA,
    }  # fmt: skip
    lines = [
        INTRODUCTION.format(**facts),
        "",
        *_quarter(outcomes),
        *(f"\nNot run: {who}." for who in missing),
        "",
        f"![False calls in {DAYS} days against the delay]({IMAGE})",
        COUNTS.format(streams=f"{sum(row.streams for row in rows):,}", blocks=rows[0].blocks),
        "",
        *_counts(rows),
        MUTANTS.format(run=RUNS[0]),
        "",
        *_table(
            ("wrong", "on", "alarms", "limit"), ((*said, f"{found:,}", f"{most:,}") for *said, found, most in mutants)
        ),
        DELAYS,
        "",
        *_table(
            ("shift, standard deviations", "required", '`unit = "row"`', '`unit = "block"`'),
            ((sigma, *map(_number, found)) for sigma, *found in delays),
        ),
        RISKS,
        "",
        *_table(("risk", "required", "labels"), ((risk, *map(_number, found)) for risk, *found in risks)),
    ]
    return "\n".join(lines) + "\n"


def _quarter(outcomes: Sequence[Outcome]) -> Iterator[str]:
    columns = ("", "rule", "window", "days", "false calls", "alarms of features", f"minutes to a shift of {SIGMA}")
    return _table(columns, map(_outcome, outcomes))


def _outcome(found: Outcome) -> tuple[str, ...]:
    days = f"{found.days:.2g}" if found.days < 1 else f"{found.days:g}"
    delay = _number(found.delay_min) if found.delay_min < math.inf else f"not in {FOUND_WITHIN}"
    calls = _number(found.calls)
    if found.promised is not None:
        calls += f" (promised: {found.promised:.2f})"
    return found.name, found.rule, found.window, days, calls, _number(found.alarms), delay


def _counts(rows: Sequence[Row]) -> Iterator[str]:
    columns = ("", "reference", *(f"A = {run:,.0f}" for run in RUNS))
    return _table(columns, ((row.null, f"{row.reference_rows:,}", *_cells(row)) for row in rows))


def _cells(row: Row) -> list[str]:
    if not row.streams:
        return ["unfit"] * len(RUNS)
    return [f"{found} of {limit}" for found, limit in zip(row.alarms, row.limits, strict=True)]


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    yield _line(columns)
    yield "|---" * len(columns) + "|"
    yield from map(_line, rows)


def _line(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _number(value: float) -> str:
    """
    >>> _number(129600.0), _number(0.5), _number(float("inf"))
    ('129,600', '0.5', 'never')
    """
    return "never" if value == math.inf else f"{value:,.1f}".removesuffix(".0")
