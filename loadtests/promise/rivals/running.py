"""Runs one of the rivals in its environment, which is installed once."""

import os
import subprocess
from pathlib import Path

from loadtests import environments
from loadtests.promise import streams
from loadtests.promise.kept import ROOT
from loadtests.promise.steps import Failed
from loadtests.promise.streams import Outcome

TIMEOUT_S = 900.0  # of one run


def listed(name: str) -> Path:
    """Its packages."""
    return ROOT / "loadtests" / "peers" / f"{name}.txt"


def program(name: str) -> Path:
    return ROOT / "loadtests" / "promise" / "rivals" / f"{name}.py"


def install(name: str) -> str:
    """Where its interpreter is. Raises Failed."""
    try:
        return str(environments.environment(listed(name)))
    except (environments.NotInstalled, subprocess.SubprocessError) as error:
        raise Failed(f"{name} cannot be installed: {error}") from None


def run(name: str, number: int, windows: int) -> list[Outcome]:
    """Run `number`, with a reference and rows of its own, over so many windows of each length. Raises Failed."""
    command = [install(name), "-m", f"loadtests.promise.rivals.{name}", str(number), str(windows)]
    quiet = os.environ | {"DO_NOT_TRACK": "1"}  # nothing is sent to the authors
    try:
        said = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise Failed(f"{name} took longer than {TIMEOUT_S:.0f} s") from None
    if said.returncode:
        raise Failed(f"{name}: {(said.stderr.splitlines() or ['no word'])[-1]}")
    return streams.heard(said.stdout)
