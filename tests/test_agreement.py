"""What counts as the same output, to the bit and within a tolerance."""

import numpy as np
import pytest

from serving.agreement import APART, SAME, Agreement, compare, notes, worst
from serving.manifest import Manifest
from serving.protocol import Array, Signature

NAN, INF = np.nan, np.inf


def _floats(*values: float) -> Array:
    return np.array(values, np.float32)


def test_the_same_bits() -> None:
    values = _floats(1, NAN, INF, -0.0)
    assert compare(values, values.copy()) == SAME
    assert compare(np.array([b"a"], object), np.array([b"a"], object)) == SAME
    assert SAME.within(0.0) and SAME.measured is None


@pytest.mark.parametrize(
    ("together", "alone", "difference"),
    [
        (_floats(0.5), _floats(0.25), 0.25),  # absolute below 1
        (_floats(-0.5), _floats(0.5), 1.0),
        (_floats(110), _floats(100), 0.1),  # relative above 1
        (_floats(1, 2, 5), _floats(1, 3, 4), 1 / 3),  # the largest
        (_floats(NAN, 2.0), _floats(NAN, 1.0), 1.0),
        (_floats(INF, 2.0), _floats(INF, 1.0), 1.0),
        (_floats(-0.0), _floats(0.0), 0.0),
        (np.array([60000], np.float16), np.array([-60000], np.float16), 2.0),  # no overflow of the type itself
    ],
)
def test_the_difference_of_numbers(together: Array, alone: Array, difference: float) -> None:
    found = compare(together, alone)
    assert not found.same_bits and not found.within(0.0)
    assert found.difference == pytest.approx(difference, abs=1e-7) and found.measured == found.difference
    assert found.within(difference + 1e-6)
    assert difference == 0 or not found.within(difference * 0.99)


@pytest.mark.parametrize(
    ("together", "alone"),
    [
        (_floats(NAN), _floats(1)),
        (_floats(1), _floats(NAN)),
        (_floats(INF), _floats(1)),
        (_floats(1), _floats(INF)),
        (_floats(INF), _floats(-INF)),
        (_floats(1, 2), _floats(1)),
        (np.array([1]), np.array([2])),
        (np.array([b"a"], object), np.array([b"b"], object)),
    ],
    ids=["nan", "not-nan", "inf", "not-inf", "sign-of-inf", "shape", "integers", "text"],
)
def test_no_tolerance_covers_what_is_no_distance(together: Array, alone: Array) -> None:
    found = compare(together, alone)
    assert found == APART and found.measured is None
    assert not found.within(1e300)


def test_the_worst_of_several() -> None:
    assert worst([SAME, SAME]) == SAME
    assert worst([SAME, Agreement(False, 0.0)]) == Agreement(False, 0.0)
    assert worst([Agreement(False, 1e-6), SAME, Agreement(False, 1e-7)]) == Agreement(False, 1e-6)
    assert worst([Agreement(False, 1e-6), APART]) == APART
    assert worst([]) == APART  # nothing was seen


@pytest.mark.parametrize(
    ("independent", "difference", "tolerance", "said"),
    [
        (True, None, 0.0, ()),
        (True, 3.1e-7, 1e-5, ("rows run together differ by at most 3.1e-07 (allowed 1e-05): requests share runs",)),
        (False, None, 0.0, ("requests run alone: it was not seen that rows run together give what they give alone",)),
        (False, 0.83, 0.0, ("rows run together differ by up to 0.83 (allowed 0): requests run alone",)),
        (False, 3.1e-7, 0.0, ("rows run together differ by up to 3.1e-07 (allowed 0): requests run alone;"
                              " --batch-tolerance 1e-05 would let them share runs",)),
    ],
    ids=["bits", "within", "unseen", "dependent", "a-little"],
)  # fmt: skip
def test_what_the_publisher_is_told(
    independent: bool, difference: float | None, tolerance: float, said: tuple[str, ...]
) -> None:
    made = Manifest(model="m", version="1", files={}, signature=Signature((), ()), rows_independent=independent,
                    batch_difference=difference, batch_tolerance=tolerance)  # fmt: skip
    assert notes(made) == said
