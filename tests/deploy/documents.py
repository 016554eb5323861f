"""The files of deploy/, read."""

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
STOPS_S = 150  # at most, as `serving.cluster.Cluster.stop` waits


def documents(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = list(yaml.safe_load_all(path.read_text()))
    return found


def document(path: Path) -> dict[str, Any]:
    (found,) = documents(path)
    return found
