"""Scenarios as people run them: Locust in a process of its own against a gateway that serves a model of flights."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.demo import training
from serving.demo.flights import CATEGORICAL, FEATURES, load, source
from tests.gateway import Gateway, until
from tests.integration.calls import one_sentence, sample

pytestmark = pytest.mark.xdist_group("one gateway")

MODEL = "flights-of-a-scenario"


@pytest.fixture(scope="module")
def home(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's data folder of the scenarios, with the flights; the gateway serves a model that learned from them."""
    folder = tmp_path_factory.mktemp("home")
    flights = load(source(), folder / "gaugeway" / "demo" / "flights.parquet")
    made = training.train(flights, "1", folder, source().digest, lambda: None)
    features = ",".join(f"{name}:categorical" if name in CATEGORICAL else name for name in FEATURES)
    told = ["--task", "classification", "--prediction", "probabilities:1", "--features", features, "--label", "late"]
    gateway.call("publish", MODEL, str(made.model), *told, "--reference", str(made.reference))
    until(lambda: gateway.ready(MODEL), "the model", 60)
    yield folder


def run(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "loadtests.scenarios", *arguments, "--model", MODEL]
    environment = {"XDG_DATA_HOME": str(home), "PATH": os.defpath, "LANG": "C.UTF-8"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


def test_a_steady_day_is_answered_and_its_labels_join(gateway: Gateway, home: Path) -> None:
    done = run(home, "steady", "--url", gateway.url, "--seconds", "4", "--users", "10", "--rate", "10")
    assert done.returncode == 0, done.stdout + done.stderr
    told = re.search(r"(\d+) right answers in .*, 0 wrong\n", done.stdout)
    assert told is not None, done.stdout
    asked = int(told[1])
    assert 200 <= asked <= 400 + 10  # 10 users, 10 times a second
    assert "answers by version: 1 1.000" in done.stdout
    labels = {outcome: int(n) for n, outcome in re.findall(r"(\d+) (joined|parked)", done.stdout)}
    assert 0.9 * asked < sum(labels.values()) <= asked  # but for flights that never landed
    assert "refused" not in done.stdout and "lost" not in done.stdout

    def counted() -> bool:
        text = gateway.metrics()
        ok = sample(text, "gaugeway_requests_total", model=MODEL, code="200")
        joined = sample(text, "gaugeway_labels_joined", model=MODEL)
        return ok == asked and joined == sum(labels.values())

    until(counted, f"{asked} requests and {labels} labels at the gateway")


def test_an_answer_that_is_not_what_was_expected_is_a_failure(gateway: Gateway, home: Path) -> None:
    """The model has no sticky key, so travellers cannot stay on a version."""
    done = run(home, "experiment", "--url", gateway.url, "--seconds", "2", "--users", "2")
    assert done.returncode == 1
    assert re.search(r"0 right answers in .*, [1-9]\d* wrong", done.stdout), done.stdout
    assert "routed by 'weight'" in done.stdout + done.stderr


def test_a_gateway_that_is_not_there_is_said_in_a_sentence(home: Path) -> None:
    done = run(home, "spike", "--url", "http://127.0.0.1:1", "--seconds", "2")
    assert done.returncode == 1
    assert "does not serve" in one_sentence(done.stderr)
