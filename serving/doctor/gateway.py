"""The gateway of this data folder: does it answer, what is its problem; or what did one leave that was killed."""

import json
from dataclasses import dataclass
from typing import Any

from serving import client
from serving.berth import held
from serving.children import left
from serving.config import Config, restore
from serving.discovery import alive
from serving.doctor.finding import Finding, fault, ok
from serving.errors import GaugewayError
from serving.reloading import CHOSEN


@dataclass(frozen=True)
class Facts:
    """`pid` of `gaugeway up`, 0 when none was here or it ended in order; `left`: processes by name."""

    pid: int = 0
    lives: bool = False
    silence: str = ""  # why its admin API does not answer
    problem: str = ""
    down: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    sockets: int = 0


def gather(config: Config) -> Facts:
    pid = _pid(config)
    if not (pid and alive(pid)):
        names = tuple(_with_id(berth, name) for berth in held(config) for name in left(berth.run_dir / "pids"))
        sockets = sum(len(list(berth.socket_dir.rglob("*.sock"))) for berth in held(config))
        return Facts(pid, left=names, sockets=sockets)
    try:
        found = client.status(config)
    except GaugewayError as error:
        return Facts(pid, True, silence=str(error))
    down = tuple(process["name"] for process in found["workers"] if process["state"] == "down")
    return Facts(pid, True, problem=found["problem"], down=down)


def check(facts: Facts) -> list[Finding]:
    if not facts.lives:
        return [_leftovers(facts)]
    if facts.silence:
        return [fault("gateway", f"process {facts.pid} runs, but: {facts.silence}",
                      "the log of the controller (session_latest/logs in Ray's temporary folder) says why; it starts"
                      " again by itself, else: gaugeway down, gaugeway up")]  # fmt: skip
    if facts.problem or facts.down:
        return [fault("gateway", "; ".join(filter(None, [facts.problem, *(f"{name} is down" for name in facts.down)])),
                      "logs/ below the data folder says why of a process; see docs/operations.md")]  # fmt: skip
    return [ok("gateway", f"process {facts.pid} runs, and all that it watches")]


def ports(config: Config) -> dict[str, int]:
    """Those that the gateway of this data folder has; none when none runs."""
    pid, path = _pid(config), config.run_dir / "config.json"
    if not (pid and alive(pid) and path.exists()):
        return {}
    running = restore(path.read_bytes())
    return {f"[{section}] {key}": getattr(getattr(running, section), key) for section, key in CHOSEN}


def _leftovers(facts: Facts) -> Finding:
    if facts.left:
        return fault(
            "gateway",
            f"none runs, but one that was killed left {', '.join(facts.left)}",
            f"gaugeway up ends them before it starts; to end them only: kill {_ids(facts.left)}",
        )
    if facts.pid or facts.sockets:
        return fault("gateway", f"the last one (process {facts.pid}) was killed, and left {facts.sockets} sockets",
                     "gaugeway up starts it again and clears them; who killed it: dmesg | grep -i oom")  # fmt: skip
    return ok("gateway", "none runs, and none left anything")


def _pid(config: Config) -> int:
    try:
        found: dict[str, Any] = json.loads((config.run_dir / "up.json").read_text())
    except (OSError, json.JSONDecodeError):
        return 0
    return int(found["pid"])


def _with_id(berth: Config, name: str) -> str:
    return f"{name} ({(berth.run_dir / 'pids' / f'{name}.pid').read_text().split()[0]})"


def _ids(names: tuple[str, ...]) -> str:
    """``worker-0 (17)`` -> ``17``"""
    return " ".join(name.partition("(")[2].rstrip(")") for name in names)
