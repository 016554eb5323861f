import msgspec
import numpy as np
import pytest

from monitors.explain.points import Points, points
from monitors.reference import marginal
from tests.monitors.explain.faults import Law, carriers, celsius, gaps, miles, rain, reference


@pytest.mark.parametrize("law", [miles, celsius, gaps, rain, carriers])
def test_points_fall_into_the_cells_as_the_reference_did(law: Law) -> None:
    known = reference(law)
    expected = np.array(known.counts[:-1]) / sum(known.counts[:-1])
    assert points(known).shares(known)[:-1] == pytest.approx(expected, abs=0.01)


def test_an_image_of_the_points_is_close_to_that_of_the_rows() -> None:
    law, rows = reference(miles), miles(np.random.default_rng(9), 200_000)
    source = points(law)
    for factor in (0.1, 0.5, 1.6, 5.0):
        shares = Points(source.values * factor, source.weights).shares(law)
        assert np.abs(shares - law.count(rows * factor) / len(rows)).sum() / 2 < 0.05


def test_a_common_value_stays_one_value() -> None:
    law = reference(rain)
    assert (points(law).values == 0.0).mean() == pytest.approx(0.7, abs=0.02)


def test_whole_numbers_stay_whole_and_the_largest_is_as_common_as_the_others() -> None:
    law = marginal(np.tile(np.arange(24.0), 300), "numeric")
    values, times = np.unique(points(law).values, return_counts=True)
    assert values.tolist() == list(range(24))
    assert times.min() > 10 and times.max() < 36  # of 512 points


def test_a_constant_is_one_point() -> None:
    law = marginal(np.full(2000, 3.5), "numeric")
    assert set(points(law).values.tolist()) == {3.5}
    assert points(law).shares(law).sum() == pytest.approx(1.0)


@pytest.mark.parametrize("named", [True, False])
def test_rare_categories_are_points_of_their_own_where_their_names_are_kept(named: bool) -> None:
    rng = np.random.default_rng(3)
    law = marginal(np.array([f"c{k}" for k in rng.geometric(0.1, 6000)], object), "categorical")
    if not named:
        law = msgspec.structs.replace(law, others=())
    shares = points(law).shares(law)
    other, unseen = shares[len(law.categories) :][:2]
    assert shares.sum() == pytest.approx(1.0)
    assert (other > 0.2) == (named and bool(law.others)) and (unseen > 0.2) == (not named or not law.others)
