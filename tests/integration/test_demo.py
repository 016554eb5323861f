"""The demo as people run it; what it says is computed again from its rows, with ONNX Runtime called directly."""

import csv
import io
import json
import re
import zipfile
from datetime import datetime

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest
from scipy.stats import binom

from serving.demo.flights import FEATURES, source
from tests.integration.demonstration import DAYS, Done

START = datetime.fromisoformat("2013-04-01T00:00:00+00:00").timestamp()
END = START + DAYS * 86400

pytestmark = pytest.mark.timeout(300)


def test_nothing_failed_and_nothing_was_lost(done: Done) -> None:
    summary = done.summary
    assert (summary["failed"], summary["failures"], summary["labels_failed"], summary["lost_rows"]) == (0, [], 0, 0)
    assert summary["requests"] == sum(version["requests"] for version in summary["by_version"].values())
    assert 0 < summary["latency_s"]["p50"] <= summary["latency_s"]["p99"] < 5


def test_requests_and_labels_are_those_of_the_csv(done: Done) -> None:
    """Which flights there are, and which labels exist by the end, from the source and with another reader."""
    flights = labels = 0
    with zipfile.ZipFile(source().folder / "flights.csv.zip") as archive:
        for row in csv.DictReader(io.TextIOWrapper(archive.open("flights.csv"))):
            departs = datetime.fromisoformat(row["time_hour"]).timestamp() + 60 * int(row["minute"])
            if START <= departs < END:
                flights += 1
                if row["arr_delay"] != "NA":
                    labels += departs + 60 * (int(row["dep_delay"]) + int(row["air_time"]) + 30) < END
    summary = done.summary
    assert (summary["requests"], summary["labels_sent"], summary["labels_joined"]) == (flights, labels, labels)
    assert summary["label_coverage_ratio"] == pytest.approx(labels / flights)


def test_keys_are_split_as_asked_and_stay_where_they_are(done: Done) -> None:
    answers = pq.read_table(done.folder / "data" / "answers.parquet")
    served = set(zip(answers["key"].to_pylist(), answers["version"].to_pylist(), strict=True))
    keys = {key for key, _ in served}
    assert len(served) == len(keys)
    low, high = binom.interval(0.99, len(keys), 0.2)
    assert low <= done.summary["by_version"]["2"]["keys"] <= high
    assert sum(version["keys"] for version in done.summary["by_version"].values()) == len(keys)


def test_brier_scores_are_those_of_onnxruntime_called_directly(done: Done) -> None:
    flights = pq.read_table(done.folder / "data" / "flights.parquet")
    answers = pq.read_table(done.folder / "data" / "answers.parquet")
    place = {name: i for i, name in enumerate(flights["id"].to_pylist())}
    rows = np.array([place[name] for name in answers["id"].to_pylist()])
    features = np.column_stack([flights[name].to_numpy() for name in FEATURES])[rows]
    known = flights["lands"].to_numpy()[rows] < END  # False where it never landed
    labels, versions = flights["late"].to_numpy()[rows], np.array(answers["version"].to_pylist())
    (training,) = (done.folder / "data" / "training").iterdir()
    for version, risk in done.summary["risk"].items():
        model = onnxruntime.InferenceSession(training / f"model-{version}.onnx", providers=["CPUExecutionProvider"])
        mine = versions == version
        (probabilities,) = model.run(["probabilities"], {"features": features[mine]})
        predicted = probabilities[:, 1].astype(float)
        assert np.abs(answers["prediction"].to_numpy()[mine] - predicted).max() < 1e-6
        brier = np.mean((predicted - labels[mine])[known[mine]] ** 2)
        assert risk["n"] == known[mine].sum()
        assert risk["mean"] == pytest.approx(brier, abs=1e-6)


def test_every_feature_and_the_risk_have_a_verdict(done: Done) -> None:
    for version in ("1", "2"):
        assert set(done.summary["drift"][version]) == {*FEATURES, "_prediction", "_all", "_joint"}
        for found in (*done.summary["drift"][version].values(), done.summary["risk"][version]):
            assert np.isfinite(found["log_e"])
            assert found["threshold"] > 0


def test_the_curl_it_prints_works(done: Done) -> None:
    head, _, body = done.curl.partition("\n\n" if "\n\n" in done.curl else "\r\n\r\n")
    assert re.search(r"x-gaugeway-version: [12]\b", head)
    outputs = {output["name"]: output["data"] for output in json.loads(body)["outputs"]}
    assert sum(outputs["probabilities"]) == pytest.approx(1, abs=1e-6)


def test_ctrl_c_ends_it_well_and_stops_all_that_it_started(done: Done) -> None:
    assert done.code == 0
    assert done.left == []


def test_the_summary_is_said_in_words(done: Done) -> None:
    for said in ("Replayed ", "Drift, version 1", "Drift, version 2", "Harm, version 1", "Harm, version 2", "Better: "):
        assert said in done.output
