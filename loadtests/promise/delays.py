"""How soon a change is seen, by the detectors themselves."""

from dataclasses import dataclass

import numpy as np

from monitors.drift.e_detector import CLIPS, Bettor, BlockBettor, accumulated, log_mean_exp
from monitors.reference import marginal
from monitors.risk import RiskDetector

SHIFTS = {0.2: 12, 0.3: 7, 0.5: 4, 1.0: 3}  # standard deviations: blocks, at most
RISKS = {0.15: 2_500, 0.2: 700}  # labels, at most
MOST_BLOCKS = 600  # that bets on blocks are given


@dataclass(frozen=True)
class Shift:
    """By `sigma` standard deviations: median blocks of 200 rows until an alarm, with bets on rows and on blocks."""

    sigma: float
    required: int
    rows: float
    blocks: float


@dataclass(frozen=True)
class Rise:
    """Of the risk, to `risk`: median labels until an alarm."""

    risk: float
    required: int
    labels: float


def shift(sigma: float) -> Shift:
    blocks = of_drift(sigma, 0.02, bettor=BlockBettor, most=MOST_BLOCKS, streams=41)
    return Shift(sigma, SHIFTS[sigma], of_drift(sigma, 0.02), blocks)


def rise(risk: float) -> Rise:
    return Rise(risk, RISKS[risk], of_risk(risk, 0.12, 20))


def of_drift(
    sigma: float,
    tolerance: float,
    *,
    run_blocks: float = 1_000,
    most: int = 60,
    bettor: type[Bettor] = Bettor,
    streams: int = 200,
) -> float:
    """Median blocks of 200 independent rows until a shift by `sigma` standard deviations is an alarm.

    13 cells, the shift in the first block; infinite where the median stream has no alarm within `most` blocks.
    """
    rng = np.random.default_rng(7)
    law = marginal(rng.normal(size=200_000), "numeric")
    bets, s = bettor(law.theta, tolerance), np.zeros((streams, len(CLIPS)))
    first = np.full(streams, np.inf)
    for number in range(1, most + 1):
        rows = rng.normal(sigma, 1.0, (streams, 200))
        s = accumulated(s, bets.update(np.stack([law.count(row) for row in rows])))
        first = np.minimum(first, np.where(log_mean_exp(s) >= np.log(run_blocks), number, np.inf))
    return float(np.median(first))


def of_risk(risk: float, m: float, block_rows: int, *, run_blocks: float = 1_000, runs: int = 41) -> float:
    """Median labels until a 0/1 loss of mean `risk` is found above the bound `m`."""
    rng = np.random.default_rng(1)
    return float(np.median([_labels(rng, risk, m, block_rows, run_blocks) for _ in range(runs)]))


def _labels(rng: np.random.Generator, risk: float, m: float, block_rows: int, run_blocks: float) -> float:
    detector = RiskDetector(m)
    for block in range(1, 5_000):
        if detector.update(rng.binomial(block_rows, risk) / block_rows) >= np.log(run_blocks):
            return block * block_rows
    return float("inf")
