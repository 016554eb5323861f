"""False calls in a quarter against the delay, one point a rule: few and soon is good."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # the backend is chosen before
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from loadtests.promise import interval
from loadtests.promise.streams import DAYS, FOUND_WITHIN, SIGMA, Outcome

OURS = "#d62728"
COLOURS = ("#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf")
MARKERS = {"row": "^", "minute": "o", "hour": "s"}
NEVER_MIN = 2 * FOUND_WITHIN  # where a shift that is not found is drawn
APART = 1.06  # ratio of points at the same delay, so that none hides another
NONE = 0.3  # where no false call is drawn: an axis of powers of ten has no zero


def draw(outcomes: Sequence[Outcome], path: Path) -> None:
    figure, axes = pyplot.subplots(figsize=(11, 6.8), layout="constrained")
    others = list(dict.fromkeys(found.name for found in outcomes if found.promised is None))
    twins = Counter((found.name, found.window) for found in outcomes)
    taken = Counter[float]()
    for found in outcomes:
        colour = COLOURS[others.index(found.name) % len(COLOURS)] if found.promised is None else OURS
        at = min(found.delay_min, NEVER_MIN)
        _point(axes, found, at * APART ** taken[at], colour, _label(found, twins[found.name, found.window] > 1))
        taken[at] += 1
    axes.axhline(1, color=OURS, linestyle="--", linewidth=1)
    axes.text(0.8, 1.15, "the budget: 1", color=OURS)
    _scales(axes)
    axes.set_xlabel(f"median minutes until a shift of one feature by {SIGMA} standard deviations is an alarm")
    axes.set_ylabel(f"false calls in {DAYS} days without drift")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8.5, columnspacing=1.0)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _point(axes: Axes, found: Outcome, at: float, colour: str, label: str) -> None:
    """A rule that cannot find the shift of one feature, or calls nobody, is hollow."""
    ours, calls, (low, high) = found.promised is not None, max(found.calls, NONE), interval.of_calls(found)
    axes.errorbar(
        at,
        calls,
        yerr=[[calls - max(low, NONE)], [high - calls]] if found.looked_at < found.quarter else None,
        fmt="*" if ours else MARKERS[found.window],
        color=colour,
        markersize=16 if ours else 8,
        markerfacecolor=colour if found.firsts and (found.promised or 0.0) < 1 else "white",
        capsize=3,
        label=label,
        zorder=4 if ours else 3,
    )


def _label(found: Outcome, twin: bool) -> str:
    which = found.rule.partition(", A =")[0].rpartition(" in ")[2]
    return f"{found.name}, by {found.window}{f': {which}' if twin else ''}"


def _scales(axes: Axes) -> None:
    axes.set(xscale="log", yscale="log", xlim=(0.7, 1.5 * NEVER_MIN), ylim=(0.2, 1e6))
    axes.set_xticks([1, 5, 15, 60, NEVER_MIN], ["1", "5", "15", "60", f"not in {FOUND_WITHIN}"])
    axes.set_yticks([NONE, 1, 10, 100, 1_000, 10_000, 100_000])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: "none" if value == NONE else f"{value:,.0f}"))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_formatter(NullFormatter())
