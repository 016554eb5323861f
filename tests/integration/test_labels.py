"""The truth that arrives later, over every way in."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving.protocol import Array
from tests import models
from tests.gateway import Gateway, until
from tests.integration.calls import infer

pytestmark = pytest.mark.xdist_group("one gateway")

MODEL = "labelled"


def test_labels_join_predictions_and_the_risk_is_the_brier_score(gateway: Gateway, tmp_path: Path) -> None:
    _publish(gateway, tmp_path)
    rows = np.random.default_rng(1).normal(size=(8, 2)).astype(np.float32)
    truth = [1, 0, 1, 1, 0, 0, 1, 0]
    probabilities = [_predict(gateway, f"r{i}", rows[i : i + 1]) for i in range(8)]
    until(lambda: _version(gateway).get("rows") == 8, "the rows at the monitors")

    labels = [{"id": f"r{i}", "row": 0, "label": truth[i]} for i in range(8)]
    assert _post(gateway, labels[0])["joined"] == 1
    assert _post(gateway, labels[1:3])["joined"] == 2
    ndjson = "\n".join(map(json.dumps, labels[3:5]))
    assert _send(gateway, ndjson, "application/x-ndjson")["joined"] == 2
    file = tmp_path / "labels.ndjson"
    file.write_text("\n".join(map(json.dumps, labels[5:])))
    assert json.loads(gateway.call("label", MODEL, str(file), "--json").stdout)["joined"] == 3

    found = _version(gateway)
    brier = sum((p - y) ** 2 for p, y in zip(probabilities, truth, strict=True)) / 8
    assert found["risk"]["n"] == 8 and found["risk"]["mean"] == pytest.approx(brier, abs=1e-8)
    assert found["labels"]["joined"] == 8 and "days" in found["promise"]
    assert set(found["drift"]) >= {"a", "b", "_prediction", "_all"}

    early = _post(gateway, {"id": "nobody-asked", "row": 0, "label": 1})
    assert early["parked"] == 1 and early["joined"] == 0
    refused = _post(gateway, [{"id": "r0", "row": 0, "label": 7}])
    assert refused["joined"] == 0 and len(refused["refused"]) == 1
    assert _version(gateway)["labels"]["parked"] == 1


def test_labels_of_a_model_that_predicted_nothing_are_told_from_those_that_joined(gateway: Gateway) -> None:
    answer = httpx.post(f"{gateway.url}/v1/models/no-such-model/labels", json={"id": "a", "row": 0, "label": 1})
    assert answer.status_code == 404 and "no-such-model" in answer.json()["error"]


def _publish(gateway: Gateway, folder: Path) -> None:
    rng = np.random.default_rng(0)
    columns: dict[str, Array] = {name: rng.normal(size=500).astype(np.float32) for name in ("a", "b")}
    late = (rng.random(500) < 1 / (1 + np.exp(columns["b"] - columns["a"]))).astype(np.int64)
    pq.write_table(pa.table({**columns, "late": late}), folder / "reference.parquet")
    (folder / "model.onnx").write_bytes(models.classifier())
    told = ["--task", "classification", "--prediction", "probabilities:1", "--features", "a,b", "--label", "late"]
    gateway.call("publish", MODEL, str(folder / "model.onnx"), *told, "--reference", str(folder / "reference.parquet"))
    until(lambda: gateway.ready(MODEL), "the model", 60)


def _predict(gateway: Gateway, id: str, row: Array) -> float:
    outputs = infer(gateway.url, MODEL, row, x_request_id=id).json()["outputs"]
    return float(next(output["data"][1] for output in outputs if output["name"] == "probabilities"))


def _version(gateway: Gateway) -> dict[str, Any]:
    found: dict[str, Any] = gateway.verdicts()["models"].get(MODEL, {}).get("1", {})
    return found


def _post(gateway: Gateway, labels: dict[str, Any] | Sequence[dict[str, Any]]) -> dict[str, Any]:
    return _send(gateway, json.dumps(labels), "application/json")


def _send(gateway: Gateway, content: str, kind: str) -> dict[str, Any]:
    url = f"{gateway.url}/v1/models/{MODEL}/labels"
    answer = httpx.post(url, content=content, headers={"content-type": kind}, timeout=20)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found
