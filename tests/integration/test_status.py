"""What runs, and what it counted."""

import json

import httpx
import numpy as np
import psutil
import pytest

from tests.gateway import Gateway
from tests.integration.calls import infer, sample

pytestmark = pytest.mark.xdist_group("one gateway")


def test_status_names_models_versions_processes_replicas_and_monitors(gateway: Gateway) -> None:
    found = json.loads(gateway.call("status", "--json").stdout)
    assert {"conformance", "echo", "linear"} <= found["models"].keys() and found["problem"] == ""
    linear = found["models"]["linear"]
    assert linear["weights"] == {"1": 1.0}
    (replica,) = linear["versions"]["1"]["replicas"]
    assert replica["state"] == "ready" and replica["load"] >= 0 and replica["node"]
    assert "ServeReplica:linear" in " ".join(psutil.Process(replica["pid"]).cmdline())
    processes = {process["name"]: process for process in found["workers"]}
    assert {"worker-0", "sidecar"} == processes.keys()
    assert all(p["state"] == "running" and p["node"] and psutil.pid_exists(p["pid"]) for p in processes.values())
    assert processes["worker-0"]["generation"] == found["generation"]
    assert found["monitors"]["state"] == "ok" and found["monitors"]["lost_rows"] == 0
    assert "linear" in gateway.call("status").stdout


def test_metrics_count_the_requests_that_were_answered(gateway: Gateway) -> None:
    name = "gaugeway_requests_total"
    before = {code: sample(gateway.metrics(), name, model="linear", code=code) for code in ("200", "400")}
    for _ in range(13):
        infer(gateway.url, "linear", np.ones((1, 2), np.float32))
    for _ in range(3):
        assert httpx.post(f"{gateway.url}/v2/models/linear/infer", content=b"{").status_code == 400
    assert sample(gateway.metrics(), name, model="linear", code="200") - before["200"] == 13
    assert sample(gateway.metrics(), name, model="linear", code="400") - before["400"] == 3


def test_the_controller_has_metrics_of_its_own(gateway: Gateway) -> None:
    port = json.loads((gateway.data / "run" / "config.json").read_text())["metrics"]["controller_port"]
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=20).text
    digest = gateway.status()["models"]["linear"]["versions"]["1"]["digest"]
    assert sample(text, "gaugeway_model_info", model="linear", digest=digest) == 1
    assert sample(text, "gaugeway_replicas", model="linear", version="1", state="ready") == 1
    assert sample(text, "gaugeway_route_weight", model="linear", version="1") == 1


def test_the_doctor_knows_the_gateway_that_runs_and_its_ports(gateway: Gateway) -> None:
    found = {one["check"]: one for one in json.loads(gateway.call("doctor", "--json", check=False).stdout)}
    assert found["gateway"]["state"] == found["registry"]["state"] == found["artifacts"]["state"] == "ok"
    ports = [one for check, one in found.items() if check.endswith("port")]
    assert len(ports) == 4
    assert all(one["state"] == "ok" and "held by the gateway of this data folder" in one["found"] for one in ports)
