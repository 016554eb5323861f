"""A metric as it is shown."""

import msgspec
import numpy as np

from monitors.metrics.sequence import Floats, Interval


class Metric(msgspec.Struct, frozen=True):
    """`lower` and `upper` are the ends of a confidence sequence at 0.95; `n` are the labelled rows it is about."""

    value: float
    lower: float
    upper: float
    n: int


class Estimates(msgspec.Struct, frozen=True):
    """One metric of several segments: arrays of shape (segments,)."""

    value: Floats
    interval: Interval
    n: Floats

    def at(self, segment: int) -> Metric | None:
        """None without a row that it is about."""
        if not self.n[segment]:
            return None
        lower, upper = self.interval
        return Metric(
            float(self.value[segment]), float(lower[segment]), float(upper[segment]), round(float(self.n[segment]))
        )


def ratio(part: Floats, of: Floats) -> Floats:
    """NaN where there is nothing to divide by."""
    found: Floats = np.divide(part, of, out=np.full(np.shape(of), np.nan), where=np.asarray(of) > 0)
    return found
