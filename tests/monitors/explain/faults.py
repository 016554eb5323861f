"""Features with and without a fault, for the tests of what explains them."""

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.random import Generator

from monitors.explain.diagnoses import Observed
from monitors.marginal import Kind, Marginal
from monitors.reference import marginal
from serving.protocol import Array

Law = Callable[[Generator, int], Array]


def celsius(rng: Generator, n: int) -> Array:
    return rng.normal(15, 8, n)


def fahrenheit(rng: Generator, n: int) -> Array:
    return celsius(rng, n) * 1.8 + 32


def miles(rng: Generator, n: int) -> Array:
    return rng.gamma(2, 500, n)


def gaps(rng: Generator, n: int) -> Array:
    """A fifth is missing."""
    return np.where(rng.random(n) < 0.2, np.nan, miles(rng, n))


def hours(rng: Generator, n: int) -> Array:
    return rng.normal(13, 4, n).clip(0, 23).astype(np.float32).round()


def rain(rng: Generator, n: int) -> Array:
    """Mostly nothing."""
    return np.where(rng.random(n) < 0.7, 0.0, rng.exponential(3.0, n))


def carriers(rng: Generator, n: int) -> Array:
    names = np.empty(6, object)
    names[:] = ["UA", "B6", "EV", "DL", "AA", "MQ"]
    return np.asarray(rng.choice(names, n, p=[0.3, 0.2, 0.2, 0.15, 0.1, 0.05]))


KINDS: dict[Law, Kind] = {carriers: "categorical"}


@cache
def reference(law: Law, rows: int = 6000, seed: int = 1) -> Marginal:
    return marginal(law(np.random.default_rng(seed), rows), KINDS.get(law, "numeric"))


def observed(law: Law, fault: Callable[[Generator, Array], Array], rows: int = 3000, seed: int = 2) -> Observed:
    """Rows of `law` after a fault, beside the reference of the law itself."""
    rng, known = np.random.default_rng(seed), reference(law)
    return Observed(known, known.count(fault(rng, law(rng, rows))))
