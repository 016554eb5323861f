"""How good a version is by the labels it got: metrics of all rows and of segments, and fairness between these."""

from functools import lru_cache

import msgspec
import numpy as np

from monitors.fairness import TOO_FEW, Disparity, TooFew, fairness
from monitors.metrics import ALPHA, METRICS, Metric, Plan, Sums, kpi
from monitors.segments import names
from monitors.tables import WHOLE, Tables, key
from serving.manifest import Segment

Metrics = dict[str, Metric]


class Scorecard(msgspec.Struct, frozen=True):
    """`metrics` by name; `segments` and `fairness` by feature, the one then by segment, the other by rate."""

    metrics: Metrics = {}
    segments: dict[str, dict[str, Metrics | TooFew]] = {}
    fairness: dict[str, dict[str, Disparity]] = {}
    assumption: str = ""


def scorecard(tables: Tables | None, least: int) -> Scorecard:
    """Nothing is shown of a segment with fewer labelled rows than `least`. No tables: no labels are taken."""
    if tables is None:
        return Scorecard()
    sums, offered = (tuple(sorted(found.items())) for found in (tables.sums, tables.offered))
    return _scorecard(tables.plan, tables.segments, sums, offered, least)


@lru_cache(64)
def _scorecard(
    plan: Plan, segments: tuple[Segment, ...], sums: tuple[tuple[str, bytes], ...],
    offered: tuple[tuple[str, tuple[int, int]], ...], least: int,
) -> Scorecard:  # fmt: skip
    """Reckoned once for the same sums: scrapes are more frequent than labels."""
    tables = Tables(plan, segments, dict(sums), dict(offered))

    def of(at: str) -> Sums:  # a label that was joined before there were tables may have been taken back
        return np.maximum(tables.of(at), 0)

    by_segment: dict[str, dict[str, Metrics | TooFew]] = {}
    disparities = {}
    for number, segment in enumerate(segments):
        found = [(key(number, cell), name) for cell, name in enumerate(names(segment))]
        alpha = ALPHA / len(found)  # of all segments that there may be, so that they hold together
        seen = [(at, name) for at, name in found if at in tables.sums or at in tables.offered]
        if not seen:
            continue
        rows, called = np.stack([of(at) for at, _ in seen]), [name for _, name in seen]
        by_segment[segment.feature] = _segments(plan, rows, called, least)
        chosen = [tables.offered.get(at, (0, 0)) for at, _ in seen]
        disparities[segment.feature] = fairness(plan, called, rows, chosen, least, alpha)
    return Scorecard(_metrics(plan, of(WHOLE)[None])[0], by_segment, disparities, assumption(plan))


def assumption(plan: Plan) -> str:
    """What the intervals rest on, in plain words."""
    rows = "rows do not depend on one another (no clusters are known)"
    if plan.design_effect > 1:
        rows = (
            f"rows depend on one another only in clusters of at most {plan.design_effect:.1f} (the reference's design"
            f" effect)"
        )
    return (
        f"each interval holds at all times at once with probability {1 - ALPHA:g}, as long as labelled rows follow one"
        f" law, whether a row has a label does not depend on how well it was predicted, and {rows}"
    )


def _metrics(plan: Plan, sums: Sums) -> list[Metrics]:
    """Of each segment; metrics that are about no row of it are left out."""
    found = METRICS[plan.task](plan, sums, ALPHA) | kpi(plan, sums)
    shown = [{name: estimates.at(k) for name, estimates in found.items()} for k in range(len(sums))]
    return [{name: metric for name, metric in one.items() if metric is not None} for one in shown]


def _segments(plan: Plan, sums: Sums, called: list[str], least: int) -> dict[str, Metrics | TooFew]:
    found: dict[str, Metrics | TooFew] = {}
    for name, n, metrics in zip(called, plan.rows(sums).tolist(), _metrics(plan, sums), strict=True):
        found[name] = metrics if n >= least else TOO_FEW
    return found
