"""The ports of the configuration: free, or held by the gateway that runs on this data folder."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass

from serving.config import Config
from serving.doctor import processes
from serving.doctor.finding import Finding, fault, ok
from serving.reloading import CHOSEN


@dataclass(frozen=True)
class Port:
    """Where a listener should be. `refusal` says why nobody can listen there now, `holder` who does, if it is known."""

    key: str
    host: str
    port: int
    refusal: str = ""
    holder: str = ""
    ours: bool = False


def gather(config: Config, running: Mapping[str, int]) -> list[Port]:
    """`running`: the ports by key that the gateway on this data folder has; empty when none runs."""
    return [_port(config, section, key, running) for section, key in CHOSEN]


def check(ports: list[Port]) -> list[Finding]:
    return [_finding(port) for port in ports]


def _port(config: Config, section: str, key: str, running: Mapping[str, int]) -> Port:
    part = getattr(config, section)
    one = Port(f"[{section}] {key}", part.host, getattr(part, key))
    if running.get(one.key) is not None and one.port in (0, running[one.key]):
        return Port(one.key, one.host, running[one.key], ours=True)
    refusal = _refusal(one.host, one.port)
    return Port(one.key, one.host, one.port, refusal, _holder(one.port) if refusal else "")


def _refusal(host: str, port: int) -> str:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
            sock.listen(1)
        except OSError as error:
            return error.strerror or str(error)
    return ""


def _holder(port: int) -> str:
    pid = processes.listener(port)
    return "" if pid is None else f"process {pid} ({' '.join(processes.command_line(pid))[:60]})"


def _finding(port: Port) -> Finding:
    at = f"{port.host}:{port.port}" if port.port else f"{port.host}, any free port"
    if port.ours:
        return ok(port.key, f"{at}, held by the gateway of this data folder")
    if not port.refusal:
        return ok(port.key, f"{at}, free")
    by = f" by {port.holder}" if port.holder else ""
    stop = f"stop {port.holder.partition(' (')[0]}, or " if port.holder else ""
    return fault(port.key, f"{at}: {port.refusal}{by}", f"{stop}choose another {port.key} in the configuration")
