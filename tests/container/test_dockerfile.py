"""The Dockerfile, without an engine: what it says, and its steps run one by one in a folder that becomes a container.

What an engine would do otherwise: the base image is this machine's Debian and Python here, layers are not cached, and
limits of memory and processor time are not set. `make test` leaves out the step that fetches every package and lets
the environment find them in that of the tests; `make soak` runs it.
"""

import json
import os
import re
import shutil
import subprocess
import sysconfig
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serving.config import Config, load
from tests import models
from tests.container.build import Builder, as_written
from tests.container.dockerfile import Instruction, Stage, pairs, stages
from tests.container.root import Container, Root, User
from tests.gateway import until

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "Dockerfile").read_text()
PROGRAMS = ("unshare", "nsenter", "setpriv", "ip")
MODEL, ROW = "linear", [2.0, 3.0]


def runtime(**arguments: str) -> Stage:
    return stages(TEXT, arguments)["runtime"]


@pytest.mark.parametrize("variant", ["cpu", "gpu"])
def test_a_variant_is_chosen_by_its_argument_alone(variant: str) -> None:
    found = stages(TEXT, {"VARIANT": variant})
    assert Instruction("ARG", f"VARIANT={variant}") in found["environment"].instructions
    others = [[one for one in stage.instructions if one.name != "ARG"] for stage in found.values()]
    assert others == [[one for one in s.instructions if one.name != "ARG"] for s in stages(TEXT, {}).values()]


def test_both_variants_run_the_same_release_of_onnxruntime() -> None:
    lock, gpu = ((ROOT / name).read_text() for name in ("requirements.lock", "deploy/container/gpu.lock"))
    assert _pinned(gpu, "onnxruntime-gpu") == _pinned(lock, "onnxruntime")
    assert _pinned(gpu, "numpy") == _pinned(lock, "numpy")


def test_the_extras_of_the_image_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.search(r'"gaugeway\[([a-z,]+)\]"', TEXT)
    assert named
    wanted = sorted(requirement for extra in named[1].split(",") for requirement in project[extra])
    lines = (ROOT / "deploy/container/extras.in").read_text().splitlines()
    assert sorted(line for line in lines if not line.startswith("#")) == wanted


def test_every_package_comes_with_its_hash_or_from_the_wheels() -> None:
    every = [one.value for stage in stages(TEXT, {}).values() for one in stage.all("RUN") if " pip " in one.value]
    steps = [step for step in every if "pip wheel " in step or " install " in step]
    assert len(steps) == 5
    assert [step for step in steps if "--require-hashes" not in step and "--no-index" not in step] == []


def test_it_does_not_run_as_root_and_says_how_it_stops_and_is_asked() -> None:
    stage, config = runtime(), load(ROOT / "deploy/container/gaugeway.toml", {})
    uid, gid = stage.last("USER").value.split(":")
    assert int(uid) >= 10000 and int(gid) >= 10000
    assert stage.last("STOPSIGNAL").value == "SIGTERM"
    ports = {config.gateway.port, config.metrics.node_port, config.metrics.controller_port}
    assert {int(port) for port in stage.last("EXPOSE").words} == ports
    assert stage.last("VOLUME").words == [str(config.data)] == [pairs(stage.all("ENV"))["HOME"]]
    assert config.admin == Config().admin  # on loopback


def test_only_what_is_copied_reaches_the_builder() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    found = [one.words for stage in stages(TEXT, {}).values() for one in stage.all("COPY")]
    sources = {source for words in found if not words[0].startswith("--from") for source in words[:-1]}
    within = {source: [a for a in allowed if source == a or source.startswith(f"{a}/")] for source in sources}
    assert [source for source, by in within.items() if not by] == []
    assert set(allowed) == {a for by in within.values() for a in by}
    assert all((ROOT / source).exists() for source in sources)


@pytest.mark.integration
@pytest.mark.xdist_group("integration")
@pytest.mark.skipif(os.getuid() != 0 or not all(map(shutil.which, PROGRAMS)), reason="needs root, util-linux, iproute2")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.soak)], ids=["", "whole"])
def test_its_steps_make_a_container_that_serves(tmp_path: Path, whole: bool) -> None:
    """As nobody, with nothing to write to but /data, /tmp and /dev/shm, and no sh."""
    steps = as_written if whole else _from_the_tests_environment
    root = Builder(stages(TEXT, {}), ROOT, tmp_path, steps).build("runtime").root
    if not whole:
        _lend_packages(root)
    data = _volume(tmp_path)
    with _started(root, data, tmp_path / "closed.log") as closed:
        assert closed.process.wait(30) == 1
        assert "requests are not authenticated" in closed.log.read_text()
    (data / "linear.onnx").write_bytes(models.linear())
    with _started(root, data, tmp_path / "publish.log", "publish", MODEL, "/data/linear.onnx") as publish:
        assert publish.process.wait(60) == 0, publish.log.read_text()
    with _started(root, data, tmp_path / "up.log", GAUGEWAY_ALLOW_OPEN="1") as up:
        assert _health(up).returncode == 1  # it starts
        until(lambda: up.process.poll() is not None or _health(up).returncode == 0, "health", 90)
        assert _health(up).returncode == 0, up.log.read_text()
        assert _answer(up) == [sum(a * b for a, b in zip(ROW, (1.0, 2.0), strict=True))]
        assert _users(up) == {str(_user().uid)}
        for path, user in (("/etc/x", User()), ("/opt/gaugeway/x", User()), ("/x", User())):
            assert "Read-only file system" in _touch(up, path, user)
        assert _touch(up, "/data/x", _user()) == ""
        assert up.exec("sh", "-c", "true").returncode != 0
        assert up.stop(60) == 0, up.log.read_text()


def _from_the_tests_environment(step: Instruction) -> str:
    """Nothing is fetched but what builds our own wheel; `_lend_packages` stands in for the rest."""
    if "--requirement requirements.lock" in step.value:
        return ""
    return step.value.replace(" install --no-index ", " install --no-index --no-deps ")


def _lend_packages(root: Root) -> None:
    """Those of the tests beside the installed Gaugeway; the working tree, which they name, is not there."""
    root.lent = sysconfig.get_path("purelib")
    theirs = next((root.folder / "opt/gaugeway/lib").glob("python*/site-packages"))
    (theirs / "lent.pth").write_text("/lent\n")


def _volume(folder: Path) -> Path:
    """An empty one, which an engine gives the owner that the image's folder has."""
    volume = folder / "volume"
    volume.mkdir(mode=0o700)
    os.chown(volume, _user().uid, _user().gid)
    return volume


def _user() -> User:
    uid, gid = runtime().last("USER").value.split(":")
    return User(int(uid), int(gid))


@contextmanager
def _started(root: Root, data: Path, log: Path, *arguments: str, **variables: str) -> Iterator[Container]:
    stage = runtime()
    command = [*stage.last("ENTRYPOINT").words, *(arguments or stage.last("CMD").words)]
    environment = {**pairs(stage.all("ENV")), **variables}
    with root.container(command, environment, stage.last("WORKDIR").value, _user(), data, log) as container:
        yield container


def _health(container: Container) -> "subprocess.CompletedProcess[str]":
    """What the HEALTHCHECK runs."""
    return container.exec(*json.loads(runtime().last("HEALTHCHECK").value.partition(" CMD ")[2]))


def _answer(container: Container) -> list[float]:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": ROW}]}
    ask = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], sys.argv[2].encode()).read().decode())"
    asked = container.exec("python", "-c", ask, f"http://127.0.0.1:8080/v2/models/{MODEL}/infer", json.dumps(body))
    assert asked.returncode == 0, asked.stderr
    found: list[float] = json.loads(asked.stdout)["outputs"][0]["data"]
    return found


def _users(container: Container) -> set[str]:
    """Of all processes in it."""
    ask = "import pathlib; print(*{p.stat().st_uid for p in pathlib.Path('/proc').iterdir() if p.name.isdigit()})"
    return set(container.exec("python", "-c", ask).stdout.split())


def _touch(container: Container, path: str, user: User) -> str:
    return container.exec("touch", path, user=user).stderr


def _pinned(lock: str, package: str) -> list[str]:
    return [line.split(" \\")[0].partition("==")[2] for line in lock.splitlines() if line.startswith(f"{package}==")]
