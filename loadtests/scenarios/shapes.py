"""How many users there are at a moment of a run: pure functions of the part of the run that is over, in [0, 1).

Each gives a factor of the number of users that was asked for; `users` turns it into a whole number of them.
"""

from collections.abc import Callable

Shape = Callable[[float], float]

SPIKE_BEGINS, SPIKE_ENDS, SPIKE_FACTOR = 1 / 3, 1 / 2, 5.0
# Flights scheduled to leave New York in each local hour, per day of 2013: most at 8, none at night.
HOURLY = (0, 0, 0, 0, 0, 5, 71, 63, 75, 56, 46, 44, 50, 55, 59, 65, 63, 67, 60, 59, 46, 30, 7, 3)


def steady(part: float) -> float:
    """Always 1."""
    return 1.0


def diurnal(part: float) -> float:
    """A day, from midnight to midnight: departures of the hour, in proportion to the busiest one; straight between.

    >>> [round(diurnal(hour / 24), 2) for hour in (3, 8, 14, 22)]
    [0.0, 1.0, 0.79, 0.09]
    """
    hour = int(part * 24)
    before, after = HOURLY[hour % 24], HOURLY[(hour + 1) % 24]
    return (before + (after - before) * (part * 24 - hour)) / max(HOURLY)


def spike(part: float) -> float:
    """1, but SPIKE_FACTOR from a third of the run to its half; what follows shows whether it recovers.

    >>> [spike(part) for part in (0.0, 0.4, 0.6)]
    [1.0, 5.0, 1.0]
    """
    return SPIKE_FACTOR if SPIKE_BEGINS <= part < SPIKE_ENDS else 1.0


def users(shape: Shape, part: float, base: int) -> int:
    """A whole number of users, at least one.

    >>> users(spike, 0.4, base=20), users(diurnal, 0.1, base=20)
    (100, 1)
    """
    return max(1, round(base * shape(part)))
