from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest

from serving.demo.flights import FEATURES, load, source, utc
from serving.demo.traffic import Traffic
from serving.demo.training import DAY_S, TREES, Trained, auc, brier, fit, kept, recipe, to_onnx, train
from serving.protocol import Array


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("training")


@pytest.fixture(scope="module")
def flights(flights_file: Path) -> Traffic:
    return load(source(), flights_file)


@pytest.fixture(scope="module")
def first(flights: Traffic, folder: Path) -> Trained:
    return train(flights, "1", folder, "digest", lambda: None)


def probabilities(model: bytes, rows: Array) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (found,) = session.run(["probabilities"], {"features": rows})
    column: np.ndarray[tuple[int], np.dtype[np.float32]] = found[:, 1]
    return column


@pytest.mark.parametrize("until", ["2013-02-01", "2013-04-01"])
def test_onnx_says_what_lightgbm_says_about_flights_of_the_whole_year(flights: Traffic, until: str) -> None:
    """Also where a value lies on a threshold, or weather is missing that never was in training."""
    booster = fit(flights, flights.times < utc(until), lambda: None)
    some = flights.rows[::4]  # of every day
    own = np.asarray(booster.predict(some))
    assert np.abs(probabilities(to_onnx(booster), some) - own).max() < 1e-6


def test_the_reference_is_held_out(flights: Traffic, first: Trained) -> None:
    reference = pq.read_table(first.reference)
    days = np.unique(reference["departs"].to_numpy() // DAY_S)
    january = np.unique(flights.times[flights.times < utc("2013-02-01")] // DAY_S)
    assert np.array_equal(days, january[january % 2 == 1])
    assert reference.column_names == [*FEATURES, "late", "departs"]
    assert len(reference) == int(np.isin(flights.times // DAY_S, days).sum())


def test_the_model_has_learned_and_its_lineage_says_how_much(flights: Traffic, first: Trained) -> None:
    held_out = (flights.times < utc("2013-02-01")) & (flights.times // DAY_S % 2 == 1) & np.isfinite(flights.labels)
    scores = probabilities(first.model.read_bytes(), flights.rows[held_out])
    assert auc(scores, flights.labels[held_out]) > 0.70
    assert float(first.lineage["held_out_brier"]) == pytest.approx(brier(scores, flights.labels[held_out]), abs=1e-4)
    assert first.lineage["training_data_sha256"] == "digest"


def test_training_is_kept(first: Trained, folder: Path) -> None:
    assert kept(folder, "1") == first
    assert kept(folder, "2") is None


def test_training_again_gives_the_same_bytes_and_counts_its_trees(
    flights: Traffic, first: Trained, tmp_path: Path
) -> None:
    trees: list[None] = []
    again = train(flights, "1", tmp_path, "digest", lambda: trees.append(None))
    assert again.model.read_bytes() == first.model.read_bytes()
    assert len(trees) == TREES
    assert recipe() == first.lineage["code"]
