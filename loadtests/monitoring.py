"""What monitoring costs: processor time of each part for 100,000 rows. ``python -m loadtests.monitoring``.

A writer and a sidecar's station in one process, without a clock of their own: records come at `--rate` rows a second
of their own time, the station looks at them every `monitors.poll_s` and commits every second, as the sidecar does.
Folding and labels are differences: the same rows without declared labels, and with them.
"""

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from loadtests import boosting
from monitors import reference
from monitors.reference import Profile
from monitors.source import Source
from monitors.station import COMMIT_S, Station
from serving.config import Monitors
from serving.manifest import Feature, Manifest, Prediction
from serving.packed import Encoder
from serving.protocol import Array, Signature, TensorSpec
from serving.ring import RingWriter

PER = 100_000  # rows that a cost is given for
PARTS = ("encode", "append", "read", "fold", "labels", "commit")
SIGNATURE = Signature(
    (TensorSpec("x", "FP32", (-1, 16)),),
    (TensorSpec("label", "INT64", (-1,)), TensorSpec("probabilities", "FP32", (-1, 2))),
)


@dataclass(frozen=True)
class Batch:
    """What a worker records at once."""

    ids: list[str]
    inputs: list[Array]  # of each request, shape (1, 16)
    probabilities: Array
    arrival: float


@dataclass
class Spent:
    """Processor seconds."""

    encode: float = 0.0
    append: float = 0.0
    poll: float = 0.0
    commit: float = 0.0


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, epilog="Example: python -m loadtests.monitoring --rows 50000")
    parser.add_argument("--rows", type=int, default=PER)
    parser.add_argument("--rate", type=float, default=4000.0, help="rows a second of the records' own time")
    parser.add_argument("--rows-per-record", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args(argv)
    profile = profile_of_rows()
    print(f"CPU seconds for {PER:,} rows (16 features, a prediction, labels declared) at {arguments.rate:g} rows/s")
    print("| rows a record | " + " | ".join(PARTS) + " | writer | sidecar | all |\n|" + "---|" * (len(PARTS) + 4))
    for rows in arguments.rows_per_record:
        runs = [_costs(profile, arguments.rows, rows, arguments.rate) for _ in range(arguments.repeats)]
        costs = {part: statistics.median(run[part] for run in runs) * PER / arguments.rows for part in PARTS}
        writer = costs["encode"] + costs["append"]
        sums = (writer, sum(costs.values()) - writer, sum(costs.values()))
        print(f"| {rows} | " + " | ".join(f"{cost:.3f}" for cost in (*costs.values(), *sums)) + " |")


def _costs(profile: Profile, rows: int, per_record: int, rate: float) -> dict[str, float]:
    labelled = manifest_of(profile)
    without = msgspec.structs.replace(labelled, task=None)
    read = _read(labelled, rows, per_record, rate)
    folded, whole = (_run(profile, manifest, rows, per_record, rate) for manifest in (without, labelled))
    return {
        "encode": whole.encode,
        "append": whole.append,
        "read": read.poll,
        "fold": folded.poll - read.poll,
        "labels": whole.poll - folded.poll,
        "commit": whole.commit,
    }


def _read(manifest: Manifest, rows: int, per_record: int, rate: float) -> Spent:
    """Records are read and taken apart, and nothing else."""
    spent = Spent()
    with tempfile.TemporaryDirectory() as folder:
        source = Source(Path(folder), {})
        for _ in written(Path(folder), manifest, rows, per_record, rate, spent):
            start = time.process_time()
            source.read()
            spent.poll += time.process_time() - start
        source.close()
    return spent


def _run(profile: Profile, manifest: Manifest, rows: int, per_record: int, rate: float) -> Spent:
    spent, settings = Spent(), Monitors()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        station = Station(
            settings, "n", folder, folder / "monitors.db", lambda *_: manifest, lambda *_: profile.encode()
        )
        every = round(COMMIT_S / settings.poll_s)
        for turn, now in enumerate(written(folder, manifest, rows, per_record, rate, spent), 1):
            start = time.process_time()
            while station.poll(now):
                pass
            spent.poll += time.process_time() - start
            if turn % every == 0:
                start = time.process_time()
                station.commit(at_once=True)
                spent.commit += time.process_time() - start
        counted = sum(book.rows for book in station.ledger.books.values())
        assert counted == rows // per_record * per_record, f"{counted} of {rows} rows were counted"
        station.close()
    return spent


def written(folder: Path, manifest: Manifest, rows: int, per_record: int, rate: float, spent: Spent) -> Iterator[float]:
    """Write what comes between two looks at the ring; the time of each look."""
    ring = RingWriter(folder / "worker-0.ring", 2**26)
    encoder = Encoder("m", "1", manifest.digest, "primary", [("x", "FP32")], [("probabilities", "FP32")])
    made = list(batches(rows // per_record, per_record, rate))
    step = max(1, round(rate * Monitors().poll_s / per_record))
    for first in range(0, len(made), step):
        part = made[first : first + step]
        start = time.process_time()
        records = [_encoded(encoder, batch) for batch in part]
        done = time.process_time()
        for record in records:
            ring.append(record, per_record)
        spent.encode += done - start
        spent.append += time.process_time() - done
        yield part[-1].arrival
    ring.close()


def _encoded(encoder: Encoder, batch: Batch) -> bytes:
    code, none = encoder.codes["weight"], float("nan")
    requests = [(0, none, batch.arrival, 1.0, 1e-4, 0, 1, 200, code) for _ in batch.ids]
    return encoder.encode(requests, batch.ids, len(batch.ids), [batch.inputs, [batch.probabilities]], 1e-5)


def batches(count: int, per_record: int, rate: float) -> Iterator[Batch]:
    rng, now = np.random.default_rng(3), time.time()
    for k in range(count):
        x = rng.normal(size=(per_record, 16)).astype(np.float32)
        p = rng.random(per_record, np.float32)
        ids = [f"{rng.integers(2**62):016x}" for _ in range(per_record)]
        yield Batch(ids, list(x[:, None]), np.stack([1 - p, p], 1), now + k * per_record / rate)


def profile_of_rows() -> Profile:
    table = boosting.rows(seed=1)
    values = {name: table[name].to_numpy() for name in boosting.FEATURES}
    p = (1 / (1 + np.exp(-values["f0"]))).astype(np.float32)
    labels = table["label"].to_numpy().astype(float)
    return reference.build(values, {}, prediction=p, labels=labels, task="classification")


def manifest_of(profile: Profile) -> Manifest:
    return Manifest(
        model="m",
        version="1",
        files={"model.onnx": "0" * 64, "reference.json": profile.digest},
        signature=SIGNATURE,
        rows_independent=True,
        task="classification",
        prediction=Prediction("probabilities", 1),
        features=tuple(Feature(name, "x", i) for i, name in enumerate(boosting.FEATURES)),
    )


if __name__ == "__main__":
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)  # as in the sidecar
    main()
