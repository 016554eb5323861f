from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitors.memo import Memo
from monitors.panel import Panel
from monitors.reference import Marginal, marginal
from serving.manifest import Feature
from serving.protocol import Array

ODD = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e300, -1e300, 5e-324, 0.1, 2.0**24 + 1]
REFERENCE = np.random.default_rng(1).normal(size=3000)
LAWS: dict[str, Marginal] = {
    "single": marginal(REFERENCE.astype(np.float32), "numeric"),
    "double": marginal(REFERENCE, "numeric"),
    "few": marginal(np.arange(3000.0) % 3, "numeric"),
    "constant": marginal(np.zeros(3000), "numeric"),
    "missing": marginal(np.full(3000, np.nan), "numeric"),
    "code": marginal(np.arange(3000.0) % 4, "categorical"),
    "word": marginal(np.array(["a", "b", ""] * 1000, object), "categorical"),
    "rare": marginal(np.array([f"c{k}" for k in range(400)] * 8, object), "categorical"),
}
WORDS = ["word", "rare"]
NUMBERS = [name for name in LAWS if name not in WORDS]


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.sampled_from([*ODD, *REFERENCE[:50].tolist()]) | st.floats(width=32), min_size=1, max_size=40),
    dtype=st.sampled_from([np.float32, np.float64, np.int32]),
    places=st.integers(1, 3),
    data=st.data(),
)
def test_the_counts_are_those_of_each_law_by_itself(values: list[float], dtype: Any, places: int, data: Any) -> None:
    with np.errstate(all="ignore"):
        column = np.array(values).astype(dtype)
    words = data.draw(
        st.lists(st.sampled_from([b"a", b"b", b"c", b"", b"c7", b"c399"]), min_size=len(values), max_size=len(values))
    )
    place = np.array(data.draw(st.lists(st.integers(0, places - 1), min_size=len(values), max_size=len(values))))
    wide = np.stack([np.roll(column, k) for k in range(len(NUMBERS))], axis=1)
    text: Array = np.array(words, data.draw(st.sampled_from([object, "S5"])))
    tensors = {"x": wide, "t": text}
    features = [Feature(name, "x", k) for k, name in enumerate(NUMBERS)]
    features += [Feature(name, "t", kind="categorical") for name in WORDS]
    features.append(Feature("unknown to the profile", "x", 0))
    panel = Panel(LAWS, features, memo=Memo(bits=2))
    first, again = (panel.count(tensors, place, places) for _ in range(2))  # what was looked up, and what is remembered
    assert first == again
    for number, counts in enumerate(first):
        mine = place == number
        assert counts.rows == mine.sum()
        expected = {name: LAWS[name].count(wide[mine, k]).tolist() for k, name in enumerate(NUMBERS)}
        expected |= {name: LAWS[name].count(text[mine]).tolist() for name in WORDS}
        assert {name: cells.tolist() for name, cells in counts.cells.items()} == expected


def test_many_rows_are_counted_part_by_part() -> None:
    x = np.random.default_rng(2).normal(size=30_000).astype(np.float32)
    (counts,) = Panel({"x": LAWS["single"]}, [Feature("x", "x")]).count({"x": x}, np.zeros(len(x), np.int64), 1)
    assert counts.cells["x"].tolist() == LAWS["single"].count(x).tolist()


@pytest.mark.parametrize("tensor", [np.zeros((2, 1), np.float32), np.array([[b"a"], [b"b"]], object)])
def test_tensors_that_do_not_fit_are_refused(tensor: Array) -> None:
    panel = Panel({"x": LAWS["single"]}, [Feature("x", "x", 1 if tensor.dtype != object else 0)])
    with pytest.raises((IndexError, ValueError)):
        panel.count({"x": tensor}, np.zeros(2, np.int64), 1)


def test_a_profile_without_these_features_counts_rows_alone() -> None:
    (counts,) = Panel({}, [Feature("x", "x")]).count({"x": np.zeros(5)}, np.zeros(5, np.int64), 1)
    assert (counts.rows, counts.cells) == (5, {})
