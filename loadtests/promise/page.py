"""The page `docs/promise.md`: what was measured, in words and tables."""

import math
from collections.abc import Iterable, Iterator, Sequence

from loadtests.promise import interval
from loadtests.promise.plan import Findings
from loadtests.promise.streams import BLOCKS, DAYS, FEATURES, FOUND_WITHIN, REFERENCE_ROWS, ROWS, SIGMA, Outcome
from loadtests.promise.table import RUNS, Row

IMAGE = "images/promise.png"
FACTS = {
    "features": FEATURES, "rows": ROWS, "days": DAYS, "blocks": f"{BLOCKS * DAYS:,}", "sigma": SIGMA,
    "reference": f"{REFERENCE_ROWS:,}", "all_rows": f"{BLOCKS * DAYS * ROWS / 1e6:.1f} million",
    "run": f"{RUNS[0]:.0f}",
}  # fmt: skip
INTRODUCTION = """# Is the promise kept?

Written by `make promise`, {when}, on {machine}, in {minutes:.0f} minutes. Every seed is fixed: the counts are the same on any machine. What is promised, and under which assumptions: [statistics](statistics.md). A smaller version of the null streams and the mutants is in `make test`.
"""  # noqa: E501
QUARTER = """## A quarter without drift

{features} features of mean 0 and standard deviation 1, blocks of a minute with {rows} rows, {days} days: {blocks} blocks. Nothing changes; a reference has {reference} rows. Who calls somebody when there is no drift, and how soon is a shift of one feature by {sigma} standard deviations an alarm? Gaugeway calls when its evidence over all features does, with a budget of one false call in {days} days that four other alarms share (harm, predictions, data quality, labels). The delay is the median over shifts; it is counted for Gaugeway among {features} features, for the others in the shifted feature alone, so that their false alarms do not pass for finding it.
"""  # noqa: E501
SCALED = """
"About" is a share of windows, scaled to {days} days. Its interval holds the count with probability 0.95: the wider one of Clopper and Pearson's, which takes all windows for independent, and Student's over the runs, each of which has a reference and rows of its own. Where no window alarmed, its end says how little so few windows tell. Rules that look at each row are asked once a minute whether they alarmed.

![False calls in {days} days against the delay]({image})

(Hollow: it calls nobody, or cannot find the shift of one feature.)

**What each was asked.** None of the authors promises what is tested here; the table says what comes of it when somebody is called whenever they say drift.

- *Kolmogorov-Smirnov* and *PSI*, the rules of most dashboards, are computed here (`loadtests/promise/quarter.py`): the asymptotic two-sample test, compared with SciPy's by a test, and PSI over ten quantile bins of the reference.
- *Evidently* is given reference and window as data frames of {features} numeric columns and asked how many columns drift, with every default: `DriftedColumnsCount`, the metric of its `DataDriftPreset` that counts; the preset's others test the same columns again and draw each, which takes most of its time. For references of more than 1,000 rows its default is Wasserstein's distance over the reference's standard deviation, and 0.1 or more is drift: the size of an effect in one window, with no rate of false alarms meant. It calls a data set drifted when half of its columns are; both readings are shown. With its own reading no shift of one feature can be found.
- *alibi-detect*: `CVMDriftOnline`, its only online detector of numbers that needs neither PyTorch nor TensorFlow. It has no default for windows and expected run time. It does promise that run time, in rows, and takes bootstraps in proportion to it: its default of 10,000 can tell about the 400 rows that it is asked for here. That is an alarm in two minutes, 64,800 in {days} days, to compare with its row; a run time of {days} days would be {all_rows} rows. Its reference is the first 200 rows, since time and memory grow with their square. After an alarm it begins anew.
- *river*: `ADWIN` and `PageHinkley` as they come, one for each feature. They are made to tell a learner when to forget, where a false alarm costs little.

Each is run in an environment of its own with pinned packages (`loadtests/peers`, `loadtests/promise/rivals`).
"""  # noqa: E501
NULLS = """## Null streams

{streams} streams of {blocks} blocks for each A: alarms, and the count that a detector which just keeps the promise exceeds with probability 0.001. Blocks have 200 rows, on the boundary of the tolerance 1,000, small ones 20. Streams whose reference is too small for such data are not judged and not counted; `unfit`: none could be. A bet that is safe against every law within ε loses a little on most of them, so alarms are rarer than they may be; what that costs is the delay.
"""  # noqa: E501
MUTANTS = """## Mutants

Honest detectors alarm more rarely than they may, so a test that only they pass proves little. Each of these is wrong in one place, and must exceed its limit at A = {run}:
"""  # noqa: E501
SHIFTS = """## Delays

Median blocks of 200 rows until a shift is an alarm of its feature; A = 1,000, ε = 0.02, 13 cells.
"""
RISES = """
Median labels until a risk above the tolerated 0.12 is an alarm; A = 1,000, 0/1 loss, blocks of 20 labels.
"""


def page(found: Findings, machine: str, when: str) -> str:
    introduction = INTRODUCTION.format(when=when, machine=machine, minutes=max(1.0, found.seconds / 60))
    parts = (_quarter(found), _nulls(found.rows), _mutants(found), _delays(found))
    return "\n".join([introduction, *(line for part in parts for line in part)]).rstrip("\n") + "\n"


def _quarter(found: Findings) -> Iterator[str]:
    yield QUARTER.format(**FACTS)
    columns = ("", "rule", "looks at", "windows looked at", "with an alarm", f"false calls in {DAYS} days")
    yield from _table((*columns, f"minutes to a shift of {SIGMA}"), map(_outcome, found.outcomes))
    yield from (f"\nNot run: {step} ({why})." for step, why in found.failures.items())
    yield SCALED.format(image=IMAGE, **FACTS)


def _outcome(found: Outcome) -> tuple[str, ...]:
    share = f"{sum(found.called):,} ({sum(found.called) / found.looked_at:.2%})"
    late = f"not in {FOUND_WITHIN}" if found.firsts else "-"
    delay = _number(found.delay_min) if found.delay_min < math.inf else late
    return found.name, found.rule, found.window, _looked_at(found), share, _calls(found), delay


def _looked_at(found: Outcome) -> str:
    runs = f" in {len(found.called)} runs" if len(found.called) > 1 else ""
    return f"all {found.quarter:,}" if found.looked_at == found.quarter else f"{found.looked_at:,}{runs}"


def _calls(found: Outcome) -> str:
    promised = "" if found.promised is None else f" (promised: {found.promised:.2f})"
    if found.looked_at == found.quarter:
        return f"{found.calls:,.0f}{promised}"
    low, high = interval.of_calls(found)
    return f"about {found.calls:,.0f} ({low:,.0f} to {high:,.0f}){promised}"


def _nulls(rows: Sequence[Row]) -> Iterator[str]:
    yield NULLS.format(streams=f"{sum(row.streams for row in rows):,}", blocks=rows[0].blocks)
    columns = ("", "reference", "streams", *(f"A = {run:,.0f}" for run in RUNS))
    yield from _table(columns, ((row.null, f"{row.reference_rows:,}", row.streams, *_cells(row)) for row in rows))
    yield ""


def _cells(row: Row) -> list[str]:
    if not row.streams:
        return ["unfit"] * len(RUNS)
    return [f"{found:,} of {limit:,}" for found, limit in zip(row.alarms, row.limits, strict=True)]


def _mutants(found: Findings) -> Iterator[str]:
    yield MUTANTS.format(**FACTS)
    rows = ((one.wrong, one.null, f"{one.alarms:,}", f"{one.limit:,}") for one in found.mutants)
    yield from _table(("wrong", "on", "alarms", "limit"), rows)
    yield ""


def _delays(found: Findings) -> Iterator[str]:
    yield SHIFTS
    shifts = ((one.sigma, one.required, _number(one.rows), _number(one.blocks)) for one in found.shifts)
    yield from _table(("shift, standard deviations", "required", '`unit = "row"`', '`unit = "block"`'), shifts)
    yield RISES
    rises = ((one.risk, f"{one.required:,}", _number(one.labels)) for one in found.rises)
    yield from _table(("risk", "required", "labels"), rises)


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
