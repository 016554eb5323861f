"""What the command line asks of the monitors: of this machine's sidecar by its socket, which only its user may open."""

import getpass
import json
import socket
import time
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from serving.config import Config
from serving.errors import BadRequest, GaugewayError, NotReady

TIMEOUT_S = 20.0
EFFECT_S = 10.0  # in which the judge takes up an order


def verdicts(config: Config) -> dict[str, Any]:
    """The document of ``GET /verdicts``. Raises NotReady when the sidecar does not answer."""
    found: dict[str, Any] = _get(config, "/verdicts")
    return found


def explanation(config: Config, model: str, version: str, feature: str = "") -> dict[str, Any]:
    """Why the version's alarms are on. Raises GaugewayError with the sidecar's sentence."""
    found: dict[str, Any] = _get(config, "/explanation", model=model, version=version, feature=feature)
    return found


def check_reason(why: str) -> None:
    """Raises BadRequest without a reason."""
    if not why.strip():
        raise BadRequest("--reason must say why: it is kept with the order")


def order(
    config: Config, kind: str, model: str, version: str, why: str, *, reference: bytes = b"", rows: str = ""
) -> dict[str, Any]:
    """Order a `reset` or a `rebase` of a version's monitor, and wait a while until it is carried out.

    `reference` is the profile that a rebase brings, made of `rows`; without one live rows are taken. `notes` are then
    what the monitors say of the version. Raises UnknownModel or UnknownVersion, and BadRequest without a reason.
    """
    check_reason(why)
    from serving.repository import Repository

    by = getpass.getuser()
    number = Repository.of(config).order(model, version, kind, by=by, why=why, reference=reference, rows=rows)
    done = _carried_out(config, model, version, number)
    effect = "in effect" if done else "stored; the monitors follow when they run"
    said = {"model": model, "version": version, "order": number, "kind": kind, "by": by, "why": why, "effect": effect}
    return {**said, "notes": done["notes"] if done else []}


def _carried_out(config: Config, model: str, version: str, number: int) -> dict[str, Any] | None:
    """The version's verdicts once the judge carried out the order; None when it did not within `EFFECT_S`."""
    until = time.monotonic() + EFFECT_S
    while time.monotonic() < until:
        try:
            known: dict[str, Any] | None = verdicts(config)["models"].get(model, {}).get(version)
        except GaugewayError:
            return None
        if known is None or known["order"] >= number:
            return known
        time.sleep(0.1)
    return None


def _get(config: Config, path: str, **query: str) -> Any:
    if not config.monitors.enabled:
        raise BadRequest("the monitors are switched off: monitors.enabled is false")
    at = config.socket_dir / "monitors.sock"
    try:
        status, body = _request(at, f"{path}?{urlencode(query)}" if query else path)
    except (OSError, HTTPException) as error:
        raise NotReady(f"no sidecar answers at {at}: {error}; `gaugeway status` says what runs") from None
    if status != 200:
        raise GaugewayError(_sentence(body, path, status))
    return json.loads(body)


def _request(at: Path, target: str) -> tuple[int, bytes]:
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(TIMEOUT_S)
        stream.connect(str(at))
        connection = HTTPConnection("sidecar")
        connection.sock = stream
        connection.request("GET", target)
        answer = connection.getresponse()
        return answer.status, answer.read()


def _sentence(body: bytes, path: str, status: int) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return f"the sidecar answered {path} with {status}"
