"""What the integration tests send."""

import re
from typing import Any

import httpx
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from serving.protocol import Array


def body(rows: Array, id: str | None = None) -> dict[str, Any]:
    """Of a request with the input `x`, FP32."""
    tensor = {"name": "x", "shape": list(rows.shape), "datatype": "FP32", "data": rows.ravel().tolist()}
    return {"inputs": [tensor]} | ({"id": id} if id else {})


def infer(url: str, model: str, rows: Array, **headers: str) -> httpx.Response:
    """`headers` with _ for -."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = httpx.post(f"{url}/v2/models/{model}/infer", json=body(rows), headers=named, timeout=30)
    assert response.status_code == 200, response.text
    return response


def versions(url: str, model: str, header: str, keys: list[str]) -> dict[str, str]:
    """The version that answers each key, sent in `header`."""
    content = body(np.ones((1, 2), np.float32))
    with httpx.Client(timeout=30) as http:
        answers = {k: http.post(f"{url}/v2/models/{model}/infer", json=content, headers={header: k}) for k in keys}
    assert {answer.status_code for answer in answers.values()} == {200}
    return {key: answer.headers["x-gaugeway-version"] for key, answer in answers.items()}


def sample(text: str, name: str, **labels: str) -> float:
    """The sum of a metric's samples with these labels; Prometheus' own parser reads the text."""
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())


def one_sentence(text: str) -> str:
    """What the command line says of an expected failure: a line that begins with `error:` and nothing more."""
    lines = [line for line in text.splitlines() if line.strip() and not line.endswith("…")]
    assert len(lines) == 1 and re.match(r"error: \S", lines[0]), text
    return lines[0]
