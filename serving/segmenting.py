"""Which segments a version has: what people ask for, made definite by the reference, so that it never changes."""

from collections.abc import Sequence

from monitors.reference import Profile
from monitors.segments import size
from serving.errors import BadRequest
from serving.manifest import Feature, Segment

MAX_VALUES = 50  # of a feature; all others are `other`
MAX_CODES = 2**16  # of a row: the numbers of cells of all segments, multiplied


def resolve_segments(texts: Sequence[str], features: Sequence[Feature], profile: Profile | None) -> tuple[Segment, ...]:
    """``["carrier", "distance:500:1000"]``: a category by its most common values, a number by the edges of its bins.

    Raises BadRequest.

    >>> resolve_segments(["distance:500:1000"], [Feature("distance", "x", 0)], None)
    (Segment(feature='distance', values=(), edges=(500.0, 1000.0)),)
    """
    known = {feature.name: feature for feature in features}
    segments = tuple(_segment(text, known, profile) for text in texts)
    if len({segment.feature for segment in segments}) != len(segments):
        raise BadRequest(f"--segments names a feature twice: {', '.join(texts)}")
    if size(segments) > MAX_CODES:
        raise BadRequest(
            f"--segments {', '.join(texts)} divide rows in {size(segments)} ways, at most {MAX_CODES} are possible:"
            f" name fewer features"
        )
    return segments


def _segment(text: str, known: dict[str, Feature], profile: Profile | None) -> Segment:
    name, *bounds = text.strip().split(":")
    if name not in known:
        raise BadRequest(f"--segments names {name!r}, which is no feature; there are {', '.join(map(repr, known))}")
    if known[name].kind == "categorical":
        return Segment(name, values=_values(name, bounds, profile))
    return Segment(name, edges=_edges(name, bounds))


def _values(name: str, bounds: list[str], profile: Profile | None) -> tuple[str | float, ...]:
    if bounds:
        raise BadRequest(f"--segments gives {name!r} edges, {':'.join(bounds)}, but it is a category")
    if profile is None:
        raise BadRequest(f"--segments {name}: the values of a category are those of the reference rows (--reference)")
    law = profile.features[name]
    common = [value for value in (*law.categories, *law.others) if value != "other"]
    if not common:
        raise BadRequest(f"--segments {name}: all its values are missing in the reference rows")
    return tuple(common[:MAX_VALUES])


def _edges(name: str, bounds: list[str]) -> tuple[float, ...]:
    try:
        edges = tuple(float(bound) for bound in bounds)
    except ValueError:
        edges = ()
    if not 0 < len(edges) < MAX_VALUES or not all(
        a < b for a, b in zip(edges, (*edges[1:], float("inf")), strict=True)
    ):
        raise BadRequest(
            f"--segments needs the edges of bins of {name!r}, which is a number: 1 to {MAX_VALUES - 1} of them,"
            f" increasing, as in {name}:10:20; got {':'.join(bounds) or 'none'}"
        )
    return edges
