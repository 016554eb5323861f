"""What the explanations of single features leave open: harm, and rows that have no time."""

import math
from collections.abc import Sequence

from monitors.calibration import CalibrationVerdict
from monitors.coverage import CoverageVerdict
from monitors.explain.cells import percent
from monitors.explain.explanation import Direction, Explanation
from monitors.explain.wording import named, since
from monitors.loss import Risk
from monitors.quality import QualityVerdict
from monitors.risk import RiskVerdict
from monitors.selftest import THRESHOLD, SelfTest
from monitors.slot import ROWS

_WAYS: dict[Direction, str] = {
    "higher": "higher", "lower": "lower", "wider": "spread wider", "narrower": "less spread",
    "otherwise": "other values", "categories": "other values",
}  # fmt: skip
WHOLE = "The rows as a whole no longer look like the reference."
JOINT = "A classifier can tell the rows from those of the reference."
NAMED = 5  # checks of data quality in one sentence
LOSSES = {"classification": "Brier loss", "regression": "absolute error, as a share of its cap,"}


def harm(verdict: RiskVerdict, risk: Risk, *, timed: bool) -> str:
    """Of an alarm of risk: since when, how much, and what is allowed."""
    since_when = f" since {since(verdict.onset)}" if timed and verdict.onset else ""
    lately = verdict.mean if verdict.lately is None else verdict.lately
    share = percent(lately / risk.mean - 1) if lately > risk.mean > 0 else ""
    than = f"{share} more than the reference's {risk.mean:.3f}; " if share else ""
    return f"The mean {LOSSES[risk.task]} is {lately:.3f}{since_when}, {than}up to {verdict.bound:.3f} is allowed."


def quality(verdict: QualityVerdict) -> str:
    """The checks in alarm, else the one with the strongest evidence."""
    checks = [(feature, name, check) for feature, by_name in verdict.checks.items() for name, check in by_name.items()]
    strongest = sorted(checks, key=lambda check: (-check[2].alarm, -check[2].log_e))[:NAMED]
    found = [check for check in strongest if check[2].alarm] or strongest[:1]
    said = (
        f"{_checked(feature)} {name} {percent(check.ratio)} (reference {percent(check.reference)})"
        for feature, name, check in found
    )
    return f"The data are not as good as the reference, by shares of the rows: {', '.join(said)}."


def _checked(feature: str) -> str:
    return "whole rows" if feature == ROWS else named(feature)


def calibration(verdict: CalibrationVerdict) -> str:
    expected, realised = verdict.expected or 0.0, verdict.realised or 0.0
    return (
        f"The probabilities are not believable, at least in a part of their range: over all of it, {percent(realised)}"
        f" of {verdict.n:,} rows had the label 1, where {percent(expected)} were expected."
    )


def coverage(verdict: CoverageVerdict) -> str:
    newest, usual = percent(verdict.newest or 0.0), percent(verdict.usual or 0.0)
    return f"Labels stay away: {newest} of the newest block's predictions have one, where {usual} had."


def at_once(found: Sequence[Explanation]) -> str:
    """The features in alarm, the strongest evidence first."""
    names = [f"{named(one.feature)} ({_WAYS[one.direction]})" for one in found]
    return f"In alarm at the time: {', '.join(names)}." if names else "No feature was in alarm at the time."


def moved(found: Explanation) -> str:
    """The cell that changed most, without a time."""
    cell = max(found.cells, key=lambda cell: cell.moved)
    return (
        f"{named(found.feature)} no longer looks like the reference: {percent(found.moved)} of the rows moved,"
        f" most of all {cell.name!r}, {percent(cell.reference)} → {percent(cell.now)}."
    )


def self_test(found: SelfTest) -> str:
    """Of the monitor itself: whether it kept silent where it had to, and spoke where it had to."""
    if not found.blocks:
        return "The monitor did not test itself: that needs a feature that can be judged, and rows as the unit."
    halves = (
        f"of one half of the rows against the other it raised {found.alarms} false alarms in {found.blocks:,} blocks,"
        f" where {found.blocks / math.exp(THRESHOLD):.0f} are allowed on average"
    )
    tried = found.found + found.missed
    shifts = f"of {tried:,} shifts that were added to a copy of the counts it found {found.found:,}"
    fault = " This is a fault of Gaugeway: do not rely on this report." if found.failed else ""
    return f"The monitor's test of itself {'failed' if found.failed else 'passed'}: {halves}; {shifts}.{fault}"
