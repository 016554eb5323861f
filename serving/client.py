"""What the command line asks of a gateway: through its admin API where one runs, else of the registry itself."""

import getpass
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from io import BufferedReader
from typing import Any

import msgspec

from serving import listeners, sending
from serving.config import Config, Model
from serving.discovery import alive
from serving.errors import GaugewayError, NotReady

RENEW_S = 600.0  # workers drain one after the other


def stop(config: Config, timeout_s: float = 90.0) -> None:
    """Ask it to drain and end, and wait until it has. Raises NotReady when nothing runs or it does not end."""
    running = _running(config)
    _call("POST", f"{running['admin']}/admin/v1/shutdown")
    until = time.monotonic() + timeout_s
    while alive(running["pid"]):
        if time.monotonic() > until:
            raise NotReady(f"process {running['pid']} did not end within {timeout_s:g} s")
        time.sleep(0.1)


def status(config: Config) -> dict[str, Any]:
    """The controller's view and, under `monitors`, the sidecar's; `stale` when it does not answer."""
    found: dict[str, Any] = _call("GET", f"{_running(config)['admin']}/admin/v1/status")
    return found


def reload(config: Config, progress: Callable[[str], None]) -> list[str]:
    """Have the running gateway take this configuration; returns the keys that changed, once all follow them.

    Raises BadRequest for keys that cannot change while it runs, NotReady when a worker does not start with them.
    """
    admin = _running(config)["admin"]
    told = _call("POST", f"{admin}/admin/v1/reload", msgspec.json.encode(config))
    _follow(admin, told["revision"], progress)
    keys: list[str] = told["keys"]
    return keys


def upgrade(config: Config, progress: Callable[[str], None]) -> None:
    """Replace everything but Ray and the replicas by processes of the code that is installed now."""
    admin = _running(config)["admin"]
    told = _call("POST", f"{admin}/admin/v1/upgrade")
    _follow(admin, told["revision"], progress)
    progress("the control plane")
    before = _call("GET", f"{admin}/admin/v1/status")["controller"]
    _call("POST", f"{admin}/admin/v1/succession")
    _follow(admin, told["revision"], progress, before)


def _follow(admin: str, revision: int, progress: Callable[[str], None], before: int = 0) -> None:
    """Until every process has the revision, and the controller is another one than `before`."""
    until, said = time.monotonic() + RENEW_S, ""
    while time.monotonic() < until:
        time.sleep(0.2)
        try:
            found = _call("GET", f"{admin}/admin/v1/status")
        except GaugewayError:  # while the controller is replaced
            continue
        workers = [worker for worker in found["workers"] if "revision" in worker]
        old = [worker["name"] for worker in workers if worker["revision"] != revision or worker["state"] != "running"]
        if not found["changing"] and found["controller"] != before and workers:
            if old:
                raise NotReady(f"{', '.join(old)} could not be replaced and serves on: {found['problem']}")
            return
        if (text := f"replacing {', '.join(old) or 'the sidecar'}") != said and before == 0:
            progress(text)
            said = text
    raise NotReady(f"after {RENEW_S:g} s not everything is replaced; `gaugeway status` says what runs")


def route(config: Config, model: str, weights: dict[str, float], why: str, timeout_s: float = 60.0) -> dict[str, Any]:
    """Change weights; with a gateway running, return once every worker routes by them."""
    try:
        admin = _running(config)["admin"]
    except NotReady:
        return _route_offline(config, model, weights, why)
    body = {"weights": weights, "by": getpass.getuser(), "why": why}
    changed: dict[str, Any] = _call("PUT", f"{admin}/admin/v1/routes/{model}", json.dumps(body).encode())
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        found = _call("GET", f"{admin}/admin/v1/status")
        now = found["models"].get(model, {}).get("weights", {})  # one just published is not planned yet
        workers = [w for w in found["workers"] if w["name"].startswith("worker")]
        in_effect = workers and all(w.get("generation") == found["generation"] for w in workers)
        if _same(now, weights) and in_effect:
            return {**changed, "effect": "in effect"}
        time.sleep(0.1)
    raise NotReady(
        f"the weights are stored, but after {timeout_s:g} s not in effect: {found['problem'] or 'replicas start'}"
    )


def desired(config: Config) -> tuple[int, dict[str, Model]]:
    """How models are to be served, and the generation of that."""
    try:
        admin = _running(config)["admin"]
    except NotReady:
        from serving.repository import Repository  # SQLAlchemy is slow to import, and only needed here

        found = Repository.of(config).desired()
        return found.generation, found.models
    told = _call("GET", f"{admin}/admin/v1/models")
    return told["generation"], msgspec.convert(told["models"], dict[str, Model])


def apply(config: Config, models: dict[str, Model], at: int, why: str, timeout_s: float = 60.0) -> str:
    """Serve `models` in this way, if the registry is still at generation `at`; with a gateway running, return once all
    replicas that this adds run."""
    by = getpass.getuser()
    try:
        admin = _running(config)["admin"]
    except NotReady:
        from serving.repository import Repository

        Repository.of(config).apply(models, at, by=by, why=why)
        return "stored; no gateway runs"
    body = msgspec.json.encode({"models": models, "at": at, "by": by, "why": why})
    generation = _call("PUT", f"{admin}/admin/v1/models", body)["desired_generation"]
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        found = _call("GET", f"{admin}/admin/v1/status")
        if found["desired_generation"] >= generation and not found["waiting"]:
            return "in effect"
        time.sleep(0.2)
    raise NotReady(f"the models are stored, but after {timeout_s:g} s not in effect: waiting for {found['waiting']}")


def label(config: Config, model: str, file: BufferedReader, progress: sending.Progress) -> dict[str, Any]:
    """Send the labels of a file; returns the sum of each outcome, and the refused ones that were named."""
    _running(config)  # or there is nothing to wait for
    return sending.send(
        file,
        lambda: f"{_running(config)['gateway']}/v1/models/{model}/labels",
        config.gateway.tls.certificate,
        progress,
    )


def _route_offline(config: Config, model: str, weights: dict[str, float], why: str) -> dict[str, Any]:
    from serving.repository import Repository  # SQLAlchemy is slow to import, and only needed here

    repository = Repository.of(config)
    desired = repository.desired().models.get(model)
    repository.set_weights(model, weights, by=getpass.getuser(), why=why)
    return {
        "model": model,
        "before": dict(desired.weights) if desired else {},
        "weights": weights,
        "effect": "stored; no gateway runs",
    }


def _running(config: Config) -> dict[str, Any]:
    """What `up` wrote down. Raises NotReady when there is none or it is gone."""
    path = config.run_dir / "up.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise NotReady(f"no gateway runs on the data folder {config.data}") from None
    if not alive(found["pid"]):
        raise NotReady(f"no gateway runs on the data folder {config.data}; the last one was killed")
    return found


def _call(method: str, url: str, body: bytes | None = None) -> Any:
    request = urllib.request.Request(url, body, {"content-type": "application/json"}, method=method)
    try:
        with listeners.ask(request, 60) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        raise listeners.named(error) from None
    except OSError as error:
        raise NotReady(f"no answer from {url}: {getattr(error, 'reason', error)}") from None


def _same(a: dict[str, float], b: dict[str, float]) -> bool:
    return all(abs(a.get(version, 0.0) - b.get(version, 0.0)) < 1e-6 for version in a.keys() | b.keys())
