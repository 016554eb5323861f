"""The compose file: of the schema, pinned, hardened, closed to others, with the paths and ports of the rest."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serving.config import Config, load
from tests.deploy.documents import DEPLOY, ROOT, STOPS_S, document

COMPOSE = DEPLOY / "compose"
FILE = COMPOSE / "compose.yaml"
SERVICES: dict[str, dict[str, Any]] = document(FILE)["services"]
SCRAPED = document(COMPOSE / "prometheus.yml")["scrape_configs"]


def test_it_is_what_the_specification_of_compose_files_says() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(FILE)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_can_do_no_more_than_it_must(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+[\w.-]*", service["image"])


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_a_health_check_and_its_secrets_from_outside(name: str) -> None:
    service = SERVICES[name]
    assert "healthcheck" in service or name == "gaugeway"  # whose image has one
    for key, value in service.get("environment", {}).items():
        secret = "PASSWORD" in key or ":" in value.partition("://")[2]
        assert not secret or re.search(r"\$\{\w+:\?", value), f"{key} is written down"


def test_what_is_mounted_exists() -> None:
    volumes = [volume.split(":")[0] for service in SERVICES.values() for volume in service["volumes"]]
    assert [path for path in volumes if path.startswith(".") and not (COMPOSE / path).exists()] == []
    named = {path for path in volumes if not path.startswith(".")}
    assert named == set(document(FILE)["volumes"])
    assert list((ROOT / "dashboards" / "out").glob("*.yaml")) and list((ROOT / "dashboards" / "out").glob("*.json"))


def test_ports_are_those_of_the_configuration() -> None:
    config = load(COMPOSE / "gaugeway" / "gaugeway.toml", {})
    assert (config.gateway.port, config.metrics.node_port, config.metrics.controller_port) == (8080, 9410, 9411)
    assert SERVICES["gaugeway"]["ports"] == [f"127.0.0.1:{config.gateway.port}:{config.gateway.port}"]
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in SCRAPED}
    assert targets["gaugeway-node"] == [f"gaugeway:{config.metrics.node_port}"]
    assert targets["gaugeway-controller"] == [f"gaugeway:{config.metrics.controller_port}"]
    assert config.admin == Config().admin  # on the container's loopback


def test_jobs_are_called_as_the_alerts_call_them() -> None:
    settings = (ROOT / "dashboards" / "config.libsonnet").read_text()
    wanted = {re.search(rf"{key}: '([\w-]+)'", settings) for key in ("node_job", "controller_job")}
    assert {found[1] for found in wanted if found} <= {job["job_name"] for job in SCRAPED}


def test_a_stop_gives_the_gateway_the_time_it_needs_to_drain() -> None:
    assert float(SERVICES["gaugeway"]["stop_grace_period"].removesuffix("s")) >= STOPS_S


def test_prometheus_accepts_its_file() -> None:
    subprocess.run(["promtool", "check", "config", "--syntax-only", COMPOSE / "prometheus.yml"], check=True)


def test_grafana_reads_the_folder_that_is_mounted() -> None:
    provider: Path = COMPOSE / "grafana" / "provisioning" / "dashboards" / "gaugeway.yaml"
    folder = document(provider)["providers"][0]["options"]["path"]
    assert any(volume.split(":")[1] == folder for volume in SERVICES["grafana"]["volumes"])
    source = document(COMPOSE / "grafana" / "provisioning" / "datasources" / "prometheus.yaml")["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
