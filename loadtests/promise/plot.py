"""False calls in a quarter against the delay, one point a rule: few and soon is good."""

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
NONE = 0.3  # where no false call is drawn: an axis of powers of ten has no zero


def draw(outcomes: Sequence[Outcome], path: Path) -> None:
    figure, axes = pyplot.subplots(figsize=(11, 5.5), layout="constrained")
    others = list(dict.fromkeys(found.name for found in outcomes if found.promised is None))
    for found in outcomes:
        ours = found.promised is not None
        _point(axes, found, OURS if ours else COLOURS[others.index(found.name) % len(COLOURS)])
    axes.axhline(1, color=OURS, linestyle="--", linewidth=1)
    axes.text(0.8, 1.15, "the budget: 1", color=OURS)
    _scales(axes)
    axes.set_xlabel(f"median minutes until a shift of one feature by {SIGMA} standard deviations is an alarm")
    axes.set_ylabel(f"false calls in {DAYS} days without drift")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _point(axes: Axes, found: Outcome, colour: str) -> None:
    ours = found.promised is not None
    calls, (low, high) = max(found.calls, NONE), interval.of_calls(found)
    scaled = found.looked_at < found.quarter
    axes.errorbar(
        min(found.delay_min, NEVER_MIN),
        calls,
        yerr=[[calls - max(low, NONE)], [high - calls]] if scaled else None,
        fmt="*" if ours else MARKERS[found.window],
        color=colour,
        markersize=16 if ours else 8,
        markerfacecolor=colour if (found.promised or 0.0) < 1 else "white",
        capsize=3,
        label=f"{found.name}: {found.rule.partition(', A =')[0]}, by {found.window}",
        zorder=4 if ours else 3,
    )


def _scales(axes: Axes) -> None:
    axes.set(xscale="log", yscale="log", xlim=(0.7, 1.4 * NEVER_MIN), ylim=(0.2, 1e6))
    axes.set_xticks([1, 5, 15, 60, NEVER_MIN], ["1", "5", "15", "60", f"not in {FOUND_WITHIN}"])
    axes.set_yticks([NONE, 1, 10, 100, 1_000, 10_000, 100_000])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: "none" if value == NONE else f"{value:,.0f}"))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_formatter(NullFormatter())
