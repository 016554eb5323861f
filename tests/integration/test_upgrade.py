"""Workers, sidecar and control plane are replaced, and keys and resources change, while clients ask: nobody fails."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests import models
from tests.faults.load import Load, storm
from tests.gateway import Gateway, running, until


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running(tmp_path_factory.mktemp("upgrade"), {"same": models.slow(1)}, gateway="workers = 2") as up:
        yield up


def test_an_upgrade_costs_no_request_and_no_row(gateway: Gateway) -> None:
    before = pids(gateway)
    controller = gateway.status()["controller"]
    with Load(gateway.url, "same").running() as load:
        until(lambda: load.answered > 50, "load")
        assert load.failed == {}
        assert "upgraded" in gateway.call("upgrade").stdout
        answered = load.answered
        until(lambda: load.answered > answered + 50, "more answers")
    assert load.failed == {} and load.wrong == []
    assert not before & pids(gateway) and gateway.status()["controller"] != controller
    until(lambda: counted_rows(gateway) == load.answered, "every row", 10)
    assert gateway.verdicts()["lost_rows"] == 0


def test_keys_reload_under_load_and_keys_that_cannot_are_named(gateway: Gateway, tmp_path: Path) -> None:
    text = gateway.config.read_text()
    with storm(gateway.url, "same", tmp_path, connections=8) as counted:
        for deadline_s in (7.0, 8.0):
            gateway.config.write_text(text.replace("[gateway]", f"[gateway]\ndeadline_s = {deadline_s}"))
            assert gateway.call("reload").stdout == "in effect: gateway.deadline_s\n"
    assert counted.requests > 100 and (counted.refused, counted.broken) == (0, 0)
    gateway.config.write_text(text.replace("[gateway]", "[gateway]\ndeadline_s = 8.0\nmax_body_bytes = 200"))
    assert httpx.post(f"{gateway.url}/v2/models/same/infer", content=bytes(300)).status_code == 400
    gateway.call("reload")
    assert httpx.post(f"{gateway.url}/v2/models/same/infer", content=bytes(300)).status_code == 413
    gateway.config.write_text(text.replace("port = 0", "port = 1", 1))
    refused = gateway.call("reload", check=False)
    assert refused.returncode == 1 and "gateway.port: cannot change while it runs" in refused.stderr
    gateway.config.write_text(text)
    assert "gateway.deadline_s, gateway.max_body_bytes" in gateway.call("reload").stdout


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_twenty_upgrades_under_load(gateway: Gateway, tmp_path: Path) -> None:
    seen, took_s = pids(gateway), list[float]()
    with storm(gateway.url, "same", tmp_path, connections=16, duration_s=900) as counted:
        for _ in range(20):
            began = time.monotonic()
            gateway.call("upgrade")
            took_s.append(time.monotonic() - began)
            now = pids(gateway)
            assert not seen & now
            seen |= now
    print(f"{counted.requests} requests; one upgrade took {min(took_s):.1f} to {max(took_s):.1f} s")
    assert counted.requests > 1000 and (counted.refused, counted.broken) == (0, 0)


def pids(gateway: Gateway) -> set[int]:
    """Of the workers and the sidecar."""
    return {process["pid"] for process in gateway.status()["workers"]}


def counted_rows(gateway: Gateway) -> int:
    return int(gateway.verdicts()["models"].get("same", {}).get("1", {}).get("rows", 0))
