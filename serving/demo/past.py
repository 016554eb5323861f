"""The flights as files of the past, for `gaugeway backtest`: what a model of January and February said all year.

    python -m serving.demo.past FOLDER

writes `flights.parquet`, March to December, and the reference twice: in `fitted.parquet` `p` is what the model says
of the very rows it learned from, in `reference.parquet` what a model says that did not learn from the row's day. On
the former its loss is too low, so the promise of harm does not hold for it.
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from serving.demo.flights import CATEGORICAL, FEATURES, load, source, utc
from serving.demo.traffic import Traffic
from serving.demo.training import fit, held_out_days
from serving.protocol import Array

TRAINED_UNTIL = "2013-03-01"


def write(folder: Path, flights: Traffic) -> None:
    """`flights.parquet` and `fitted.parquet`. Takes a few seconds, as does `write_reference`."""
    learned = flights.times < utc(TRAINED_UNTIL)
    said = predictions(flights, learned)
    pq.write_table(table(flights, ~learned, said), folder / "flights.parquet")
    pq.write_table(table(flights, learned, said), folder / "fitted.parquet")


def write_reference(folder: Path, flights: Traffic) -> None:
    """`reference.parquet`: the odd days by a model of the even ones, and the other way round."""
    learned, odd = flights.times < utc(TRAINED_UNTIL), held_out_days(flights)
    apart = np.where(odd, predictions(flights, learned & ~odd), predictions(flights, learned & odd))
    pq.write_table(table(flights, learned, apart), folder / "reference.parquet")


def predictions(flights: Traffic, learned: Array) -> Array:
    """Of all flights, by a model that learned from the rows `learned`; FP32, shape (n,)."""
    return np.asarray(fit(flights, learned, lambda: None).predict(flights.rows), np.float32)


def table(flights: Traffic, rows: Array, p: Array) -> pa.Table:
    """FEATURES, codes as text; `departs`, `p`, `late` and `lands`, the last two empty where it is not known."""
    features = dict(zip(FEATURES, flights.rows[rows].T, strict=True))
    for name in CATEGORICAL:
        features[name] = np.char.mod("%d", features[name])
    times = {name: pa.array(column[rows], from_pandas=True) for name, column in (
        ("departs", flights.times), ("lands", flights.label_times))}  # fmt: skip
    moments = {name: pc.cast(seconds, pa.int64()).cast(pa.timestamp("s", "UTC")) for name, seconds in times.items()}
    return pa.table({**features, **moments, "p": p[rows], "late": pa.array(flights.labels[rows], from_pandas=True)})


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    flights = load(source(), folder / "all.parquet")
    write(folder, flights)
    write_reference(folder, flights)
