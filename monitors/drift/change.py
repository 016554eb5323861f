"""When a feature or the loss changed: the likeliest of the kept blocks to be the first one after it."""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitors.marginal import Marginal

SURE = 3.0  # nats less than the likeliest: blocks that may as well be the first


class Onset(msgspec.Struct, frozen=True, array_like=True):
    """When the first block after a change began, and between when and when it may have, seconds since 1970 UTC."""

    at: float
    earliest: float
    latest: float


def locate(
    law: Marginal,
    counts: NDArray[np.int64],
    ends: Sequence[float],
    design_effect: float = 1.0,
    hours: Sequence[Mapping[int, int]] = (),
) -> Onset:
    """Which of the blocks with `counts`, shape (blocks, K), at least one, no longer follows what came before.

    The maximum over t of the likelihood of one law up to block t and another from it on. The first law is estimated
    from the reference and the blocks before t, the second from the others; rows count 1/D, so that clusters of up to
    D rows do not pass for evidence. (Hinkley 1970, *Inference about the change-point*, Biometrika.)

    Where `hours` are compared apart, the blocks' rows by hour of the week, a law is one ratio for each cell to what is
    usual at these hours, and rows are Poisson variables: then the season does not pass for a change.

    >>> from monitors.reference import marginal
    >>> law, rng = marginal(np.arange(2000.0), "numeric"), np.random.default_rng(1)
    >>> blocks = [law.count(rng.uniform(0, 2000 if k < 6 else 1500, size=300)) for k in range(9)]
    >>> locate(law, np.array(blocks), [60.0 * (k + 1) for k in range(9)])
    Onset(at=360.0, earliest=360.0, latest=360.0)
    """
    rows = counts / design_effect
    after = rows[::-1].cumsum(0)[::-1]
    known = law.theta * law.effective_rows
    before = rows.cumsum(0) - rows + known
    if not hours:
        return likeliest(_fit(before) + _fit(after), ends)
    usual = rows.sum(1, keepdims=True) * law.expected(hours)
    usual_after = usual[::-1].cumsum(0)[::-1]
    usual_before = usual.cumsum(0) - usual + known
    return likeliest(_gain(before, usual_before) + _gain(after, usual_after), ends)


def likeliest(nats: NDArray[np.float64], ends: Sequence[float]) -> Onset:
    """The block of the largest log likelihood, and the first and last of those about as likely. `nats`: (blocks,).

    >>> likeliest(np.array([1.0, 9.0, 8.0, 2.0]), [60.0, 120.0, 180.0, 240.0])
    Onset(at=60.0, earliest=60.0, latest=120.0)
    """
    may_be, began = np.flatnonzero(nats >= nats.max() - SURE), starts(ends)
    return Onset(began[int(np.argmax(nats))], began[int(may_be[0])], began[int(may_be[-1])])


def starts(ends: Sequence[float]) -> list[float]:
    """When blocks began that ended at `ends`: where the one before ended. The first is taken to be like the second.

    >>> starts([60.0, 120.0, 240.0])
    [0.0, 60.0, 120.0]
    """
    return [2 * ends[0] - ends[1] if len(ends) > 1 else ends[0], *ends[:-1]]


def _fit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log likelihood in nats of each row of `rows`, shape (blocks, K), under its own shares."""
    share = rows / rows.sum(1, keepdims=True)
    fit: NDArray[np.float64] = (rows * np.log(np.where(rows > 0, share, 1.0))).sum(1)
    return fit


def _gain(rows: NDArray[np.float64], usual: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the likeliest ratios of `rows` to what is `usual`, shapes (blocks, K), gain over a ratio of 1, in nats."""
    gain: NDArray[np.float64] = (rows * np.log(np.where(rows > 0, rows / usual, 1.0))).sum(1)
    return gain
