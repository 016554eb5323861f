"""When the requests of a batch happened: their slots, and which of these were sealed before."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitors.bundle import Requests
from serving.config import Monitors
from serving.protocol import Array

MIN_FUTURE_S = 60.0  # an event time further ahead of the wall clock than this, or than `lateness_s`, is none


class Times(NamedTuple):
    """Of all requests of a batch, shape (requests,): slot, whether it is sealed, whether the time is none."""

    time: NDArray[np.float64]
    slot: NDArray[np.int64]
    late: NDArray[np.bool_]
    misdated: NDArray[np.bool_]

    def of(self, which: NDArray[np.bool_]) -> "Times":
        return Times(self.time[which], self.slot[which], self.late[which], self.misdated[which])


def times(
    settings: Monitors, table: Requests, requests: Array, clock: float | None, watermark: int | None, now: float
) -> tuple[Times, float | None]:
    """Slot and lateness of every request, from the clock as it stood before its record; and the clock behind them.

    `requests` says how many each record has; `now` is the wall clock.
    """
    time = table["event_time" if settings.event_time == "request" else "arrival_time"]
    misdated = ~((time <= _latest(settings, now)) & (time >= 0) & (time < 2.0**40))
    known = np.where(misdated, -math.inf, time)
    peaks = np.maximum.reduceat(known, np.cumsum(requests) - requests)
    clocks = np.maximum.accumulate(np.concatenate([[-math.inf if clock is None else clock], peaks]))
    marks = np.floor((clocks[:-1] - settings.lateness_s) / settings.slot_s)
    marks = np.maximum(marks, -math.inf if watermark is None else watermark)
    slot = np.floor(np.where(misdated, 0.0, time) / settings.slot_s)
    found = Times(known, slot.astype(np.int64), slot < np.repeat(marks, requests), misdated)
    return found, float(clocks[-1]) if clocks[-1] > -math.inf else clock


def _latest(settings: Monitors, now: float) -> float:
    """The latest event time that is believed."""
    return math.inf if settings.event_time == "arrival" else now + max(settings.lateness_s, MIN_FUTURE_S)
