"""Faults that are planted as they happen: files, modes, sockets, processes. Each is found, alone, with its remedy."""

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from serving import publishing
from serving.children import started
from serving.config import load
from serving.doctor import certificates, cluster, folder, machine, packages
from serving.doctor.examination import examine
from serving.doctor.finding import Finding
from serving.doctor.packages import Package
from serving.repository import Repository
from tests import certificates as made
from tests import models

HEALTHY = """
data_dir = "{data}"
[gateway]
port = 0
{gateway}
[admin]
port = 0
[metrics]
node_port = 0
controller_port = 0
[ray]
{ray}
"""


class Patient:
    """A folder with a configuration, a published version and a home, in which nothing is wrong."""

    def __init__(self, place: Path, published: Path) -> None:
        """`published` is a data folder, of which it gets a copy: publishing takes a second."""
        self.place, self.data, self.environ = place, place / "data", {"HOME": str(place)}
        self.file = place / "gaugeway.toml"
        self.processes: list[subprocess.Popen[bytes]] = []
        self.configure()
        self.token = place / ".ray" / "auth_token"
        self.token.parent.mkdir()
        self.token.write_text("secret")
        self.token.chmod(0o600)
        shutil.copytree(published, self.data)
        self.data.chmod(0o755)

    def configure(self, gateway: str = "", ray: str = "") -> None:
        self.file.write_text(HEALTHY.format(data=self.data, gateway=gateway, ray=ray))

    def begin(self, *command: str, executable: str | None = None) -> int:
        """A process that runs until the test ends."""
        quiet = subprocess.DEVNULL
        self.processes.append(subprocess.Popen(command, executable=executable, stdout=quiet, stderr=quiet))
        return self.processes[-1].pid

    @property
    def run(self) -> Path:
        (self.data / "run").mkdir(exist_ok=True)
        return self.data / "run"

    def examined(self) -> list[Finding]:
        return [one for one in examine(self.file, self.environ) if one.state == "fault" and _here(one)]


def _here(one: Finding) -> bool:
    """Other tests of this machine may run a Ray, whose processes are found as well."""
    return one.check not in ("ray dashboard", "ray head", "memory")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("published")
    (place / "gaugeway.toml").write_text(HEALTHY.format(data=place / "data", gateway="", ray=""))
    (place / "model.onnx").write_bytes(models.linear())
    publishing.publish(Repository.of(load(place / "gaugeway.toml", {})), "m", place / "model.onnx")
    return place / "data"


@pytest.fixture
def patient(tmp_path: Path, published: Path) -> Iterator[Patient]:
    patient = Patient(tmp_path, published)
    yield patient
    for process in patient.processes:
        process.kill()
        process.wait()


def unknown_key(patient: Patient) -> None:
    patient.configure(gateway="wrokers = 2")


def open_to_all(patient: Patient) -> None:
    patient.configure(gateway='host = "0.0.0.0"')


def port_taken(patient: Patient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    patient.begin(sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1")
    end = time.monotonic() + 10
    while not _listens(port):
        assert time.monotonic() < end
        time.sleep(0.05)
    patient.file.write_text(patient.file.read_text().replace("[gateway]\nport = 0", f"[gateway]\nport = {port}"))


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def folder_below_a_file(patient: Patient) -> None:
    (patient.place / "file").write_text("")
    patient.data = patient.place / "file" / "data"
    patient.configure()


def folder_of_everybody(patient: Patient) -> None:
    patient.data.chmod(0o777)


def clock_set_back(patient: Patient) -> None:
    (patient.run / "table.json").write_text("{}")
    os.utime(patient.run / "table.json", (time.time() + 7200,) * 2)


def certificate_expired(patient: Patient) -> None:
    pair = made.write(patient.place, valid=timedelta(minutes=-1))
    Path(pair.key).chmod(0o600)
    patient.configure(gateway=f'tls = {{ certificate = "{pair.certificate}", key = "{pair.key}" }}')


def certificate_of_another_key(patient: Patient) -> None:
    pair = made.write(patient.place)
    one = Path(pair.certificate).read_bytes()
    made.write(patient.place)
    Path(pair.certificate).write_bytes(one)
    patient.configure(gateway=f'tls = {{ certificate = "{pair.certificate}", key = "{pair.key}" }}')


def key_of_everybody(patient: Patient) -> None:
    pair = made.write(patient.place, valid=timedelta(days=90))
    Path(pair.key).chmod(0o644)
    patient.configure(gateway=f'tls = {{ certificate = "{pair.certificate}", key = "{pair.key}" }}')


def registry_damaged(patient: Patient) -> None:
    for path in patient.data.glob("registry.db*"):
        path.unlink()
    (patient.data / "registry.db").write_bytes(b"no database" * 1000)


def registry_of_a_newer_gaugeway(patient: Patient) -> None:
    with sqlite3.connect(patient.data / "registry.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v9999'")
    connection.close()


def artifact_flipped(patient: Patient) -> None:
    blob = next(path for path in (patient.data / "artifacts").rglob("*") if path.is_file() and path.stat().st_size > 64)
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)


def worker_left(patient: Patient) -> None:
    pid = patient.begin("sleep", "600")
    (patient.run / "pids").mkdir()
    (patient.run / "pids" / "worker-0.pid").write_text(f"{pid} {started(pid)}")


def gateway_killed(patient: Patient) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    (patient.run / "up.json").write_text(json.dumps({"pid": process.pid, "admin": "", "gateway": "", "metrics": ""}))


def gateway_silent(patient: Patient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        admin = f"http://127.0.0.1:{probe.getsockname()[1]}"
    (patient.run / "up.json").write_text(json.dumps({"pid": os.getpid(), "admin": admin}))


def authentication_off(patient: Patient) -> None:
    patient.environ["RAY_AUTH_MODE"] = "disabled"


def token_of_everybody(patient: Patient) -> None:
    patient.token.chmod(0o644)


def ray_away(patient: Patient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        patient.configure(ray=f'address = "127.0.0.1:{probe.getsockname()[1]}"')


PLANTED: list[tuple[Callable[[Patient], None], str, str, str]] = [
    (unknown_key, "configuration", "did you mean `workers`?", "correct"),
    (open_to_all, "exposure", "'0.0.0.0' is not loopback", 'host = "127.0.0.1"'),
    (port_taken, "[gateway] port", "-m http.server", "stop process"),
    (folder_below_a_file, "data folder", "Not a directory", "mkdir -p"),
    (folder_of_everybody, "permissions", "mode 777", "chmod -R go-w"),
    (clock_set_back, "time", "in the future", "chronyc makestep"),
    (certificate_expired, "certificate of [gateway.tls]", "expired 0.0 days ago", "renew"),
    (certificate_of_another_key, "certificate of [gateway.tls]", "does not belong", "its key beside"),
    (key_of_everybody, "certificate of [gateway.tls]", "mode 644", "chmod 600"),
    (registry_damaged, "registry", "not a database", "repair"),
    (registry_of_a_newer_gaugeway, "registry", "'v9999', is of a newer Gaugeway", "pip install --upgrade"),
    (artifact_flipped, "artifacts", "m 1: artifact sha256/", "gaugeway publish m FILE --version 1"),
    (worker_left, "gateway", "left worker-0 (", "gaugeway up ends them"),
    (gateway_killed, "gateway", "was killed", "gaugeway up starts it again"),
    (gateway_silent, "gateway", "no answer from", "gaugeway down"),
    (authentication_off, "ray authentication", "RAY_AUTH_MODE=disabled", "unset RAY_AUTH_MODE"),
    (token_of_everybody, "ray token", "mode 644", "chmod 600"),
    (ray_away, "ray", "Connection refused", "ray start --head"),
]


def test_a_healthy_one_has_no_fault(patient: Patient) -> None:
    assert patient.examined() == []


@pytest.mark.parametrize(("plant", "check", "found", "remedy"), PLANTED, ids=lambda one: getattr(one, "__name__", ""))
def test_a_planted_fault_is_found_alone_with_its_remedy(
    patient: Patient, plant: Callable[[Patient], None], check: str, found: str, remedy: str
) -> None:
    plant(patient)
    (fault,) = patient.examined()
    assert fault.check == check and found in fault.found and remedy in fault.remedy


def test_the_command_tells_of_limits_and_packages_and_fails(patient: Patient) -> None:
    """A process with few descriptors, in an environment whose Ray is another one."""
    other = patient.place / "site" / "ray-2.59.0.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: ray\nVersion: 2.59.0\n")
    command = [sys.executable, "-m", "serving.cli", "doctor", "--json", "--config", str(patient.file)]
    environ = {**os.environ, **patient.environ, "PYTHONPATH": str(other.parent)}
    done = subprocess.run(
        ["prlimit", "--nofile=512", *command], capture_output=True, text=True, env=environ, timeout=60
    )
    faults = {one["check"]: one for one in json.loads(done.stdout) if one["state"] == "fault"}
    assert done.returncode == 1 and {"descriptors", "packages"} <= faults.keys()
    assert "512" in faults["descriptors"]["found"] and "ulimit -n" in faults["descriptors"]["remedy"]
    assert "ray is 2.59.0, needed: ==2.60.*" in faults["packages"]["found"]


def test_processes_of_ray_are_known_by_their_command_lines(patient: Patient) -> None:
    patient.configure(ray='address = "auto"')
    config = load(patient.file, {})
    script = patient.place / "dashboard" / "dashboard.py"
    lines = [["python", str(script), "--host=0.0.0.0"], ["/x/gcs_server", "--redis_address=", "--node-ip=1"]]
    found = {one.check: one for one in cluster.check(cluster.gather(config, patient.environ, lines))}
    assert found["ray dashboard"].state == "fault" and "--dashboard-host=127.0.0.1" in found["ray dashboard"].remedy
    assert found["ray head"].state == "fault" and "RAY_REDIS_ADDRESS" in found["ray head"].remedy
    lines = [["python", str(script), "--host=127.0.0.1"], ["/x/gcs_server", "--redis_address=10.0.0.1"]]
    found = {one.check: one for one in cluster.check(cluster.gather(config, patient.environ, lines))}
    assert (found["ray dashboard"].state, found["ray head"].state) == ("ok", "ok")
    patient.token.unlink()
    found = {one.check: one for one in cluster.check(cluster.gather(config, patient.environ, []))}
    assert found["ray token"].state == "fault" and found["ray head"].state == "warning"


def test_a_small_machine_is_told_what_it_lacks() -> None:
    small = machine.Facts(cpus=1, memory_bytes=2**29, shm_bytes=64 * 2**20, descriptors=2048, clock_error_s=3.0)
    states = {one.check: (one.state, bool(one.remedy)) for one in machine.check(small)}
    assert states == {"processors": ("warning", True), "memory": ("warning", True), "shared memory": ("fault", True),
                      "descriptors": ("warning", True), "clock": ("fault", True)}  # fmt: skip
    large = machine.Facts(cpus=8, memory_bytes=2**34, shm_bytes=2**33, descriptors=65536, clock_error_s=0.01)
    assert {one.state for one in machine.check(large)} == {"ok"}
    (clock,) = (one for one in machine.check(replace(large, clock_error_s=None)) if one.check == "clock")
    assert clock.state == "warning"


def test_what_this_machine_says_of_itself_is_read() -> None:
    facts = machine.gather()
    assert facts.cpus > 0 and facts.memory_bytes > 2**20 and facts.descriptors > 64


@pytest.mark.parametrize(("free", "rings", "state"), [(10, 1, "ok"), (2, 1, "warning"), (1, 1, "fault")])
def test_rings_that_are_still_to_be_made_need_room(free: int, rings: int, state: str) -> None:
    facts = folder.Facts("/d", "", free * 2**30, rings * 2**30, 0o700, None, 0.0)
    assert next(one for one in folder.check(facts) if one.check == "disk").state == state


def test_a_folder_of_somebody_else_and_a_certificate_that_ends_soon() -> None:
    facts = folder.Facts("/d", "", 2**40, 0, 0o700, 1234, 0.0)
    assert [one.found for one in folder.check(facts) if one.state == "fault"] == ["/d belongs to user 1234"]
    (soon,) = certificates.check([certificates.Facts("[gateway.tls]", "/c", "/k", left_s=5 * 86400.0)])
    assert soon.state == "warning" and "5 days" in soon.found


def test_a_package_that_is_missing_or_another_is_named() -> None:
    fine = [Package("python", ">=3.11", "3.11.7"), Package("ray", "==2.60.*", "2.60.1"), Package("rich", "", "14")]
    assert [one.state for one in packages.check(fine)] == ["ok"]
    (fault,) = packages.check([*fine, Package("scipy", ">=1.12,<2", None), Package("onnx", "<2", "2.1")])
    assert fault.state == "fault" and fault.found == "scipy is missing, needed: >=1.12,<2; onnx is 2.1, needed: <2"


def test_a_process_of_another_start_is_no_leftover(patient: Patient) -> None:
    pid = patient.begin("sleep", "600")
    (patient.run / "pids").mkdir()
    (patient.run / "pids" / "worker-0.pid").write_text(f"{pid} {started(pid) - 1}")
    assert patient.examined() == []  # its id was used again
