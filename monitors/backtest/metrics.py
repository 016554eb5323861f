"""How good the predictions of the past were: metrics of all labelled rows, and of the segments of some features."""

from collections.abc import Iterable

import numpy as np

from monitors.marginal import Marginal
from monitors.metrics import Plan
from monitors.reference import PREDICTION, Part, Profile
from monitors.scorecard import Scorecard, scorecard
from monitors.segments import codes
from monitors.tables import Tables
from serving.errors import BadRequest
from serving.manifest import Feature, Segment


class Metrics:
    """Rows are added as they come; a label counts whenever it came."""

    def __init__(self, profile: Profile, features: Iterable[str]) -> None:
        """`features` are those that divide the rows. Raises BadRequest for one that is none."""
        risk, laws = profile.risk, profile.features
        self._segments = tuple(_segment(name, laws) for name in features)
        self._features = [Feature(segment.feature, segment.feature) for segment in self._segments]
        self._tables = None
        if risk is not None:
            worth = max([risk.design_effect, *(law.design_effect for name, law in laws.items() if name == PREDICTION)])
            self._tables = Tables(Plan(risk.task, cap=risk.cap, design_effect=worth), self._segments)

    def add(self, part: Part) -> None:
        if self._tables is None or part.prediction is None or part.labels is None:
            return
        segment = codes(self._segments, self._features, part.values, part.rows)
        self._tables.offer(part.prediction, segment)
        known = np.isfinite(part.prediction) & np.isfinite(part.labels)
        ones = np.ones(int(known.sum()), np.int64)
        self._tables.follow(part.prediction[known], part.labels[known], ones, segment[known])

    def scorecard(self, least: int) -> Scorecard:
        """A segment with fewer labelled rows than `least` is too few."""
        return scorecard(self._tables, least)


def _segment(name: str, laws: dict[str, Marginal]) -> Segment:
    """The most common values of a category; a number between every second edge of its bins."""
    if name not in laws:
        raise BadRequest(f"--segment takes a feature, got {name!r}; there are {', '.join(map(repr, laws))}")
    law = laws[name]
    if law.kind == "numeric" and not law.edges:
        raise BadRequest(f"feature {name!r} has one bin in the reference, no segments")
    return (
        Segment(name, law.categories)
        if law.kind == "categorical"
        else Segment(name, edges=law.edges[1::2] or law.edges)
    )
