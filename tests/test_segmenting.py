import re

import numpy as np
import pytest

from monitors import reference
from serving.errors import BadRequest
from serving.manifest import Feature, Manifest, Segment, decode
from serving.protocol import Signature
from serving.segmenting import resolve_segments

FEATURES = (
    Feature("carrier", "c", None, "categorical"),
    Feature("age", "x", 0),
    Feature("code", "k", 0, "categorical"),
)
PROFILE = reference.build(
    {
        "carrier": np.array([b"UA"] * 500 + [b"AA"] * 400 + [b"other"] * 99 + [b""], object),
        "age": np.arange(1000.0),
        "code": np.repeat(np.arange(60.0), np.arange(60) + 1)[:1000].astype(np.float32),
    },
    {"carrier": "categorical", "age": "numeric", "code": "categorical"},
)


def test_a_category_has_the_most_common_values_of_the_reference() -> None:
    carrier, code = resolve_segments(["carrier", "code"], FEATURES, PROFILE)
    assert carrier == Segment("carrier", values=("UA", "AA"))
    assert len(code.values) <= 50 and code.values[0] == 43.0


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        (["tail"], "--segments names 'tail', which is no feature; there are 'carrier', 'age', 'code'"),
        (["age"], "needs the edges of bins of 'age', which is a number: 1 to 49 of them, increasing, as in age:10:20"),
        (["age:20:10"], "got 20:10"),
        (["age:x"], "got x"),
        (["age:nan"], "got nan"),
        (["carrier:3"], "gives 'carrier' edges, 3, but it is a category"),
        (["age:1", "age:2"], "names a feature twice"),
    ],
)
def test_what_is_no_segment_is_refused_with_a_sentence(texts: list[str], sentence: str) -> None:
    with pytest.raises(BadRequest, match=re.escape(sentence)):
        resolve_segments(texts, FEATURES, PROFILE)


def test_values_need_a_reference() -> None:
    with pytest.raises(BadRequest, match="those of the reference rows"):
        resolve_segments(["carrier"], FEATURES, None)


def test_segments_that_divide_rows_in_too_many_ways_are_refused() -> None:
    many = [Feature(f"x{k}", "x", k) for k in range(3)]
    edges = ":".join(map(str, range(48)))
    with pytest.raises(BadRequest, match="divide rows in 125000 ways, at most 65536"):
        resolve_segments([f"x{k}:{edges}" for k in range(3)], many, None)


def test_a_manifest_without_segments_is_written_as_before_and_one_with_them_is_read_back() -> None:
    plain = Manifest(model="m", version="1", files={}, signature=Signature((), ()), rows_independent=True)
    assert b"segments" not in plain.encode() and b"threshold" not in plain.encode()
    segments = (Segment("c", values=("UA", 3.0)), Segment("x", edges=(1.0,)))
    divided = Manifest(
        model="m", version="1", files={}, signature=Signature((), ()), rows_independent=True, segments=segments
    )
    assert decode(divided.encode()).segments == segments
