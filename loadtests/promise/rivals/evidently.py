"""Evidently's preset for drift, window by window: ``python -m loadtests.promise.rivals.evidently RUN WINDOWS``.

By default a column drifts where its Wasserstein distance, in standard deviations of the reference, is above 0.1 (for
references of more than 1,000 rows), and a data set where half of its columns do. `DriftedColumnsCount` is the metric of
`DataDriftPreset` that says how many drift; the preset's other metrics draw a plot of each column from the same test.
"""

from collections.abc import Callable, Mapping
from importlib.metadata import version

import numpy as np
import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.metrics import DriftedColumnsCount

from loadtests.promise import streams
from loadtests.promise.streams import Floats, Outcome

NAMES = [str(feature) for feature in range(streams.FEATURES)]
HALF = streams.FEATURES // 2
TRIALS = 5  # of a run


def main() -> None:
    run, windows = streams.asked()
    reference = _dataset({name: streams.reference(feature, run) for feature, name in enumerate(NAMES)})
    streams.say(*(outcome for blocks in (1, 60) for outcome in _outcomes(reference, run, windows, blocks)))


def _outcomes(reference: Dataset, run: int, windows: int, blocks: int) -> list[Outcome]:
    """Of any column, and of half of them, which no shift of one can make drift."""
    found = [_drifted(reference, window) for window in _windows(run, windows, blocks)]
    trials, alone = range(run * TRIALS, (run + 1) * TRIALS), _dataset({"0": streams.reference(0, run)})
    firsts = streams.firsts(lambda: _fresh(alone, blocks), trials)
    name, length = f"Evidently {version('evidently')}", "minute" if blocks == 1 else "hour"
    any_of_them, half = sum(n >= 1 for n in found), sum(n >= HALF for n in found)
    rule = "Wasserstein distance of at least 0.1 in"
    return [
        Outcome(name, f"{rule} any column", length, windows, (any_of_them,), firsts),
        Outcome(name, f"{rule} half of the columns", length, windows, (half,), ()),
    ]


def _windows(run: int, windows: int, blocks: int) -> list[Dataset]:
    """Rows from day 10 `run` on."""
    days = range(10 * run, 10 * run - (-windows * blocks // streams.BLOCKS))
    rows = [
        np.concatenate([streams.day(feature, number) for number in days]).reshape(-1, blocks * streams.ROWS)
        for feature in range(streams.FEATURES)
    ]
    return [_dataset({name: rows[feature][n] for feature, name in enumerate(NAMES)}) for n in range(windows)]


def _dataset(columns: Mapping[str, Floats]) -> Dataset:
    return Dataset.from_pandas(pd.DataFrame(columns), DataDefinition(numerical_columns=list(columns)))


def _drifted(reference: Dataset, current: Dataset) -> int:
    """How many columns."""
    (metric,) = Report([DriftedColumnsCount()]).run(current, reference).dict()["metrics"]
    return int(metric["value"]["count"])


def _fresh(reference: Dataset, blocks: int) -> Callable[[Floats], bool]:
    """Of one column alone."""
    kept: list[Floats] = []

    def alarmed(rows: Floats) -> bool:
        kept.append(rows)
        if len(kept) < blocks:
            return False
        window = _dataset({"0": np.concatenate(kept)})
        kept.clear()
        return _drifted(reference, window) > 0

    return alarmed


if __name__ == "__main__":
    main()
