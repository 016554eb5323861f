from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator

from monitors.explain.diagnoses import DIAGNOSES, Observed, diagnose, swapped_columns
from monitors.reference import marginal
from serving.protocol import Array
from tests.monitors.explain.faults import (
    Law,
    carriers,
    celsius,
    fahrenheit,
    gaps,
    hours,
    miles,
    observed,
    rain,
    reference,
)

Fault = Callable[[Generator, Array], Array]


def times(factor: float, plus: float = 0.0) -> Fault:
    return lambda rng, x: x * factor + plus


def some(value: Any, share: float = 0.2) -> Fault:
    return lambda rng, x: np.where(rng.random(len(x)) < share, value, x).astype(x.dtype)


def filled(value: float) -> Fault:
    return lambda rng, x: np.where(np.isnan(x), value, x)


def all_of(value: float) -> Fault:
    return lambda rng, x: np.full(len(x), value)


def turned(h: int) -> Fault:
    return lambda rng, x: (x + h) % 24


PLANTED: list[tuple[Law, Fault, str, str]] = [
    (miles, times(10), "unit_change", "10 times as large"),
    (miles, times(1 / 10), "unit_change", "a tenth as large"),
    (miles, times(1 / 100), "unit_change", "a hundredth as large"),
    (miles, times(100), "out_of_range", "100 times as large; 1,000 times as large"),
    (miles, times(1000), "out_of_range", "1,000 times as large"),
    (miles, times(1 / 1000), "out_of_range", "a thousandth as large"),
    (miles, times(1.609344), "unit_change", "in kilometres in place of miles"),
    (miles, times(1 / 1.609344), "unit_change", "in miles in place of kilometres"),
    (celsius, times(1.8, 32), "unit_change", "in Fahrenheit in place of Celsius"),
    (fahrenheit, times(1 / 1.8, -32 / 1.8), "unit_change", "in Celsius in place of Fahrenheit"),
    (miles, all_of(700.0), "stuck_value", "100 % of the rows have a value of"),
    (miles, some(0.0), "default_imputed", "(perhaps 0 or "),
    (celsius, some(-999.0), "default_imputed", "perhaps -999"),
    (miles, some(9999.0, 0.4), "default_imputed", "perhaps 9,999"),
    (gaps, filled(850.0), "default_imputed", "; the others are as before"),
    (miles, some(np.nan), "missing_jumped", "of the values are missing; in the reference 0 % were"),
    (carriers, some(""), "missing_jumped", "are missing"),
    (hours, turned(5), "hours_shifted", "+5 h"),
    (hours, turned(-4), "hours_shifted", "-4 h"),
    (hours, turned(12), "hours_shifted", "+12 h"),
    (carriers, some("ZZ"), "new_category", "of the values are ones that the reference lacks"),
]


@pytest.mark.parametrize(("law", "fault", "name", "says"), PLANTED, ids=lambda x: x if isinstance(x, str) else "")
def test_a_planted_fault_is_named_and_no_other(law: Law, fault: Fault, name: str, says: str) -> None:
    for seed in range(3):
        found = diagnose(observed(law, fault, seed=seed))
        assert [diagnosis.name for diagnosis in found] == [name]
        assert says in found[0].sentence


LAWS: list[Law] = [miles, celsius, fahrenheit, gaps, hours, rain, carriers]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("rows", [60, 300, 3000, 30_000])
def test_rows_like_the_reference_are_never_diagnosed(law: Law, rows: int) -> None:
    for seed in range(15):
        assert diagnose(observed(law, lambda rng, x: x, rows, seed)) == ()


DRIFTS: dict[str, tuple[Law, Fault]] = {
    **{f"warmer by {k}": (celsius, times(1, k)) for k in (3, 8, 16, 32)},
    **{f"{k} times as far": (miles, times(k)) for k in (0.5, 0.8, 1.25, 1.45, 1.8, 2.0, 3.0, 6.0)},
    "twice as much rain": (rain, times(2)),
    "more rain": (rain, lambda rng, x: np.where(rng.random(len(x)) < 0.3, rng.exponential(3.0, len(x)), x)),
    "later in the day": (hours, lambda rng, x: (x + 1).clip(0, 23)),
    "all day": (hours, lambda rng, x: rng.integers(0, 24, len(x)).astype(np.float32)),
    "another mix": (carriers, lambda rng, x: np.where(rng.random(len(x)) < 0.3, "AA", x).astype(object)),
    "fewer gaps": (gaps, lambda rng, x: np.where(np.isnan(x), miles(rng, len(x)), x)),
}


@pytest.mark.parametrize("drift", DRIFTS)
def test_a_drift_that_is_no_fault_gets_no_name(drift: str) -> None:
    law, fault = DRIFTS[drift]
    for seed in range(5):
        assert diagnose(observed(law, fault, seed=seed)) == ()


def test_too_few_rows_name_nothing_but_what_they_show_by_themselves() -> None:
    assert diagnose(observed(miles, times(10), rows=50)) == ()
    assert diagnose(Observed(reference(miles), np.zeros(reference(miles).size, np.int64))) == ()


def test_clustered_rows_are_worth_fewer() -> None:
    rows = observed(miles, times(10))
    assert diagnose(rows)
    assert diagnose(Observed(rows.law, rows.counts, 100.0)) == ()


def test_swapped_columns_are_named_on_both_sides_and_only_there() -> None:
    rng = np.random.default_rng(4)
    a, b, c = (reference(law) for law in (miles, celsius, hours))
    seen = {"a": Observed(a, a.count(celsius(rng, 3000))), "b": Observed(b, b.count(miles(rng, 3000))),
            "c": Observed(c, c.count(hours(rng, 3000)))}  # fmt: skip
    found = swapped_columns(seen)
    assert set(found) == {"a", "b"} and found["a"].name == "swapped_columns"
    assert found["a"].sentence == "The columns a and b seem to be swapped: each has the values of the other."
    assert swapped_columns({"a": seen["a"], "c": seen["c"]}) == {}
    as_they_were = {"a": Observed(a, a.count(miles(rng, 3000))), "b": Observed(b, b.count(celsius(rng, 3000)))}
    assert swapped_columns(as_they_were) == {}


def test_swapped_categories_are_found_by_their_names() -> None:
    rng = np.random.default_rng(5)

    def airports(rng: Generator, n: int) -> Array:
        names = np.empty(3, object)
        names[:] = ["JFK", "EWR", "LGA"]
        return np.asarray(rng.choice(names, n))

    a, b = reference(carriers), marginal(airports(rng, 6000), "categorical")
    found = swapped_columns({
        "carrier": Observed(a, a.count(airports(rng, 3000))), "origin": Observed(b, b.count(carriers(rng, 3000)))
    })  # fmt: skip
    assert set(found) == {"carrier", "origin"}


def test_every_diagnosis_is_planted_once() -> None:
    assert {name for *_, name, _ in PLANTED} == set(DIAGNOSES)
