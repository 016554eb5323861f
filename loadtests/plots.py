"""The plots of the benchmark. ``python -m loadtests.plots RESULTS.json FOLDER``, in an environment with matplotlib.

Three of each workload: throughput against connections; p50 and p99 against connections; the distribution of latencies,
with the percentiles spaced by the orders of magnitude of what lies above them.
"""

import argparse
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot  # the backend is chosen before
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

# Gaugeway stands out; ceilings are dashed; the rest in colours that people tell apart.
STYLES: dict[str, tuple[str, str]] = {
    "gaugeway": ("#d62728", "-"),
    "gaugeway-unmonitored": ("#ff9896", "-"),
    "ceiling-protocol": ("#555555", "--"),
    "ceiling-uvicorn": ("#aaaaaa", "--"),
    "triton": ("#1f77b4", "-"),
    "omle": ("#2ca02c", "-"),
    "mlserver": ("#9467bd", "-"),
    "kserve": ("#8c564b", "-"),
    "serve": ("#e377c2", "-"),
    "serve-haproxy": ("#17becf", "-"),
    "litserve": ("#bcbd22", "-"),
    "bentoml": ("#ff7f0e", "-"),
}
TICKS = (50, 90, 99, 99.9, 99.99)


@dataclass(frozen=True)
class Point:
    """A peer on a workload from so many connections; seconds by percentile."""

    workload: str
    connections: int
    peer: str
    requests_per_s: float
    latency_s: Mapping[float, float]


def read(path: Path) -> list[Point]:
    return [
        Point(**one | {"latency_s": {float(p): s for p, s in one["latency_s"].items()}})
        for one in json.loads(path.read_text())
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    points = read(arguments.results)
    for workload in dict.fromkeys(point.workload for point in points):
        own = [point for point in points if point.workload == workload]
        for kind, draw in PLOTS.items():
            draw(own).savefig(arguments.folder / f"bench-{workload}-{kind}.png", dpi=110)


def throughput(points: list[Point]) -> Figure:
    figure, axes = pyplot.subplots(figsize=(9, 5), layout="constrained")
    _against_connections(axes, points, lambda point: point.requests_per_s)
    axes.set(ylabel="requests/s", title=f"{points[0].workload}: throughput")
    _legend(figure, axes)
    return figure


def latency(points: list[Point]) -> Figure:
    figure, panels = pyplot.subplots(1, 2, figsize=(12, 5), layout="constrained", sharey=True)
    for axes, percent in zip(panels, (50, 99), strict=True):
        _against_connections(axes, points, partial(_latency_ms, percent))
        axes.set(title=f"{points[0].workload}: p{percent}")
    panels[0].set(ylabel="latency, ms")
    _legend(figure, panels[0])
    return figure


def distribution(points: list[Point]) -> Figure:
    counts = sorted({point.connections for point in points})
    figure, panels = pyplot.subplots(
        1, len(counts), figsize=(5 * len(counts), 5), layout="constrained", squeeze=False, sharey=True
    )
    for axes, connections in zip(panels[0], counts, strict=True):
        for point in (one for one in points if one.connections == connections):
            colour, line = _style(point.peer)
            percents = sorted(p for p in point.latency_s if p >= TICKS[0])
            above = [100 / (100 - p) for p in percents]
            values = [point.latency_s[p] * 1e3 for p in percents]
            axes.plot(above, values, line, color=colour, label=point.peer, zorder=_order(point.peer))
        axes.set(xscale="log", yscale="log", xlabel="percentile")
        axes.set_title(f"{points[0].workload}: {connections} connection{'s' * (connections > 1)}")
        axes.set_xticks([100 / (100 - p) for p in TICKS], [f"{p:g}" for p in TICKS])
        _finish(axes)
    panels[0][0].set(ylabel="latency, ms")
    _legend(figure, panels[0][-1])
    return figure


PLOTS: dict[str, Callable[[list[Point]], Figure]] = {
    "throughput": throughput,
    "latency": latency,
    "distribution": distribution,
}


def _against_connections(axes: Axes, points: list[Point], value: Callable[[Point], float]) -> None:
    for peer in dict.fromkeys(point.peer for point in points):
        own = sorted((point for point in points if point.peer == peer), key=lambda point: point.connections)
        colour, line = _style(peer)
        y = [value(point) for point in own]
        axes.plot(
            [point.connections for point in own],
            y,
            line,
            marker="o",
            markersize=4,
            color=colour,
            label=peer,
            zorder=_order(peer),
        )
    counts = sorted({point.connections for point in points})
    axes.set(xscale="log", yscale="log", xlabel="connections")
    axes.set_xticks(counts, [str(count) for count in counts])
    _finish(axes)


def _latency_ms(percent: float, point: Point) -> float:
    """Not a number, which is not drawn, where too few answers came to tell."""
    return point.latency_s.get(percent, math.nan) * 1e3


def _finish(axes: Axes) -> None:
    """Numbers as people read them, also where an axis spans less than a power of ten."""
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)


def _legend(figure: Figure, axes: Axes) -> None:
    """Beside the plot, in the order of the lines' right ends."""
    lines = sorted(axes.get_lines(), key=lambda line: -float(np.asarray(line.get_ydata())[-1]))
    figure.legend(handles=lines, loc="outside right upper", frameon=False)


def _style(peer: str) -> tuple[str, str]:
    return STYLES.get(peer, ("#000000", ":"))


def _order(peer: str) -> int:
    return 3 if peer == "gaugeway" else 2


if __name__ == "__main__":
    main()
