import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from monitors.segments import cells, codes, names, size
from serving.manifest import Feature, Segment

CARRIER = Segment("carrier", values=("UA", "AA", "Ünal"))
AGE = Segment("age", edges=(18.0, 65.0))
CODE = Segment("code", values=(7.0, 3.0))
FEATURES = [
    Feature("age", "x", 1), Feature("code", "x", 0), Feature("carrier", "c", None, "categorical"),
]  # fmt: skip


def test_each_row_has_its_cell_of_each_segment() -> None:
    tensors = {
        "c": np.array([b"AA", b"UA", b"", "Ünal".encode(), b"AA "], object),
        "x": np.array([[3, 17], [7, 18], [5, 65], [np.nan, 1e9], [7, np.nan]], np.float32),
    }
    found = codes([CARRIER, AGE, CODE], FEATURES, tensors, 5)
    assert found.dtype == np.uint16
    carrier, age, code = (
        [names(segment)[cell] for cell in of.tolist()]
        for segment, of in zip([CARRIER, AGE, CODE], cells([CARRIER, AGE, CODE], found), strict=True)
    )
    assert carrier == ["AA", "UA", "other", "Ünal", "other"]
    assert age == ["(-inf, 18)", "[18, 65)", "[65, inf)", "[65, inf)", "missing"]
    assert code == ["3", "7", "other", "other", "7"]


def test_a_feature_that_is_not_recorded_is_other_or_missing() -> None:
    found = codes([CARRIER, AGE], FEATURES, {"c": np.array([b"UA"], object)}, 1)
    assert [int(cell[0]) for cell in cells([CARRIER, AGE], found)] == [0, 3]


@given(st.lists(st.integers(0, 4 * 4 * 3 - 1), max_size=9))
def test_a_code_has_one_place(drawn: list[int]) -> None:
    segments = [CARRIER, AGE, CODE]
    carrier, age, code = cells(segments, np.array(drawn, np.uint16))
    assert ((carrier * 4 + age) * 3 + code).tolist() == drawn
    assert size(segments) == 48
