"""`gaugeway up --detach`: a gateway that goes on when the terminal closes; its output goes to `logs/up.log`."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serving.config import Config
from serving.errors import NotReady

POLL_S = 0.1
STOP_S = 60.0  # for what was begun, when nobody wants it any more


def start(config: Config, path: Path | None, progress: Callable[[str], None]) -> dict[str, Any]:
    """Returns, when the gateway answers, where it listens; `progress` gets what it says meanwhile.

    `path` is the configuration's file, if one was named. Raises NotReady with the reason when it does not start.
    """
    log_path = config.data / "logs" / "up.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    named = [] if path is None else ["--config", str(path)]
    with log_path.open("ab") as output:
        begin = output.seek(0, 2)
        process = subprocess.Popen([sys.executable, "-m", "serving.cli", "up", *named], stdin=subprocess.DEVNULL,
                                   stdout=output, stderr=output, start_new_session=True)  # fmt: skip
    said = list[str]()
    try:
        while (running := _running(config, process.pid)) is None and process.poll() is None:
            time.sleep(POLL_S)
            said += _say(log_path, begin, len(said), progress)
    except KeyboardInterrupt:
        process.terminate()
        process.wait(STOP_S)
        raise
    if running is None:
        raise NotReady(_reason(log_path, begin))
    process.returncode = 0  # it goes on without us
    return running


def _running(config: Config, pid: int) -> dict[str, Any] | None:
    """What it wrote down once it was ready."""
    try:
        found: dict[str, Any] = json.loads((config.run_dir / "up.json").read_text())
    except FileNotFoundError:
        return None
    return found if found["pid"] == pid else None


def _say(log_path: Path, begin: int, known: int, progress: Callable[[str], None]) -> list[str]:
    new = [line for line in _lines(log_path, begin)[known:] if line]
    for line in new:
        if line.endswith(" …"):
            progress(line.removesuffix(" …"))
    return new


def _lines(log_path: Path, begin: int) -> list[str]:
    """What was written since, whole lines only."""
    with log_path.open("rb") as log:
        log.seek(begin)
        return [line for line in log.read().decode(errors="replace").split("\n")[:-1] if line]


def _reason(log_path: Path, begin: int) -> str:
    lines = _lines(log_path, begin)
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or ["it ended without a word"])[-1] + f" (all it said is in {log_path})"
