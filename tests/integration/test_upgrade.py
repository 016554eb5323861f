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
        gateway.config.write_text(text.replace("[gateway]", "[gateway]\ndeadline_s = 7.0\nmax_body_bytes = 1000"))
        assert gateway.call("reload").stdout == "in effect: gateway.deadline_s, gateway.max_body_bytes\n"
    assert counted.requests > 100 and (counted.refused, counted.broken) == (0, 0)
    assert httpx.post(f"{gateway.url}/v2/models/same/infer", content=bytes(1001)).status_code == 413
    gateway.config.write_text(text.replace("port = 0", "port = 1", 1))
    refused = gateway.call("reload", check=False)
    assert refused.returncode == 1 and "gateway.port: cannot change while it runs" in refused.stderr
    gateway.config.write_text(text)


@pytest.mark.soak
def test_resources_change_beside_what_serves_and_the_number_of_replicas_where_it_is(
    gateway: Gateway, tmp_path: Path
) -> None:
    (before,) = gateway.replicas("same", "1")
    with storm(gateway.url, "same", tmp_path, connections=8) as counted:
        apply(gateway, "resources = { cpu = 0.3 }")
        until(lambda: [r["pid"] for r in gateway.replicas("same", "1")] != [before["pid"]], "another replica")
        until(lambda: len(gateway.replicas("same", "1")) == 1, "the end of the one before")
        (after,) = gateway.replicas("same", "1")
        apply(gateway, "resources = { cpu = 0.3 }\nreplicas = { min = 2 }")
        until(lambda: len(gateway.replicas("same", "1")) == 2, "a second replica")
    assert counted.requests > 100 and (counted.refused, counted.broken) == (0, 0)
    assert after["pid"] in [replica["pid"] for replica in gateway.replicas("same", "1")]  # it stayed
    assert gateway.status()["models"]["same"]["versions"]["1"]["pools"]["cpu"]["cpu"] == 0.3


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


def apply(gateway: Gateway, how: str) -> None:
    """Have version 1 served in this way."""
    text = gateway.config.read_text()
    try:
        gateway.config.write_text(f'{text}\n[models.same.versions."1"]\n{how}\n')
        gateway.call("apply", "--yes")
    finally:
        gateway.config.write_text(text)


def pids(gateway: Gateway) -> set[int]:
    """Of the workers and the sidecar."""
    return {process["pid"] for process in gateway.status()["workers"]}


def counted_rows(gateway: Gateway) -> int:
    return int(gateway.verdicts()["models"].get("same", {}).get("1", {}).get("rows", 0))
