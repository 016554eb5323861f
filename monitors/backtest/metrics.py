"""How good the predictions of the past were: metrics of all labelled rows, and of the segments of some features."""

from collections.abc import Iterable

import numpy as np

from monitors.marginal import Marginal
from monitors.metrics import Plan
from monitors.reference import PREDICTION, Part, Profile
from monitors.scorecard import Scorecard, scorecard
from monitors.segments import codes, size
from monitors.tables import Tables
from serving.errors import BadRequest
from serving.manifest import Feature, Segment, Task

MAX_CODES = 2**16  # of a row: the numbers of cells of all segments, multiplied


class Metrics:
    """Rows are added as they come; a label counts whenever it came."""

    def __init__(self, profile: Profile, task: Task | None, features: Iterable[str]) -> None:
        """`features` are those that divide the rows. Without a task no labels are taken. Raises BadRequest."""
        risk, laws = profile.risk, profile.features
        self._segments = _segments(list(features), laws)
        self._features = [Feature(segment.feature, segment.feature) for segment in self._segments]
        self._tables = None
        if task is not None:
            effects = [risk.design_effect if risk else 1.0]
            effects += [law.design_effect for name, law in laws.items() if name == PREDICTION]
            plan = Plan(task, cap=risk.cap if risk else 1.0, design_effect=max(effects))
            self._tables = Tables(plan, self._segments)

    def add(self, part: Part) -> None:
        if self._tables is None or part.prediction is None:
            return
        prediction = np.asarray(part.prediction, np.float64)
        segment, known = codes(self._segments, self._features, part.values, part.rows), np.isfinite(prediction)
        self._tables.offer(prediction[known], segment[known])
        if part.labels is not None:
            known &= np.isfinite(part.labels)
            ones = np.ones(int(known.sum()), np.int64)
            self._tables.follow(prediction[known], part.labels[known], ones, segment[known])

    def scorecard(self, least: int) -> Scorecard:
        """A segment with fewer labelled rows than `least` is too few."""
        return scorecard(self._tables, least)


def _segments(names: list[str], laws: dict[str, Marginal]) -> tuple[Segment, ...]:
    segments = tuple(_segment(name, laws) for name in names)
    if len(set(names)) != len(names):
        raise BadRequest(f"--segment names a feature twice: {', '.join(names)}")
    if size(segments) > MAX_CODES:
        raise BadRequest(
            f"--segment {', '.join(names)} divide rows in {size(segments)} ways, at most {MAX_CODES} are possible:"
            " name fewer features"
        )
    return segments


def _segment(name: str, laws: dict[str, Marginal]) -> Segment:
    """The most common values of a category; a number between every second edge of its bins."""
    there = [feature for feature in laws if feature != PREDICTION]
    if name not in there:
        raise BadRequest(f"--segment takes a feature, got {name!r}; there are {', '.join(map(repr, there))}")
    law = laws[name]
    if law.kind == "numeric":
        if not law.edges:
            raise BadRequest(f"feature {name!r} has one bin in the reference, no segments")
        return Segment(name, edges=law.edges[1::2] or law.edges)
    values = tuple(value for value in law.categories if value != "other")  # the name of all others
    if not values:
        raise BadRequest(f"--segment {name}: all its values are missing in the reference")
    return Segment(name, values)
