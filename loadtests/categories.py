"""``python -m loadtests.categories``: what many features of many categories take in a sidecar.

A profile of `--features` features, each with `--categories` categories of text, is made in a process of its own and
stored as a file, as the registry has it. A second process reads it as node and judge do, counts rows of these
features, judges blocks, and says how much its memory grew and what a value costs; then the same for numbers.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np

from monitors import profile
from monitors.marginal import Marginal
from monitors.monitor import Monitor
from monitors.panel import Panel
from monitors.profile import Profile
from monitors.reference import marginal
from monitors.slot import Counts
from serving.config import Monitors
from serving.manifest import Feature
from serving.protocol import Array

ROWS = 1_250  # of a batch: what comes at 5,000 rows a second between two looks at the rings
LAWS = 20  # that differ; the others are copies with a name of their own, decoded each for itself


def texts(categories: int, rows: int, seed: int) -> Array:
    """The most common categories as often as Zipf's law says, in the long run all."""
    rng = np.random.default_rng(seed)
    column = np.empty(rows, object)
    column[:] = [f"category {n % categories}".encode() for n in rng.zipf(1.2, rows).astype(np.uint64).tolist()]
    return column


def stored(features: int, categories: int, *, numeric: bool) -> bytes:
    laws: list[Marginal] = []
    for seed in range(min(LAWS, features)):
        every = np.repeat([f"category {n}".encode() for n in range(categories)], 2).astype(object)
        values = np.concatenate([every, texts(categories, 20_000, seed)])
        law = marginal(np.random.default_rng(seed).normal(size=20_000), "numeric")
        laws.append(law if numeric else marginal(values, "categorical"))
    named = {f"f{k}": laws[k % len(laws)] for k in range(features)}
    return Profile(rows=20_000, block_s=86400.0, features=named).encode()


def peak_mb() -> float:
    """Of resident memory."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def measure(path: Path, features: int, categories: int, batches: int) -> dict[str, float]:
    before = peak_mb()
    settings = Monitors(slot_s=60, block_s=3600, block_rows=1)
    node, judge = (profile.decode(path.read_bytes()) for _ in range(2))
    monitor = Monitor(judge, settings, 2)
    columns = [texts(categories, ROWS, seed).astype("S16") for seed in range(LAWS)]  # as they come out of a ring
    tensors, inputs = {f"f{k}": columns[k % LAWS] for k in range(features)}, [Feature(f, f) for f in node.features]
    if all(law.kind == "numeric" for law in node.features.values()):
        tensors = {"x": np.random.default_rng(1).normal(size=(ROWS, features))}
        inputs = [Feature(f, "x", k) for k, f in enumerate(node.features)]
    panel = Panel(node.features, inputs)
    place = np.zeros(ROWS, np.int64)
    panel.count(tensors, place, 1)  # indexes are made when they are first needed
    start, total = time.process_time(), Counts()
    for _ in range(batches):
        total.add(panel.count(tensors, place, 1)[0])
    counting_s = time.process_time() - start
    start = time.process_time()
    for slot in range(0, 180, 60):
        monitor.fold(slot, total)
    monitor.encode()
    return {
        "profile_mb": path.stat().st_size / 2**20,
        "grown_mb": peak_mb() - before,
        "ns_a_value": counting_s * 1e9 / (batches * ROWS * features),
        "s_a_block": (time.process_time() - start) / 3,
    }


def measured(features: int, categories: int, batches: int, *, numeric: bool) -> dict[str, float]:
    """What `measure` finds in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reference.json"
        path.write_bytes(stored(features, categories, numeric=numeric))
        sizes = [f"--features={features}", f"--categories={categories}", f"--batches={batches}"]
        command = [sys.executable, "-m", "loadtests.categories", *sizes, "--stored", str(path)]
        done = subprocess.run(command, check=True, capture_output=True)
    return msgspec.json.decode(done.stdout, type=dict[str, float])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtests.categories", description=__doc__)
    parser.add_argument("--features", type=int, default=1_000)
    parser.add_argument("--categories", type=int, default=10_000)
    parser.add_argument("--batches", type=int, default=10, help="of 1,250 rows")
    parser.add_argument("--stored", type=Path, help=argparse.SUPPRESS)  # in the second process
    arguments = parser.parse_args()
    if arguments.stored:
        print(json.dumps(measure(arguments.stored, arguments.features, arguments.categories, arguments.batches)))
        return
    for numeric in (False, True):
        found = measured(arguments.features, arguments.categories, arguments.batches, numeric=numeric)
        kind = "numbers" if numeric else f"{arguments.categories} categories of text"
        said = ", ".join(f"{name} {value:.3g}" for name, value in found.items())
        print(f"{arguments.features} features, {kind}: {said}")


if __name__ == "__main__":
    main()
