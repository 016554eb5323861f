"""river's ADWIN and Page-Hinkley as they come, row by row: ``python -m loadtests.promise.rivals.river RUN MINUTES``."""

from collections.abc import Callable
from importlib.metadata import version
from typing import Protocol

import numpy as np
from river import drift

from loadtests.promise import streams
from loadtests.promise.streams import Floats, Outcome

TRIALS = 9  # of a run


class Detector(Protocol):
    drift_detected: bool

    def update(self, x: float) -> object: ...


def main() -> None:
    run, minutes = streams.asked()
    streams.say(
        _outcome("ADWIN", "delta = 0.002", drift.ADWIN, run, minutes),
        _outcome("Page-Hinkley", "threshold = 50, delta = 0.005", drift.PageHinkley, run, minutes),
    )


def _outcome(name: str, rule: str, new: Callable[[], Detector], run: int, minutes: int) -> Outcome:
    """The rows of day `run`."""
    found = np.zeros((streams.FEATURES, minutes), int)
    for feature in range(streams.FEATURES):
        detector = new()
        for minute, rows in enumerate(streams.day(feature, run)[:minutes]):
            found[feature, minute] = _alarms(detector, rows)
    firsts = streams.firsts(lambda: _taught(new()), range(run * TRIALS, (run + 1) * TRIALS))
    name = f"{name} (river {version('river')})"
    return Outcome(name, f"{rule}, in any feature", "row", minutes, (int((found.sum(0) > 0).sum()),), firsts)


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
