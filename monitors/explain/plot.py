"""An explanation as a picture. Needs the extra `plots`."""

from pathlib import Path

import matplotlib
import numpy as np

from monitors.explain.explanation import Explanation
from monitors.explain.wording import named
from serving.errors import BadRequest

matplotlib.use("Agg")
from matplotlib import dates, pyplot  # the backend is chosen before
from matplotlib.axes import Axes

REFERENCE, NOW, EVIDENCE, THRESHOLD, CHANGE = "#999999", "#d62728", "#1f77b4", "#333333", "#ff7f0e"
DAY = 86400.0
_LONGEST = 24  # characters of a cell's name


def draw(path: Path, found: Explanation) -> None:
    """Reference and now by cell; the evidence over the kept blocks with its threshold and the change.

    PNG, SVG or PDF, by the ending of `path`. Raises BadRequest when that is none, or cannot be written.
    """
    with matplotlib.rc_context({"text.parse_math": False}):  # a name may hold a dollar sign
        _draw(path, found)


def _draw(path: Path, found: Explanation) -> None:
    figure, panels = pyplot.subplots(2, 1, figsize=(10, 8), layout="constrained", height_ratios=(3, 2))
    figure.suptitle(_title(found), fontsize=11, wrap=True)
    _cells(panels[0], found)
    _evidence(panels[1], found)
    for axes in panels:
        axes.grid(alpha=0.3, axis="y")
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
    try:
        figure.savefig(path, dpi=110)
    except (OSError, ValueError) as error:
        raise BadRequest(f"cannot draw {path}: {error}") from None
    finally:
        pyplot.close(figure)


def _title(found: Explanation) -> str:
    lines = [named(found.feature), *(diagnosis.sentence for diagnosis in found.diagnoses)]
    return "\n".join(lines)


def _cells(axes: Axes, found: Explanation) -> None:
    at = np.arange(len(found.cells))
    axes.bar(at - 0.2, [cell.reference for cell in found.cells], 0.4, color=REFERENCE, label="reference")
    axes.bar(at + 0.2, [cell.now for cell in found.cells], 0.4, color=NOW, label=f"last {found.rows:,} rows")
    names = [cell.name if len(cell.name) <= _LONGEST else f"{cell.name[: _LONGEST - 1]}…" for cell in found.cells]
    axes.set_xticks(at, names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_ylabel("share of the rows")


def _evidence(axes: Axes, found: Explanation) -> None:
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
