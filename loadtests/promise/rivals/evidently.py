"""Evidently's preset for drift, window by window: ``python -m loadtests.promise.rivals.evidently``.

By default a column drifts where its Wasserstein distance, in standard deviations of the reference, is above 0.1 (for
references of more than 1,000 rows), and a data set where half of its columns do.
"""

from collections.abc import Callable
from importlib.metadata import version

import numpy as np
import pandas as pd
from evidently import Report
from evidently.presets import DataDriftPreset

from loadtests.promise import streams
from loadtests.promise.streams import Floats, Outcome

WINDOWS = 12  # that are looked at, of each length
RULE = "Wasserstein distance above 0.1 in any column"


def main() -> None:
    reference = pd.DataFrame({str(f): streams.reference(f) for f in range(streams.FEATURES)})
    streams.say(*(_outcome(reference, blocks) for blocks in (1, 60)))


def _outcome(reference: pd.DataFrame, blocks: int) -> Outcome:
    days = WINDOWS * blocks / streams.BLOCKS
    found = np.array([_drifted(reference, window) for window in _windows(blocks)])
    calls, alarms = (found > 0).sum() / days * streams.DAYS, found.sum() / days * streams.DAYS
    delay = streams.median_delay(lambda: _fresh(reference[["0"]], blocks), runs=5)
    name, length = f"Evidently {version('evidently')}", "minute" if blocks == 1 else "hour"
    return Outcome(name, RULE, length, days, float(calls), float(alarms), delay)


def _windows(blocks: int) -> list[pd.DataFrame]:
    days = range(-(-WINDOWS * blocks // streams.BLOCKS))
    columns = {
        str(f): np.concatenate([streams.day(f, number) for number in days]).reshape(-1, blocks * streams.ROWS)
        for f in range(streams.FEATURES)
    }
    return [pd.DataFrame({name: rows[number] for name, rows in columns.items()}) for number in range(WINDOWS)]


def _drifted(reference: pd.DataFrame, current: pd.DataFrame) -> int:
    """How many columns."""
    metrics = Report([DataDriftPreset()]).run(current, reference).dict()["metrics"]
    counts = [one["value"]["count"] for one in metrics if one["metric_name"].startswith("DriftedColumnsCount")]
    return int(counts[0])


def _fresh(reference: pd.DataFrame, blocks: int) -> Callable[[Floats], bool]:
    kept: list[Floats] = []

    def alarmed(rows: Floats) -> bool:
        kept.append(rows)
        if len(kept) < blocks:
            return False
        window = pd.DataFrame({"0": np.concatenate(kept)})
        kept.clear()
        return _drifted(reference, window) > 0

    return alarmed


if __name__ == "__main__":
    main()
