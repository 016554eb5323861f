"""alibi-detect's online Cramér-von Mises detector: ``python -m loadtests.promise.rivals.alibi_detect RUN MINUTES``.

It is its only online detector of numbers that needs neither PyTorch nor TensorFlow, and has no default for its windows
and its expected run time. The windows here are of 20 and 200 rows; the run time is about the longest that its default
of 10,000 bootstraps can tell for 20 features. Comparing a row takes time and memory in the square of the reference,
which is therefore the first 200 rows.
"""

from collections.abc import Callable, Iterator
from importlib.metadata import version

import numpy as np
from alibi_detect.cd import CVMDriftOnline

from loadtests.promise import streams
from loadtests.promise.streams import Floats, Outcome

RUN_ROWS = 400
WINDOWS = [20, 200]
KEPT = 200  # rows of the reference
TRIALS = 3  # of a run
RULE = f"expected run time {RUN_ROWS:,} rows, windows of 20 and 200"


def main() -> None:
    run, minutes = streams.asked()
    reference = np.stack([streams.reference(f, run)[:KEPT] for f in range(streams.FEATURES)], axis=1)
    day = np.stack([streams.day(f, run) for f in range(streams.FEATURES)], axis=2)  # blocks, rows, features
    detector = CVMDriftOnline(reference, ert=RUN_ROWS, window_sizes=WINDOWS, verbose=False)
    found = sum(_alarmed(detector, rows) for rows in day[:minutes])
    quiet = iter(day[minutes:].copy())
    firsts = streams.firsts(lambda: _fresh(detector, quiet), range(run * TRIALS, (run + 1) * TRIALS))
    streams.say(Outcome(f"CVM (alibi-detect {version('alibi-detect')})", RULE, "row", minutes, (found,), firsts))


def _alarmed(detector: CVMDriftOnline, rows: Floats) -> bool:
    found = False
    for x in rows:
        if detector.predict(x)["data"]["is_drift"]:
            detector.reset_state()
            found = True
    return found


def _fresh(detector: CVMDriftOnline, quiet: Iterator[Floats]) -> Callable[[Floats], bool]:
    """Feature 0 is given, the others go on without drift."""
    detector.reset_state()

    def alarmed(shifted: Floats) -> bool:
        rows = next(quiet)
        rows[:, 0] = shifted
        return _alarmed(detector, rows)

    return alarmed


if __name__ == "__main__":
    main()
