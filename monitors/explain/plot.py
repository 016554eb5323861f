"""An explanation as a picture. Needs the extra `plots`."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from textwrap import fill

import matplotlib
import numpy as np

from monitors.explain.explanation import Carrier, Explanation
from monitors.explain.wording import named
from serving.errors import BadRequest

matplotlib.use("Agg")
from matplotlib import dates, pyplot  # the backend is chosen before
from matplotlib.axes import Axes

REFERENCE, NOW, EVIDENCE, THRESHOLD, CHANGE = "#999999", "#d62728", "#1f77b4", "#333333", "#ff7f0e"
MIX, RATE = "#9467bd", "#e377c2"
DAY = 86400.0
_LONGEST = 24  # characters of a cell's name
_LINE = 120  # characters of a title

Panel = tuple[float, Callable[[Axes], None]]  # height, and who draws it


def draw(path: Path, found: Explanation | None, carrier: Carrier | None = None) -> None:
    """Reference and now by cell, and the evidence over the kept blocks with its threshold and the change; what the
    cells carry of a rise of the loss, where a `carrier` is given. One of both at least, of the same feature.

    PNG, SVG or PDF, by the ending of `path`. Raises BadRequest when that is none, or cannot be written.
    """
    panels = list[Panel]()
    if carrier is not None:
        panels.append((3, partial(_parts, carrier)))
    if found is not None:
        panels += [(3, partial(_cells, found)), (2, partial(_evidence, found))]
    with matplotlib.rc_context({"text.parse_math": False}):  # a name may hold a dollar sign
        _draw(path, _title(found, carrier), panels)


def _draw(path: Path, title: str, panels: list[Panel]) -> None:
    heights = [height for height, _ in panels]
    figure, axes = pyplot.subplots(
        len(panels), 1, figsize=(10, 1.6 * sum(heights)), layout="constrained", height_ratios=heights, squeeze=False
    )
    figure.suptitle(title, fontsize=11)
    for one, (_, drawn) in zip(axes[:, 0], panels, strict=True):
        drawn(one)
        one.grid(alpha=0.3, axis="y")
        one.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
    try:
        figure.savefig(path, dpi=110)
    except (OSError, ValueError) as error:
        raise BadRequest(f"cannot draw {path}: {error}") from None
    finally:
        pyplot.close(figure)


def _title(found: Explanation | None, carrier: Carrier | None) -> str:
    feature = found.feature if found else carrier.feature if carrier else ""
    lines = [named(feature), *(diagnosis.sentence for diagnosis in (found.diagnoses if found else ()))]
    return "\n".join(fill(line, _LINE) for line in [*lines, *([carrier.text] if carrier and carrier.text else [])])


def _parts(found: Carrier, axes: Axes) -> None:
    """Mix and rate stand on each other where they have one sign, else on either side of 0."""
    at = np.arange(len(found.parts))
    mix, rate = (np.array(column) for column in zip(*((part.mix, part.rate) for part in found.parts), strict=True))
    same = np.sign(mix) == np.sign(rate)
    axes.bar(at, mix, 0.6, color=MIX, label="more or fewer rows")
    axes.bar(at, rate, 0.6, bottom=np.where(same, mix, 0.0), color=RATE, label="predicted worse or better")
    error = np.array([np.nan if part.error is None else part.error for part in found.parts])
    axes.errorbar(at, mix + rate, error, fmt="o", markersize=3, color=THRESHOLD, capsize=3, label="both, and by chance")
    axes.axhline(0.0, color=THRESHOLD, linewidth=0.8)
    _named(axes, [f"{'▲ ' if part.carries else ''}{_short(part.name)}" for part in found.parts])
    axes.set_ylabel("part of the rise of the mean loss\n(▲: more than its rows' share)")


def _cells(found: Explanation, axes: Axes) -> None:
    at = np.arange(len(found.cells))
    axes.bar(at - 0.2, [cell.reference for cell in found.cells], 0.4, color=REFERENCE, label="reference")
    axes.bar(at + 0.2, [cell.now for cell in found.cells], 0.4, color=NOW, label=f"last {found.rows:,} rows")
    _named(axes, [_short(cell.name) for cell in found.cells])
    axes.set_ylabel("share of the rows")


def _named(axes: Axes, names: list[str]) -> None:
    axes.set_xticks(np.arange(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _evidence(found: Explanation, axes: Axes) -> None:
    days = [point.end / DAY for point in found.evidence]  # since 1970, as matplotlib counts
    axes.plot(days, [point.log_e for point in found.evidence], color=EVIDENCE, marker=".", label="evidence")
    axes.axhline(found.threshold, color=THRESHOLD, linestyle="--", label="raises an alarm")
    if found.onset is not None:
        if found.onset.earliest < found.onset.latest:
            axes.axvspan(found.onset.earliest / DAY, found.onset.latest / DAY, color=CHANGE, alpha=0.15)
        axes.axvline(found.onset.at / DAY, color=CHANGE, label="likeliest change")
    if found.again is not None:
        axes.axvline(found.again.at / DAY, color=CHANGE, linestyle="-.", label="and again")
    if found.since is not None:
        axes.axvline(found.since / DAY, color=NOW, linestyle=":", label="alarm raised")
    locator = dates.AutoDateLocator()  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.set_ylabel("nats")
