"""The unit: what systemd itself says of it, and that it fits the gateway."""

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.documents import DEPLOY, STOPS_S

UNIT = DEPLOY / "systemd" / "gaugeway.service"
needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")


@needs_systemd
def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/gaugeway/bin/gaugeway", sys.executable))  # which exists here
    found = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (found.stderr, found.returncode) == ("", 0)


@needs_systemd
def test_systemd_calls_it_hardened() -> None:
    """The threshold is of exposure times ten: below 2.5 it says OK."""
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=25", str(UNIT)]
    subprocess.run(command, check=True, capture_output=True)


def test_it_stops_the_gateway_as_it_wants_to_be_stopped() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(UNIT)
    service = unit["Service"]
    assert service["ExecStart"].split()[1] == "up" and "--detach" not in service["ExecStart"]
    assert service["KillMode"] == "mixed" and float(service["TimeoutStopSec"]) >= STOPS_S
    assert service["Environment"].split()[0] == f"GAUGEWAY_DATA_DIR=/var/lib/{service['StateDirectory']}"
