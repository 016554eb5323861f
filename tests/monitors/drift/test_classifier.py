"""The promise of the classifier, that it can be broken, and that it sees what no single feature shows."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from loadtests.promise.nulls import alarms_of, limit
from monitors.drift.classifier import CLIPS, Cells, Classifier, Witness, scores
from monitors.drift.e_detector import Floats, accumulated, log_mean_exp
from monitors.drift.tempering import thinned
from monitors.reference import Marginal, marginal
from serving.protocol import Array

A = 20.0
STREAMS, BLOCKS = 12, 60  # of each law
MOST = limit(STREAMS * BLOCKS, A)

Rows = Callable[[np.random.Generator, int], Array]  # shape (n, features)


def correlated(correlation: float) -> Rows:
    def rows(rng: np.random.Generator, n: int) -> Array:
        x = rng.normal(size=(n, 4))
        x[:, 1] = correlation * x[:, 0] + np.sqrt(1 - correlation**2) * x[:, 1]
        return x

    return rows


def tied(rng: np.random.Generator, n: int) -> Array:
    return np.round(correlated(0.5)(rng, n))


def counted(rng: np.random.Generator, n: int) -> Array:
    return rng.poisson(np.exp(rng.normal(size=(n, 1))), (n, 4))


def missing(rng: np.random.Generator, n: int) -> Array:
    """Where one is missing so is its neighbour."""
    x = correlated(0.5)(rng, n)
    x[rng.random(n) < 0.3, :2] = np.nan
    return x


def moved(share: float) -> Rows:
    """As `correlated(0.8)`, but for a share of the rows that became what a classifier sees best."""

    def rows(rng: np.random.Generator, n: int) -> Array:
        x = correlated(0.8)(rng, n)
        x[rng.random(n) < share, :2] = (3.0, -3.0)
        return x

    return rows


@dataclass(frozen=True)
class Null:
    """`cluster` equal rows follow one another; of each block's `rows` the classifier gets `sampled`."""

    reference: Rows
    live: Rows
    reference_rows: int = 3_000
    rows: int = 200
    sampled: int = 200
    cluster: int = 1
    tolerance: float = 0.02


NULLS = {
    "independent": Null(correlated(0.0), correlated(0.0)),
    "correlated": Null(correlated(0.8), correlated(0.8)),
    "ties": Null(tied, tied),
    "Poisson": Null(counted, counted),
    "missing": Null(missing, missing),
    "boundary": Null(correlated(0.8), moved(0.15), tolerance=0.15, reference_rows=6_000),
    "clusters": Null(correlated(0.8), correlated(0.8), reference_rows=60_000, rows=1_000, cluster=50),
    "whole clusters": Null(correlated(0.8), correlated(0.8), reference_rows=60_000, rows=200, cluster=50),
    "small blocks": Null(correlated(0.8), correlated(0.8), reference_rows=6_000, rows=12, sampled=12, tolerance=0.0),
    "small reference": Null(
        correlated(0.8), correlated(0.8), reference_rows=1_000, rows=1_000, sampled=1_000, tolerance=0.0
    ),
}


def alarms(null: Null, kind: type[Classifier] = Classifier, *, tempered: bool = True) -> int:
    rng = np.random.default_rng(17)
    return sum(alarms_of(winnings(null, kind, rng, tempered), A) for _ in range(STREAMS))


def winnings(null: Null, kind: type[Classifier], rng: np.random.Generator, tempered: bool) -> Iterator[Floats]:
    """At most 6,000 rows of the reference are drawn, every second one of other clusters."""
    drawn = min(6_000, null.reference_rows)
    odd = np.arange(null.reference_rows) // null.cluster % 2
    reference = np.repeat(null.reference(rng, null.reference_rows // null.cluster), null.cluster, 0)
    laws = [marginal(column, "numeric") for column in reference.T]
    halves = [rng.choice(np.flatnonzero(odd == half), drawn // 2, replace=False) for half in (0, 1)]
    sample = cells(laws, reference[np.stack(halves, 1).ravel()])
    worth = thinned(null.cluster, drawn, null.reference_rows) if tempered else 1.0
    classifier = kind(laws, sample, null.tolerance, worth)
    for _ in range(BLOCKS):
        block = np.repeat(null.live(rng, null.rows // null.cluster), null.cluster, 0)
        sample = cells(laws, block[rng.choice(null.rows, null.sampled, replace=False)])
        worth = thinned(null.cluster, null.sampled, null.rows) if tempered else 1.0
        yield classifier.update(sample, worth)[None]


def cells(laws: list[Marginal], rows: Array) -> Cells:
    return np.stack([law.cells(column) for law, column in zip(laws, rows.T, strict=True)], 1).astype(np.uint8)


class Intolerant(Classifier):
    """A mutant: what the tolerance allows is not taken off."""

    def _margin(self) -> float:
        return super()._margin() - self._tolerance


class Peeking(Classifier):
    """A mutant: learns from a block before it bets on it, and takes chance for what it learned."""

    def update(self, cells: Cells, design_effect: float = 1.0) -> Floats:
        super().update(cells, design_effect)
        learned = self.moments
        self.noise, self._noise, self.blocks = 0.0, 0.0, self.blocks - 1
        won = super().update(cells, design_effect)
        self.moments = learned
        return won


class Trusting(Classifier):
    """A mutant: the rows that taught say what is usual, and are taken for the truth."""

    def _bet(self, witness: Witness, rows: Floats, design_effect: float) -> Floats:
        self._kept = self._taught
        return super()._bet(witness, rows, design_effect)

    def _margin(self) -> float:
        return self._tolerance


@pytest.mark.parametrize("name", NULLS)
def test_false_alarms_stay_below_the_promise(name: str) -> None:
    assert alarms(NULLS[name]) <= MOST


def test_untempered_bets_break_the_promise_on_clusters() -> None:
    assert alarms(NULLS["whole clusters"], tempered=False) > MOST


@pytest.mark.parametrize(
    ("kind", "name"), [(Intolerant, "boundary"), (Peeking, "small blocks"), (Trusting, "small reference")]
)
def test_mutants_break_the_promise(kind: type[Classifier], name: str) -> None:
    assert alarms(NULLS[name], kind) > MOST


def delay(before: Rows, after: Rows, unit: str = "row") -> float:
    """Median blocks of 128 rows, of at most 60, until log 1000 after ten blocks without drift."""
    rng, first = np.random.default_rng(3), []
    for _ in range(5):
        reference = before(rng, 8_000)
        laws = [marginal(column, "numeric") for column in reference.T]
        classifier, s = Classifier(laws, cells(laws, reference), 0.02, unit=unit), np.zeros(len(CLIPS))
        for _ in range(10):
            s = accumulated(s, classifier.update(cells(laws, before(rng, 128))))
        assert log_mean_exp(s) < 1.0
        found = 0
        while found < 60 and log_mean_exp(s) < np.log(1000):
            found, s = found + 1, accumulated(s, classifier.update(cells(laws, after(rng, 128))))
        first.append(found)
    return float(np.median(first))


@pytest.mark.parametrize(("before", "after", "blocks"), [(0.8, -0.8, 3), (0.8, 0.0, 3), (0.5, 0.0, 5), (0.0, 0.5, 5)])
def test_a_dependence_that_changes_is_found_though_no_feature_does(before: float, after: float, blocks: int) -> None:
    assert delay(correlated(before), correlated(after)) <= blocks


def test_a_block_taken_as_one_is_slower() -> None:
    assert 4 * delay(correlated(0.8), correlated(-0.8)) < delay(correlated(0.8), correlated(-0.8), "block") < 60


def test_a_reference_of_few_rows_is_unfit() -> None:
    reference = correlated(0.8)(np.random.default_rng(1), 1_000)
    laws = [marginal(column, "numeric") for column in reference.T]
    assert Classifier(laws, cells(laws, reference), 0.02).fit
    assert not Classifier(laws, cells(laws, reference), 0.02, design_effect=1.1).fit


def test_a_tolerance_that_leaves_nothing_to_win_wins_nothing() -> None:
    rng = np.random.default_rng(1)
    reference = correlated(0.8)(rng, 2_000)
    laws = [marginal(column, "numeric") for column in reference.T]
    classifier = Classifier(laws, cells(laws, reference), 0.3)
    assert not any(classifier.update(cells(laws, correlated(-0.8)(rng, 200))).any() for _ in range(5))


@pytest.mark.parametrize("values", [np.ones(2_000), np.full(2_000, np.nan), np.arange(2_000.0) % 2])
def test_scores_are_finite_and_of_mean_zero(values: Array) -> None:
    law = marginal(values, "numeric")
    found = scores(law)[: law.size]
    assert np.isfinite(found).all()
    assert abs((found[:-1] * law.theta[:-1]).sum()) < 0.02


def test_a_category_that_was_never_there_scores_as_a_rare_one() -> None:
    """Names that are new every day are no drift: in the reference each was known."""
    law = marginal(
        np.array([f"c{number}" for number in np.random.default_rng(1).zipf(1.5, 5_000)], object), "categorical"
    )
    other, unseen = len(law.categories), len(law.categories) + 1
    assert scores(law)[other] == scores(law)[unseen]
