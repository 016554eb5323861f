"""alibi-detect's online Cramér-von Mises detector: ``python -m loadtests.promise.rivals.alibi_detect``.

It has no default for its windows and its expected run time. The windows here are of 20 and 200 rows; the run time is
about the longest that its default of 10,000 bootstraps can tell for 20 features. Comparing a row takes time and memory
in the square of the reference, which is therefore the first 200 rows.
"""

from collections.abc import Callable
from importlib.metadata import version

import numpy as np
from alibi_detect.cd import CVMDriftOnline

from loadtests.promise import streams
from loadtests.promise.streams import Floats, Outcome

RUN_ROWS = 400
WINDOWS = [20, 200]
KEPT = 200  # rows of the reference
BLOCKS = 15  # that are looked at
RUNS = 5  # of delays
RULE = f"expected run time {RUN_ROWS:,} rows, windows of 20 and 200"


def main() -> None:
    reference = np.stack([streams.reference(f)[:KEPT] for f in range(streams.FEATURES)], axis=1)
    quiet = np.stack([streams.day(f, 0) for f in range(streams.FEATURES)], axis=2)  # blocks, rows, features
    detector = CVMDriftOnline(reference, ert=RUN_ROWS, window_sizes=WINDOWS, verbose=False)
    found = np.array([_alarms(detector, rows) for rows in quiet[:BLOCKS]])
    scale = streams.DAYS * streams.BLOCKS / BLOCKS
    delay = streams.median_delay(lambda: _fresh(detector, quiet), RUNS)
    streams.say(
        Outcome(
            f"CVM (alibi-detect {version('alibi-detect')})",
            RULE,
            "row",
            BLOCKS / streams.BLOCKS,
            float((found > 0).sum() * scale),
            float(found.sum() * scale),
            delay,
        )
    )


def _alarms(detector: CVMDriftOnline, rows: Floats) -> int:
    found = 0
    for x in rows:
        if detector.predict(x)["data"]["is_drift"]:
            detector.reset_state()
            found += 1
    return found


def _fresh(detector: CVMDriftOnline, quiet: Floats) -> Callable[[Floats], bool]:
    """Feature 0 is given, the others go on without drift."""
    detector.reset_state()
    blocks = iter(quiet[BLOCKS:].copy())

    def alarmed(shifted: Floats) -> bool:
        rows = next(blocks)
        rows[:, 0] = shifted
        return _alarms(detector, rows) > 0

    return alarmed


if __name__ == "__main__":
    main()
