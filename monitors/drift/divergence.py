"""Divergences that are smooth where nothing changed: their bias there, and an interval.

Near p = q each is c sum (p - q)^2 / q, with a constant c of its own: counted rows raise it by c (K - 1) h on average,
h = D/n + D'/m, and give it a variance of 2 (K - 1) (c h)^2. Further away its variance is that of its slopes, by the
delta method (Pardo 2006, *Statistical Inference Based on Divergence Measures*, 3.2). The interval takes both:

    value = max(T - c (K - 1) h, 0);   value -+ z sqrt(h_p Var_p(dT/dp) + h_q Var_q(dT/dq) + 2 (K - 1) (c h)^2)

Slopes are taken at the counted shares, which lie further apart than the true ones: near p = q it is too wide.
"""

import numpy as np

from monitors.drift.table import Estimate, Floats, Table, quantile


def divergence(
    table: Table,
    terms: Floats,
    slopes: tuple[Floats, Floats],
    *,
    null: float,
    top: float = np.inf,
    confidence: float,
) -> Estimate:
    """The estimate of T = sum of `terms`, shape (…, K), whose derivatives by p and q are `slopes`; `null` is c."""
    more, bend = table.more, null * table.h
    value = np.maximum(terms.sum(-1) - more * bend, 0.0)
    half = quantile(confidence) * np.sqrt(table.variance(*slopes) + 2 * more * bend**2)
    return table.estimate(value, value - half, value + half, top)


def rooted(estimate: Estimate) -> Estimate:
    """Of the square of a distance, that of the distance."""
    return Estimate(*map(np.sqrt, estimate))
