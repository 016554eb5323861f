"""A real Alertmanager with the example of its configuration: what is told, and what is not."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest
import yaml

from dashboards.compiling import HERE
from tests.gateway import until
from tests.prometheus import answers, free_port

Alerting = tuple[str, list[dict[str, str]]]  # its URL, the labels of what its receivers were told


@contextmanager
def listening() -> Iterator[tuple[int, list[dict[str, str]]]]:
    """A receiver's port, and the labels of the alerts that it was told of."""
    told: list[dict[str, str]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent = json.loads(self.rfile.read(int(self.headers["content-length"])))
            told.extend({"receiver": sent["receiver"], **alert["labels"]} for alert in sent["alerts"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_port, told
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def managing(folder: Path, receiver_port: int) -> Iterator[str]:
    """The URL of an Alertmanager that waits for nothing and tells all receivers at one port."""
    text = (HERE / "alertmanager.yaml").read_text()
    for waiting in ("group_wait: 30s", "group_wait: 10s"):
        assert waiting in text
        text = text.replace(waiting, "group_wait: 0s")
    config = yaml.safe_load(text)
    for receiver in config["receivers"]:
        receiver["webhook_configs"] = [{"url": f"http://127.0.0.1:{receiver_port}/"}]
    (folder / "alertmanager.yaml").write_text(json.dumps(config))
    url = f"http://127.0.0.1:{free_port()}"
    command = ["prometheus-alertmanager", f"--config.file={folder}/alertmanager.yaml", f"--storage.path={folder}/data",
               f"--web.listen-address={url.removeprefix('http://')}", "--cluster.listen-address="]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        until(lambda: process.poll() is not None or answers(url), "Alertmanager")
        assert process.poll() is None, (folder / "log").read_text()
        yield url
    finally:
        process.terminate()
        process.wait(20)


def fire(url: str, **labels: str) -> None:
    httpx.post(f"{url}/api/v2/alerts", json=[{"labels": {"component": "gaugeway", **labels}}]).raise_for_status()


def state(url: str, **labels: str) -> str:
    matchers = [f'{name}="{value}"' for name, value in labels.items()]
    found = httpx.get(f"{url}/api/v2/alerts", params={"filter": matchers}).json()
    return str(found[0]["status"]["state"]) if found else ""


@pytest.fixture(scope="module")
def alertmanager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alerting]:
    with listening() as (port, told), managing(tmp_path_factory.mktemp("alertmanager"), port) as url:
        yield url, told


def test_a_page_arrives_and_hides_the_tickets_of_its_model_alone(alertmanager: Alerting) -> None:
    url, told = alertmanager
    fire(url, alertname="QualityDrop", severity="page", model="m", version="1")
    page = {"receiver": "pages", "component": "gaugeway", "alertname": "QualityDrop", "severity": "page"}
    until(lambda: {**page, "model": "m", "version": "1"} in told, "the page")
    for model in ("m", "other"):
        fire(url, alertname="FeatureDrift", severity="ticket", model=model, version="1")
    until(lambda: state(url, alertname="FeatureDrift", model="m") == "suppressed", "the ticket to be inhibited")
    until(lambda: [one for one in told if one["receiver"] == "tickets"], "the other model's ticket")
    assert [one["model"] for one in told if one["receiver"] == "tickets"] == ["other"]


def test_a_model_without_replicas_is_told_and_the_burn_that_it_causes_is_not(alertmanager: Alerting) -> None:
    url, _ = alertmanager
    fire(url, alertname="ModelUnavailable", severity="page", model="gone", version="1")
    for model in ("gone", "slow"):
        fire(url, alertname="ErrorBudgetBurn", severity="page", window="1h", slo="availability", model=model)
    until(lambda: state(url, alertname="ErrorBudgetBurn", model="gone") == "suppressed", "the burn to be inhibited")
    assert state(url, alertname="ErrorBudgetBurn", model="slow") == "active"


def test_the_watchdog_has_a_receiver_of_its_own(alertmanager: Alerting) -> None:
    url, told = alertmanager
    fire(url, alertname="Watchdog", severity="none")
    until(lambda: [one for one in told if one["alertname"] == "Watchdog"], "the watchdog")
    assert {one["receiver"] for one in told if one["alertname"] == "Watchdog"} == {"watchdog"}
