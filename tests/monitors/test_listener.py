import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitors.listener import parse

GOOD: dict[str, Any] = {"model": "m", "id": "r", "row": 0, "label": 1, "time": "2013-02-01T00:00:00+01:00"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": "M"}, "model must match"),
        ({"model": 3}, "Expected `str`"),
        ({"id": ""}, "id must have 1 to 256 characters, got 0"),
        ({"id": "x" * 257}, "got 257"),
        ({"row": -1}, "row must be between 0 and 2^31, got -1"),
        ({"row": 2**40}, "row must be"),
        ({"label": "yes"}, "Expected `bool | int | float`, got `str`"),
        ({"label": None}, "Expected"),
        ({"label": 10**400}, "label must be a finite number"),
        ({"label": 10**305}, "label must be a finite number"),
        ({"time": "2013-02-01T00:00:00"}, "time must be RFC 3339 with an offset"),
        ({"time": "yesterday"}, "Invalid RFC3339"),
        ({"time": -5}, "time must be RFC 3339 or seconds since 1970, got -5"),
        ({"time": 1e300}, "time must be"),
    ],
)
def test_a_label_that_is_none_is_refused_alone(change: dict[str, Any], reason: str) -> None:
    parsed = parse(json.dumps([GOOD, GOOD | change, GOOD]).encode())
    assert [index for index, _ in parsed.labels] == [0, 2]
    assert [refusal.index for refusal in parsed.refused] == [1]
    assert reason in parsed.refused[0].reason


def test_time_is_in_seconds_and_may_be_left_out() -> None:
    (_, first), (_, second) = parse(json.dumps([GOOD, GOOD | {"time": None}]).encode()).labels
    assert first.time == 1359673200.0
    assert math.isnan(second.time)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(GOOD)), inner, max_size=5),
)


@given(st.lists(st.one_of(st.just(GOOD), st.dictionaries(st.sampled_from(sorted(GOOD)), json_values), json_values)))
def test_every_label_of_a_request_is_taken_or_refused(items: list[Any]) -> None:
    parsed = parse(json.dumps(items).encode())
    indices = [index for index, _ in parsed.labels] + [refusal.index for refusal in parsed.refused]
    assert sorted(indices) == list(range(len(items)))


@pytest.mark.parametrize("body", [b"", b"[", b"{}", b"\xff", b"[1,]", b"[" * 100_000], ids=lambda b: b[:9])
def test_a_body_that_is_no_array_is_an_error(body: bytes) -> None:
    with pytest.raises((msgspec.DecodeError, RecursionError)):
        parse(body)
