"""A simulated run as a picture: load, replicas, queue and cost over the same time. Needs the extra `plots`."""

from pathlib import Path

import matplotlib
import numpy as np

from serving.protocol import Array
from serving.simulation.load import Trace
from serving.simulation.pool import Run, Setting

matplotlib.use("Agg")
from matplotlib import pyplot  # the backend is chosen before
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

LOAD, WANTED, READY, RECORDED, FIXED = "#1f77b4", "#ff9896", "#d62728", "#2ca02c", "#999999"
UNITS = ((7200.0, 3600.0, "hours"), (600.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))  # from a run of so many seconds


def draw(path: Path, trace: Trace, setting: Setting, run: Run) -> None:
    """PNG, SVG or PDF, by the ending of `path`."""
    scale, unit = next((scale, unit) for from_s, scale, unit in UNITS if trace.seconds >= from_s)
    x = run.at_s / scale
    figure, panels = pyplot.subplots(4, 1, figsize=(10, 10), sharex=True, layout="constrained")
    _load(panels[0], x, trace, setting, run)
    _replicas(panels[1], x, trace, run)
    _queue(panels[2], x, run)
    _cost(panels[3], x, run)
    panels[3].set_xlabel(unit)
    for axes in panels:
        axes.grid(alpha=0.3)
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper left", bbox_to_anchor=(1.06, 1.0), frameon=False)  # right of a second axis
    panels[0].set_xlim(0, x[-1])
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _load(axes: Axes, x: Array, trace: Trace, setting: Setting, run: Run) -> None:
    axes.plot(x, [trace.at(at).requests_per_s for at in run.at_s], color=LOAD, label="asked")
    axes.step(x, run.ready / setting.request_s, color=FIXED, linestyle="--", where="post", label="capacity")
    axes.set_ylabel("requests/s")


def _replicas(axes: Axes, x: Array, trace: Trace, run: Run) -> None:
    axes.step(x, run.wanted, color=WANTED, where="post", label="wanted")
    axes.step(x, run.ready, color=READY, where="post", label="working")
    if trace.recorded:
        recorded = [float(trace.at(at).replicas or 0) for at in run.at_s]
        axes.step(x, recorded, color=RECORDED, linestyle="--", where="post", label="working, recorded")
    axes.set_ylabel("replicas")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def _queue(axes: Axes, x: Array, run: Run) -> None:
    axes.plot(x, run.waiting, color=LOAD, label="requests waiting")
    axes.set_ylabel("requests")
    waits = axes.twinx()
    waits.plot(x, run.wait_s, color=READY, alpha=0.6, label="wait, seconds")
    waits.set_ylabel("seconds")
    waits.set_ylim(bottom=0)
    axes.plot([], [], color=READY, alpha=0.6, label="wait, seconds")  # one legend for both


def _cost(axes: Axes, x: Array, run: Run) -> None:
    paid = np.maximum(run.wanted, run.ready)  # those that start cost as much as those that work
    axes.plot(x, np.cumsum(paid) * run.step_s / 3600.0, color=READY, label="autoscaled")
    fixed = np.arange(1, len(x) + 1) * float(paid.max()) * run.step_s / 3600.0
    axes.plot(x, fixed, color=FIXED, linestyle="--", label="always as many\nas the most")
    axes.set_ylabel("replica hours")
