"""river's ADWIN and Page-Hinkley with their defaults, row by row: ``python -m loadtests.promise.rivals.river``."""

from collections.abc import Callable
from importlib.metadata import version
from typing import Protocol

import numpy as np
from river import drift

from loadtests.promise import streams
from loadtests.promise.streams import Floats, Outcome

LOOKED_AT = 1  # days: 5.8 million rows


class Detector(Protocol):
    drift_detected: bool

    def update(self, x: float) -> object: ...


def main() -> None:
    streams.say(
        _outcome("ADWIN", "delta = 0.002, each row", drift.ADWIN),
        _outcome("Page-Hinkley", "threshold = 50, delta = 0.005, each row", drift.PageHinkley),
    )


def _outcome(name: str, rule: str, new: Callable[[], Detector]) -> Outcome:
    found = np.zeros((streams.FEATURES, LOOKED_AT * streams.BLOCKS), int)
    for feature in range(streams.FEATURES):
        detector = new()
        for number in range(LOOKED_AT):
            for block, rows in enumerate(streams.day(feature, number), number * streams.BLOCKS):
                found[feature, block] = _alarms(detector, rows)
    scale = streams.DAYS / LOOKED_AT
    calls, alarms = (found.sum(0) > 0).sum() * scale, found.sum() * scale
    delay = streams.median_delay(lambda: _taught(new()), runs=25)
    name = f"{name} (river {version('river')})"
    return Outcome(name, rule, "row", LOOKED_AT, float(calls), float(alarms), delay)


def _alarms(detector: Detector, rows: Floats) -> int:
    found = 0
    for x in rows.tolist():
        detector.update(x)
        found += detector.drift_detected
    return found


def _taught(detector: Detector) -> Callable[[Floats], bool]:
    """It has no reference: it is shown one first."""
    _alarms(detector, streams.reference(0))
    return lambda rows: _alarms(detector, rows) > 0


if __name__ == "__main__":
    main()
