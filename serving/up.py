"""Start and stop the whole: Ray, the controller, the node's processes. `start` returns when requests are answered."""

import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import IO, Any

import msgspec

from serving import listeners, reloading
from serving.berth import held
from serving.children import sweep
from serving.config import Config
from serving.discovery import prepare
from serving.errors import ConfigError, Conflict, NotReady
from serving.repository import Repository
from serving.tls import server_context
from serving.trust import trust

FREE_PORTS = range(20_000, 32_768)  # between Ray's own and those that Linux gives

Progress = Callable[[str], None]

_RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing leaves the machine
    "RAY_AUTH_MODE": "token",
    "RAY_worker_niceness": "0",  # Ray would run replicas, and what nodes start, at a priority below all else
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@dataclass
class Running:
    """A gateway that answers. `stop` drains it and stops all that `start` started."""

    config: Config
    _lock: IO[str]
    _cluster: Any

    @property
    def gateway_url(self) -> str:
        return listeners.data_plane(self.config.gateway)

    @property
    def admin_url(self) -> str:
        return listeners.url(self.config.admin.host, self.config.admin.port)

    @property
    def metrics_url(self) -> str:
        return listeners.url(self.config.metrics.host, self.config.metrics.node_port) + "/metrics"

    @property
    def verdicts_url(self) -> str:
        return listeners.url(self.config.metrics.host, self.config.metrics.node_port) + "/verdicts"

    def stop_asked(self) -> bool:
        """Whether `gaugeway down` was called."""
        return bool(self._cluster.stop_asked())

    def stop(self) -> None:
        if self._cluster is not None:
            self._cluster.stop()
        _clean(self.config)
        self._lock.close()


def start(
    config: Config,
    progress: Progress = lambda text: None,
    timeout_s: float = 120.0,
    unwanted: Callable[[], bool] = lambda: False,
) -> Running:
    """Raises ConfigError, Conflict (port or data folder in use), NotReady after `timeout_s`; then nothing is left.

    `unwanted` is asked while this waits: when it says so, KeyboardInterrupt ends the start.
    """
    check_exposure(config)
    server_context(config.gateway.tls)  # a worker would say it in its log only
    trust("", config.channel.tls)
    running = Running(config, _lock(config), None)
    try:
        _clean(config)
        running.config = config = with_secret(with_ports(config))
        prepare(config.socket_dir)
        Repository.of(config).import_models(config.models)  # SQL is the truth for those it has
        progress("starting Ray")
        running._cluster = _cluster(config)
        progress("starting the controller")
        _wait(running, progress, time.monotonic() + timeout_s, unwanted)
        _remember(config)
    except BaseException:
        running.stop()
        raise
    return running


def _clean(config: Config) -> None:
    """Nothing of this data folder runs: end what a predecessor that was killed left, and forget where it listened."""
    for berth in held(config):
        sweep(berth.run_dir / "pids")
        shutil.rmtree(berth.socket_dir, ignore_errors=True)
        shutil.rmtree(berth.run_dir / "workers", ignore_errors=True)
        reloading.forget(berth.run_dir)
    (config.run_dir / "up.json").unlink(missing_ok=True)


def with_secret(config: Config) -> Config:
    """The cluster's secret, which is made where it is not configured and lasts with the data folder."""
    if config.channel.secret:
        return config
    path = config.data / "cluster.secret"
    if not path.exists():
        staged = path.with_suffix(".new")
        staged.unlink(missing_ok=True)
        staged.touch(0o600)
        staged.write_text(secrets.token_hex(32))
        staged.rename(path)
    channel = msgspec.structs.replace(config.channel, secret=path.read_text().strip())
    return msgspec.structs.replace(config, channel=channel)


def with_ports(config: Config) -> Config:
    """Port 0 becomes a free one; a port that is in use is a Conflict that says which key to change."""
    ports = {
        ("gateway", "port"): config.gateway.host, ("admin", "port"): config.admin.host,
        ("metrics", "node_port"): config.metrics.host, ("metrics", "controller_port"): config.metrics.host,
    }  # fmt: skip
    taken: list[socket.socket] = []
    try:
        for (section, key), host in ports.items():
            part = getattr(config, section)
            port = getattr(part, key)
            taken.append(_bind(host, port, f"[{section}] {key}") if port else _bind_any(host, f"[{section}] {key}"))
            chosen = msgspec.structs.replace(part, **{key: taken[-1].getsockname()[1]})
            config = msgspec.structs.replace(config, **{section: chosen})
    finally:
        for sock in taken:
            sock.close()
    return config


def _bind_any(host: str, key: str) -> socket.socket:
    """A free port of those that nobody is given: Ray's processes take the system's, and Ray its own from 10002 on."""
    for _ in range(100):
        with suppress(Conflict):
            return _bind(host, secrets.choice(FREE_PORTS), key)
    return _bind(host, 0, key)


def _bind(host: str, port: int, key: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(1)
    except OSError as error:
        sock.close()
        raise Conflict(f"{key}: cannot listen on {host}:{port}: {error.strerror}; choose another port") from None
    return sock


def check_exposure(config: Config) -> None:
    """Raises ConfigError for listeners that others than this machine could reach without a permission."""
    for key, host in (("gateway", config.gateway.host), ("admin", config.admin.host), ("metrics", config.metrics.host)):
        if not _is_loopback(host) and key != "metrics" and os.environ.get("GAUGEWAY_ALLOW_OPEN") != "1":
            raise ConfigError(
                f"[{key}] host = {host!r} is not loopback, and requests are not authenticated; put an authenticating"
                " proxy in front and set GAUGEWAY_ALLOW_OPEN=1, or listen on 127.0.0.1"
            )


def _is_loopback(host: str) -> bool:
    """Of a name nobody knows where it leads, but for `localhost`."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _lock(config: Config) -> IO[str]:
    config.data.mkdir(parents=True, exist_ok=True)
    lock = (config.data / "up.lock").open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise Conflict(
            f"a gateway runs already on the data folder {config.data}; stop it with `gaugeway down`"
        ) from None
    return lock


def _cluster(config: Config) -> Any:
    os.environ.update({key: value for key, value in _RAY_SETTINGS.items() if key not in os.environ})
    from serving.cluster import Cluster  # parts of Ray's environment are read when it is imported

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return Cluster(config)
    finally:
        for number, handler in handlers.items():  # Ray sets its own
            signal.signal(number, handler)


def _wait(running: Running, progress: Progress, until: float, unwanted: Callable[[], bool]) -> None:
    """Until the controller has all it wants and the gateway answers ready."""
    said = ""
    while time.monotonic() < until:
        if unwanted():
            raise KeyboardInterrupt
        waiting = running._cluster.waits_for()
        broken = [] if waiting else running._cluster.failures()
        waiting = waiting or _gateway_waits(running, broken) or _monitors_wait(running)
        if not waiting:
            for sentence in broken:  # the others are served all the same
                progress(sentence)
            return
        if waiting != said:
            progress(f"waiting for {waiting}")
            said = waiting
        time.sleep(0.1)
    raise NotReady(f"gave up waiting for {said}; the logs are in {running.config.data / 'logs'}")


def _gateway_waits(running: Running, broken: list[str]) -> str:
    """What the gateway's workers still lack: the table, or links to replicas. Raises NotReady when none can come."""
    certificate = running.config.gateway.tls.certificate
    try:
        with listeners.ask(f"{running.gateway_url}/v2/health/ready", 2, certificate):
            pass
        with listeners.ask(f"{running.gateway_url}/v2/models", 2, certificate) as response:
            models = json.load(response)["models"]
        ready = [_answers(f"{running.gateway_url}/v2/models/{model}/ready", certificate) for model in models]
    except OSError:
        return "the gateway"
    if broken and not any(ready):
        raise NotReady("; ".join(broken))
    return "" if broken or all(ready) else "the gateway"


def _answers(url: str, certificate: str = "") -> bool:
    try:
        with listeners.ask(url, 2, certificate):
            return True
    except OSError:
        return False


def _monitors_wait(running: Running) -> str:
    return "" if not running.config.monitors.enabled or _answers(running.verdicts_url) else "the monitors"


def _remember(config: Config) -> None:
    """For `gaugeway status`, `down`, `route`, `label`: where this gateway listens."""
    urls = {
        "gateway": listeners.data_plane(config.gateway),
        "admin": listeners.url(config.admin.host, config.admin.port),
        "metrics": listeners.url(config.metrics.host, config.metrics.node_port),
    }
    staged = config.run_dir / "up.new"  # whoever reads it finds all of it or nothing
    staged.write_text(json.dumps({"pid": os.getpid(), **urls}))
    staged.rename(config.run_dir / "up.json")
