"""A domain classifier as a bet: evidence that rows as a whole, not one feature alone, left the reference.

It learns to tell rows of now from rows of the reference, and bets that it can (Podkopaev & Ramdas 2023, *Sequential
predictive two-sample and independence testing*). A row is the scores u of its cells, u_0 = 1. One half of the
reference's rows teaches, the other is kept to say what the classifier makes of the reference. For each judged block:

    l(u) = a (u' W u - middle),  W from blocks before this one: how far the mean of each product u_i u_j has moved
    x = clip(l, -c, c) - its mean over the kept rows - 2 c (tolerance + error);   e = 1 + x, for each clip c
    S_c <- max(S_c, 0) + (1/D) sum log e over the block's rows;   evidence = log mean_c exp(S_c)

Null: given the past, each row's law over all cells together lies within total variation `tolerance` of the law
behind the reference. clip(l) has a range of 2 c, so its mean moves by at most 2 c tolerance. Its mean over the kept
rows, worth m independent ones, none of which has taught, is wrong by at most 2 c error in all blocks t = 1, 2, … with
probability 1 - alpha, error = sqrt(log(2 t (t + 1) / alpha) / (2 m)) for two clips (Hoeffding 1963). Then E[e] <= 1,
and each exp(S_c) is an e-detector as in `e_detector`. The rows of a block are a sample, D is its design effect.

Products of two scores see a correlation that changes while no feature does. What takes three features to see, or
lies between categories in no order, is seen in part or not at all.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from monitors.bottom_k import ABSENT
from monitors.drift.e_detector import Floats
from monitors.marginal import Marginal
from monitors.sampling import ALPHA

CLIPS = np.array([0.1, 0.4])
LEARN = 0.2  # weight of the newest block in what is learned
MOST = 0.24  # tolerance and error together, above which a bet could lose more than all
FEWEST = 500.0  # kept rows, in independent ones, below which the error leaves nothing to win

Cells = NDArray[np.uint8]


def scores(law: Marginal) -> Floats:
    """The score of each cell, of mean 0 and variance 1 over the reference, shape (ABSENT + 1,); 0 for missing.

    The middle of its rows' ranks; of categories, from the most to the least common, other and unseen as one.

    >>> from monitors.reference import marginal
    >>> law = marginal(np.arange(2000.0), "numeric")
    >>> scores(law)[[1, 5, 10, 12]].round(2).tolist()
    [-1.57, -0.17, 1.57, 0.0]
    """
    share = law.theta[:-1] / law.theta[:-1].sum()
    rank = share.cumsum() - 0.5 * share - 0.5
    if law.kind == "categorical":  # a rare category of the reference is known there, one of now is not
        rank[-2:] = (share[-2:] * rank[-2:]).sum() / share[-2:].sum()
    found = np.zeros(ABSENT + 1)
    found[: len(rank)] = np.clip(rank / math.sqrt(float((share * rank**2).sum())), -3.0, 3.0)
    return found


@dataclass(frozen=True, eq=False)
class Witness:
    """l(u) = scale (u' W u - middle): positive where rows are more common now."""

    weights: Floats  # shape (F + 1, F + 1)
    scale: float
    middle: float

    def of(self, rows: Floats) -> Floats:
        """Of rows of scores, shape (n, F + 1)."""
        return np.asarray(self.scale * (quadratic(rows, self.weights) - self.middle))


class Classifier:
    """`moments` is what it has seen, shape (F + 1, F + 1): means of products, the newest block weighing `LEARN`.

    >>> from monitors.reference import marginal
    >>> rng = np.random.default_rng(1)
    >>> def rows(n, correlation):
    ...     x = rng.normal(size=(2, n))
    ...     return np.stack([x[0], correlation * x[0] + np.sqrt(1 - correlation**2) * x[1]])
    >>> reference = rows(8000, 0.8)
    >>> laws = [marginal(column, "numeric") for column in reference]
    >>> cells = lambda found: np.stack([law.cells(x) for law, x in zip(laws, found)], 1).astype(np.uint8)
    >>> classifier, s = Classifier(laws, cells(reference), tolerance=0.02), np.zeros(len(CLIPS))
    >>> for _ in range(4):
    ...     s = np.maximum(s, 0) + classifier.update(cells(rows(250, -0.8)))
    >>> bool(s.max() > np.log(1000))
    True
    """

    def __init__(
        self,
        laws: Sequence[Marginal],
        reference: Cells,
        tolerance: float,
        design_effect: float = 1.0,
        unit: str = "row",
    ) -> None:
        """`reference` has shape (rows, F); every second row teaches, and does not depend on the others. Its
        `design_effect` is at least 1; `unit` is what is bet on, as in `monitors.unit`.
        """
        self._unit = unit
        self._scores = np.stack([scores(law) for law in laws])
        rows = self._rows(reference)
        self._taught, self._kept = rows[::2], rows[1::2]
        self._worth = len(self._kept) / design_effect
        self._tolerance = tolerance
        self._means = _moments(self._taught)
        self._spread = np.maximum(_moments(self._taught**2) - self._means**2, 0.05)
        self._noise = design_effect / max(1, len(self._taught))
        self.moments = self._means
        self.noise = 0.0  # variance of a mean in `moments`, in units of one row's
        self.blocks = 0

    @property
    def fit(self) -> bool:
        return self._worth >= FEWEST

    def update(self, cells: Cells, design_effect: float = 1.0) -> Floats:
        """Take a block's sampled rows, shape (n, F), n at least 1; return the log winnings, shape (clips,)."""
        rows, witness = self._rows(cells), self._witness()
        self.blocks += 1
        won = np.zeros(len(CLIPS)) if witness is None else self._bet(witness, rows, design_effect)
        self.moments = (1 - LEARN) * self.moments + LEARN * _moments(rows)
        self.noise = (1 - LEARN) ** 2 * self.noise + LEARN**2 * design_effect / len(rows)
        return won

    def learned(self, moments: Floats, noise: float, blocks: int) -> None:
        """Go on with what another one, of the same reference, has learned."""
        self.moments, self.noise, self.blocks = moments, noise, blocks

    def _rows(self, cells: Cells) -> Floats:
        found = self._scores[np.arange(len(self._scores)), cells]
        return np.concatenate([np.ones((len(found), 1)), found], 1)

    def _witness(self) -> Witness | None:
        """What was learned; None where nothing stands out of the noise."""
        moved = self.moments - self._means
        noise = (self.noise + self._noise) * self._spread * 2 * math.log(moved.size)
        weights = moved * np.maximum(0.0, 1 - noise / np.maximum(moved**2, 1e-12)) / self._spread
        if not weights.any():
            return None
        found = quadratic(self._taught, weights)
        variance = max(float(found.var()), 1e-12)
        apart = float((weights * moved).sum())
        return Witness(weights, apart / variance, float(found.mean()) + apart / 2)

    def _bet(self, witness: Witness, rows: Floats, design_effect: float) -> Floats:
        margin = self._margin()
        if margin >= MOST:
            return np.zeros(len(CLIPS))
        low, high = -CLIPS[:, None], CLIPS[:, None]
        usual = np.clip(witness.of(self._kept), low, high).mean(1)
        gain = np.clip(witness.of(rows), low, high) - usual[:, None] - 2 * high * margin
        return np.asarray(np.log1p(gain.mean(1)) if self._unit == "block" else np.log1p(gain).sum(1) / design_effect)

    def _margin(self) -> float:
        """How far a law without drift may be from the kept rows, for a function with a range of 1."""
        error = math.sqrt(math.log(len(CLIPS) * self.blocks * (self.blocks + 1) / ALPHA) / (2 * self._worth))
        return self._tolerance + error


def quadratic(rows: Floats, weights: Floats) -> Floats:
    """u' W u of each row, shape (n,)."""
    some = np.flatnonzero(weights.any(0) | weights.any(1))  # few stand out of the noise
    rows, weights = rows[:, some], weights[np.ix_(some, some)]
    return np.asarray((np.einsum("nf,fg->ng", rows, weights) * rows).sum(1))


def _moments(rows: Floats) -> Floats:
    """Means of the products of two scores, shape (F + 1, F + 1)."""
    return np.asarray(np.einsum("nf,ng->fg", rows, rows) / max(1, len(rows)))
