"""What is measured of growth, and a short measurement over real workers."""

import doctest
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from loadtests.growth import page as pages
from loadtests.growth.__main__ import measure
from loadtests.growth.cases import ASKED, AXES, Case, cases
from loadtests.growth.page import Idle, Point, page, plot
from serving.codec import Limits, bind, decode_request
from serving.routing import Router


def test_examples() -> None:
    assert doctest.testmod(pages).failed == 0


def test_a_case_differs_in_one_size_only() -> None:
    every = cases()
    assert len(every) == len({*every, Case("models")}) == sum(len(sizes) for _, sizes in AXES.values())
    for case in every:
        others = {name for name in ("models", "versions", "features", "rows") if name != case.axis}
        assert all(getattr(case, name) == getattr(Case("models"), name) for name in others)


def test_a_table_has_as_many_models_and_versions_as_it_says() -> None:
    table = Case("models", models=30).table()
    assert (
        len(table.models) == 30
        and len({e.manifest.digest for m in table.models.values() for e in m.versions.values()}) == 30
    )
    entry = Case("versions", versions=5).table().models[ASKED]
    router = Router(entry.policy)
    assert {router.choose(str(key)).version for key in range(200)} == set(entry.versions) == set("12345")


@pytest.mark.parametrize("case", [Case("rows", rows=7), Case("features", features=100)])
def test_a_request_has_the_rows_and_features_of_its_case(case: Case) -> None:
    body, headers = case.request()
    parsed = decode_request(body, int(headers["inference-header-content-length"]), Limits())
    (of,) = case.served()
    (x,) = bind(parsed, of.signature, of.model)
    assert x.shape == (case.rows, case.features) and len(of.features) == case.features
    assert np.unique(x).size > 1


def test_the_page_has_a_table_and_the_plot_a_point_for_every_size() -> None:
    points = [Point(case, 1e-4 * n, (5e-5 * n, 2e-4 * n), Idle(0.01, 2**25)) for n, case in enumerate(cases(), start=1)]
    text = page(points, "--rounds 1")
    for axis, (what, sizes) in AXES.items():
        assert what in text and f"images/growth-{axis}.svg" in text
        svg = ElementTree.fromstring(plot([point for point in points if point.case.axis == axis]))
        circles = [float(one.attrib["cy"]) for one in svg.iter("{http://www.w3.org/2000/svg}circle")]
        assert len(circles) == len(sizes) and circles == sorted(circles, reverse=True)
        assert all(0 < y < pages.HEIGHT for y in circles)
    assert len(re.findall(r"^\| [\d,]+ \|", text, re.MULTILINE)) == len(points)


def test_a_measurement_of_real_workers() -> None:
    small, large = Case("models"), Case("rows", rows=256)
    one, many = measure([small, large], rounds=1, seconds=1)
    assert (one.case, many.case) == (small, large)
    assert 0 < one.request_cpu_s < many.request_cpu_s < 0.1  # 256 rows of 16 features are recorded
    assert one.idle is not None and 0 <= one.idle.cpu_ratio < 0.5 and many.idle is None
