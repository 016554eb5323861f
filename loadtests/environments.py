"""Environments of the peers: made once below a cache folder, each from a list of pinned packages, and kept.

The lists are complete, with what each package depends on, so nothing else is installed. A folder's name carries the
list's digest and Python's version, so a changed list makes a new one; what was interrupted is done again, since only a
finished one is marked.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

MARK = ".installed"
LOG = "install.log"


class NotInstalled(Exception):
    """pip could not make an environment; the message is its last word."""


def cache() -> Path:
    """`gaugeway-bench` below the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gaugeway-bench"


def folder_of(requirements: Path) -> Path:
    """Where the environment of a list is, or will be."""
    known = f"{sys.version_info[:2]}".encode() + requirements.read_bytes()
    return cache() / f"{requirements.stem}-{hashlib.sha256(known).hexdigest()[:12]}"


def environment(requirements: Path) -> Path:
    """The interpreter that has what `requirements` lists; installed now, if it was not.

    Raises:
        NotInstalled: pip failed.
    """
    folder = folder_of(requirements)
    python = folder / "bin" / "python"
    if not (folder / MARK).exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, capture_output=True)
        _install(python, requirements, folder / LOG)
        (folder / MARK).touch()
    return python


def versions(python: Path, packages: tuple[str, ...]) -> dict[str, str]:
    """Installed versions by distribution."""
    code = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    said = subprocess.run([python, "-c", code, *packages], capture_output=True, text=True, check=True).stdout
    return dict(zip(packages, said.split(), strict=True))


def _install(python: Path, requirements: Path, log: Path) -> None:
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-deps"]
    command += ["--requirement", str(requirements)]
    with log.open("wb") as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, timeout=1800)
    if done.returncode:
        errors = [line for line in log.read_text().splitlines() if line.startswith("ERROR")]
        raise NotInstalled(f"pip: {errors[0] if errors else f'exit code {done.returncode}'}; all of it: {log}")
