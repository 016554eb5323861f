"""Monitors over Ray nodes: rows and labels that come to any of them are in one set of verdicts."""

from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.faults.cluster import cluster
from tests.gateway import Gateway, running, until
from tests.integration.test_labels import MODEL, _predict, _publish, _send, _version
from tests.models import linear

CONFIG = """
[ray]
address = "{address}"
[channel]
host = "127.0.0.1"
"""
REQUESTS = 60


@pytest.mark.soak
def test_rows_and_labels_of_three_nodes_are_judged_as_one(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).normal(size=(REQUESTS, 1, 2)).astype(np.float32)
    with cluster(3) as nodes, running(tmp_path, {"linear": linear()}, extra=CONFIG.format(address=nodes.address)) as up:
        until(lambda: len(_sidecars(up)) == 3, "a sidecar on each node", 60)
        _publish(up, tmp_path)
        until(lambda: _ready(up) > 20, "the model at all workers")
        for number, row in enumerate(rows):  # each on a connection of its own, so by any node's worker
            _predict(up, f"r{number}", row)
        until(lambda: _version(up).get("rows") == REQUESTS, "the rows of all nodes")
        for number in range(REQUESTS):
            assert _send(up, f'{{"id": "r{number}", "row": 0, "label": 1}}', "application/json")["joined"] == 1
        until(lambda: _version(up)["labels"]["joined"] == REQUESTS, "the labels of all nodes")
        counted = [_rows(url) for url in _sidecars(up)]
        assert sum(counted) == REQUESTS and sum(n > 0 for n in counted) > 1
        said = [httpx.get(f"{url}/verdicts").json()["models"][MODEL]["1"] for url in _sidecars(up)]
        assert said[0]["rows"] == REQUESTS and said == said[:1] * 3


def _sidecars(up: Gateway) -> list[str]:
    return [f"http://127.0.0.1:{path.read_text()}" for path in sorted(up.data.glob("run*/monitors.port"))]


def _ready(up: Gateway) -> int:
    """In a row, each time of whichever worker answers."""
    return next((k for k in range(25) if not up.ready(MODEL)), 25)


def _rows(url: str) -> float:
    """Of the model, that one node counted."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    name = f'gaugeway_monitor_rows_total{{model="{MODEL}"'
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))
