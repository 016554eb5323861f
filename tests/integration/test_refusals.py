"""What cannot be done is said in one sentence, and nothing has changed."""

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.config import load
from serving.manifest import Manifest
from serving.repository import Repository
from tests import models
from tests.faults import processes
from tests.gateway import Gateway, gaugeway
from tests.integration.calls import one_sentence

pytestmark = pytest.mark.xdist_group("one gateway")

NOT_TO_BE_SERVED: dict[str, Callable[[], bytes]] = {
    "not ONNX": lambda: b"a picture of a cat",
    "truncated": lambda: models.linear()[:-40],
    "external data": models.external,
    "dies while loading": models.division_by_zero,
}


def test_a_second_gateway_on_one_data_folder(gateway: Gateway) -> None:
    before = gateway.status()["workers"]
    second = gateway.call("up", check=False)
    assert second.returncode == 1 and str(gateway.data) in one_sentence(second.stderr)
    assert [(w["pid"], w["state"]) for w in gateway.status()["workers"]] == [(w["pid"], w["state"]) for w in before]


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = _up(tmp_path, f"[gateway]\nport = {port}\n[admin]\nport = 0\n[metrics]\nnode_port = 0\n")
    assert str(port) in done and "[gateway] port" in done
    assert [line for line in processes.naming(str(tmp_path)) if "pytest" not in line] == []


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[gateway]\nprot = 1\n", ["prot", "did you mean `port`"]),
        ("[models.m]\nwieghts = { 1 = 1.0 }\n", ["wieghts", "did you mean `weights`"]),
        ("[models.m]\nweights = { 1 = 0.5, 2 = 0.6 }\n", ["add up to 1", "1.1"]),
    ],
)
def test_a_wrong_configuration(tmp_path: Path, text: str, named: list[str]) -> None:
    said = _up(tmp_path, text)
    assert all(part in said for part in named), said


@pytest.mark.parametrize("what", NOT_TO_BE_SERVED)
def test_a_file_that_will_not_be_served(gateway: Gateway, tmp_path: Path, what: str) -> None:
    before = _published(gateway)
    file = tmp_path / "model.onnx"
    file.write_bytes(NOT_TO_BE_SERVED[what]())
    done = gateway.call("publish", "refused", str(file), check=False)
    assert done.returncode == 1 and len(one_sentence(done.stderr)) > 30
    assert _published(gateway) == before


def test_other_content_under_the_same_version(gateway: Gateway, tmp_path: Path) -> None:
    before = _published(gateway)
    file = tmp_path / "model.onnx"
    file.write_bytes(models.linear((5.0, 5.0)))
    done = gateway.call("publish", "linear", str(file), "--version", "1", check=False)
    assert done.returncode == 1 and "another version" in one_sentence(done.stderr)
    assert _published(gateway) == before


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (["1=0.5", "99=0.5"], "no version '99'"),
        (["1=0.5"], "add up to 1"),
        (["1=-1"], "0..1"),
        (["1=much"], "0..1"),
        (["1"], "key=value"),
    ],
)
def test_weights_that_cannot_be(gateway: Gateway, weights: list[str], said: str) -> None:
    before = gateway.status()
    done = gateway.call("route", "linear", *weights, check=False)
    assert done.returncode in (1, 2) and said in done.stderr
    after = gateway.status()
    assert (after["models"]["linear"], after["generation"]) == (before["models"]["linear"], before["generation"])


def test_a_route_of_a_model_that_is_not_there(gateway: Gateway) -> None:
    done = gateway.call("route", "no-such-model", "1=1", check=False)
    assert done.returncode == 1 and "no-such-model" in one_sentence(done.stderr)
    assert "no-such-model" not in json.loads(gateway.call("status", "--json").stdout)["models"]


def _published(gateway: Gateway) -> list[Manifest]:
    return Repository.of(load(gateway.config, {})).manifests()


def _up(folder: Path, text: str) -> str:
    """What `gaugeway up` says that must not start."""
    config = folder / "gaugeway.toml"
    config.write_text(f'data_dir = "{folder / "data"}"\n{text}')
    done = gaugeway("up", "--config", str(config), check=False)
    assert done.returncode == 1
    return one_sentence(done.stderr)
