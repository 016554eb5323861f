"""Ray: its authentication, its dashboard, and whether the cluster outlives its head."""

import os
import socket
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from serving.config import Config
from serving.doctor.finding import Finding, fault, ok, warning

CONNECT_S = 2.0


@dataclass(frozen=True)
class Facts:
    """`control_stores`: of each that runs on this machine, whether it keeps its state in Redis."""

    address: str | None
    auth_mode: str | None
    token: str  # where it comes from; empty: there is none
    token_mode: int
    dashboards: tuple[str, ...]  # hosts they listen on
    control_stores: tuple[bool, ...]
    refusal: str


def gather(config: Config, environ: Mapping[str, str], lines: Iterable[list[str]]) -> Facts:
    """`lines` are the command lines of this machine's processes."""
    commands = list(lines)
    token, mode = _token(environ)
    return Facts(config.ray.address, environ.get("RAY_AUTH_MODE"), token, mode,
                 tuple(_dashboards(commands)), tuple(_control_stores(commands)),
                 _refusal(config.ray.address))  # fmt: skip


def check(facts: Facts) -> list[Finding]:
    return [*_reachable(facts), _authentication(facts), _token_file(facts), _dashboard(facts), *_fault_tolerance(facts)]


def _reachable(facts: Facts) -> list[Finding]:
    if facts.address is None:
        return [ok("ray", "one is started here with `gaugeway up`, and stopped with it")]
    if facts.refusal:
        return [fault("ray", f"{facts.address}: {facts.refusal}",
                      "start it (ray start --head --port=6379), or correct [ray] address")]  # fmt: skip
    return [ok("ray", f"{facts.address} can be reached")]


def _authentication(facts: Facts) -> Finding:
    if facts.auth_mode not in (None, "token"):
        return fault("ray authentication", f"RAY_AUTH_MODE={facts.auth_mode}: whoever reaches a port of Ray runs code",
                     "unset RAY_AUTH_MODE; a cluster of its own: RAY_AUTH_MODE=token ray start …")  # fmt: skip
    return ok("ray authentication", "by token")


def _token_file(facts: Facts) -> Finding:
    if not facts.token:
        if facts.address is None:
            return ok("ray token", "none yet; it is made at the first start")
        return fault("ray token", "there is none, and the cluster asks for one",
                     "put the head's ~/.ray/auth_token into the same place here, mode 600")  # fmt: skip
    if facts.token_mode & 0o077:
        return fault("ray token", f"{facts.token} has mode {facts.token_mode:o}: others can read it",
                     f"chmod 600 {facts.token}, and make another where others could read it")  # fmt: skip
    return ok("ray token", facts.token)


def _dashboard(facts: Facts) -> Finding:
    open_to = sorted(host for host in set(facts.dashboards) if not _is_loopback(host))
    if open_to:
        return fault("ray dashboard", f"it listens on {', '.join(open_to)}, and whoever reaches it can submit jobs",
                     "ray start --dashboard-host=127.0.0.1, or --include-dashboard=false")  # fmt: skip
    return ok("ray dashboard", "on loopback only" if facts.dashboards else "none on this machine")


def _fault_tolerance(facts: Facts) -> list[Finding]:
    """Only a cluster that is not started here can outlive its head."""
    remedy = "RAY_REDIS_ADDRESS=HOST:6379 ray start --head; KubeRay: gcsFaultToleranceOptions"
    if facts.address is None:
        return []
    if not facts.control_stores:
        return [warning("ray head", "its control store runs elsewhere: whether it outlives the head is not seen here",
                        f"run `gaugeway doctor` on the head; without: {remedy}")]  # fmt: skip
    if not all(facts.control_stores):
        return [fault("ray head", "its control store is in memory only: the cluster ends a minute after its head",
                      remedy)]  # fmt: skip
    return [ok("ray head", "its control store is kept in Redis")]


def _token(environ: Mapping[str, str]) -> tuple[str, int]:
    """Where Ray looks for it, in its order; the mode of the file."""
    if environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN", 0o600
    path = Path(environ.get("RAY_AUTH_TOKEN_PATH") or Path(environ.get("HOME", "~")).expanduser() / ".ray/auth_token")
    return (str(path), stat.S_IMODE(path.stat().st_mode)) if path.exists() else ("", 0o600)


def _dashboards(commands: list[list[str]]) -> Iterator[str]:
    for line in commands:
        if any(part.endswith("dashboard/dashboard.py") for part in line):
            yield next((part.partition("=")[2] for part in line if part.startswith("--host=")), "127.0.0.1")


def _control_stores(commands: list[list[str]]) -> Iterator[bool]:
    for line in commands:
        if line[0].endswith("/gcs_server"):
            yield any(part.startswith("--redis_address=") and not part.endswith("=") for part in line)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _refusal(address: str | None) -> str:
    """Why nobody answers at ``host:port``; other forms of address are Ray's to resolve."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return ""
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def environment() -> Mapping[str, str]:
    return dict(os.environ)
