"""What a reference profile takes in time and memory, by the number of its rows.

``python -m loadtests.reference 1000000 3000000 10000000 [--predict] [--format csv]``. A table of 16 features, a label
and a time is written part by part, then read, run through a model of 100 trees with `--predict`, and counted, in a
process of its own, whose memory at its peak is told; that of the model's child processes beside it.
"""

import argparse
import resource
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import csv, ipc, parquet

from loadtests import boosting
from serving.declaration import resolve_features
from serving.manifest import Prediction
from serving.profiling import Question, profiled
from serving.protocol import Signature, TensorSpec
from serving.validation import Report, predict, validate

CHUNK, DAYS = 2**18, 90
FORMATS = ("parquet", "arrow", "csv")


class Cost(NamedTuple):
    seconds: float
    peak_bytes: int
    child_bytes: int  # the largest of the model's child processes


def write(path: Path, rows: int) -> None:
    """The same rows for the same number, in the format that the suffix names."""
    schema = _table(0, 1, rows).schema
    with {
        ".parquet": lambda: parquet.ParquetWriter(path, schema),
        ".arrow": lambda: ipc.new_file(path, schema),
        ".csv": lambda: csv.CSVWriter(path, schema),
    }[path.suffix]() as file:
        for first in range(0, rows, CHUNK):
            file.write_table(_table(first, min(CHUNK, rows - first), rows))


def cost(path: Path, model: bytes, predicted: bool) -> Cost:
    """Of a profile of the rows at `path`; to be called in a process of its own."""
    start = time.monotonic()
    signature = Signature((TensorSpec("x", "FP32", (-1, 16)),), (TensorSpec("probabilities", "FP32", (-1, 2)),))
    bare = Report(signature, True, None, 0.0, 0.0, {})
    question = Question(
        path, resolve_features([f"{name}:numeric" for name in boosting.FEATURES], signature), {},
        Prediction("probabilities", 1) if predicted else None, "classification", "label", "time", 86400.0,
    )  # fmt: skip
    profiled(
        question, signature, (lambda rows: validate(model, rows)) if predicted else (lambda _: bare),
        lambda *run: predict(model, *run),
    )  # fmt: skip
    peaks = (resource.getrusage(whose).ru_maxrss * 1024 for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return Cost(time.monotonic() - start, *peaks)


def _table(first: int, count: int, rows: int) -> pa.Table:
    moments = (first + np.arange(count)) * (DAYS * 86400 / rows)
    return boosting.rows(count, seed=first).append_column("time", pa.array(moments))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=int, nargs="+")
    parser.add_argument("--predict", action="store_true")
    parser.add_argument("--format", choices=FORMATS, default="parquet")
    asked = parser.parse_args()
    model = boosting.model(boosting.rows())
    print("| rows | seconds | rows/s | peak MiB | of a child |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for rows in asked.rows:
            path = Path(folder) / f"rows.{asked.format}"
            write(path, rows)
            with get_context("spawn").Pool(1) as pool:
                found = pool.apply(cost, (path, model, asked.predict))
            sizes = f"{found.peak_bytes / 2**20:.0f} | {found.child_bytes / 2**20:.0f}"
            print(f"| {rows:,} | {found.seconds:.1f} | {rows / found.seconds:,.0f} | {sizes} |", flush=True)


if __name__ == "__main__":
    main()
