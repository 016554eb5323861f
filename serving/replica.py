"""The Ray Serve deployment of one pool of a model version: an ONNX Runtime session behind the direct channel.

Serve places, watches and replaces replicas; it never carries a request. The channel runs in a thread with a loop of
its own, so that Serve's control traffic and the requests do not wait for each other.
"""

import asyncio
import functools
import logging
import os
import secrets
import threading
import time
import warnings
from functools import partial
from hashlib import sha256
from typing import Any

import msgspec
import uvloop
from ray import get_runtime_context, serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from ray.util import get_node_ip_address

from serving import autoscaler
from serving.autoscaler import Autoscaler, report
from serving.berth import claim
from serving.config import Pool, Resources, restore
from serving.discovery import Announcement, announce, count_refusal, prepare
from serving.engine import Engine
from serving.errors import ModelFailure
from serving.manifest import MODEL_FILE, Manifest
from serving.repository import Repository
from serving.runtime import Session, load, repeated
from serving.speed import Timed, batch_rows, line, timed
from serving.trust import trust

log = logging.getLogger("gaugeway.replica")


DEPLOYMENT = "replica"
MOST_ROWS, MEASURING_S = 1024, 1.0  # of the batches that are timed where nobody has
HANGS_S = 5.0  # after its deadline, when interrupting it has not helped


class Replica:
    """Loads, verifies, warms, listens, announces itself; drains when Serve lets it go.

    Serve starts replicas anew when an argument changes, so there is none but what a running replica cannot change.
    """

    def __init__(self, config: str, model: str, version: str, pool: str, resources: str, max_batch_rows: int) -> None:
        self._began, began = time.time(), time.monotonic()
        self._node = get_runtime_context().get_node_id()
        settings, how = claim(restore(config), self._node, os.getppid()), msgspec.json.decode(resources, type=Resources)
        repository = Repository.of(settings)
        manifest = repository.manifest(model, version)
        session = load(manifest, repository.read(manifest, MODEL_FILE), threads=how.threads,
                       provider=how.runs_on, memory_bytes=how.memory_bytes)  # fmt: skip
        times = _times(session, manifest, how, max_batch_rows)
        self._name, self._pool = f"{model}-{version}-{pool}-{secrets.token_hex(4)}", pool
        self._drain_s, self._socket_dir = settings.ray.drain_s, settings.socket_dir
        self._settings = settings
        self._engine = Engine(manifest, session, replica=self._name, pool=pool,
                              expected_s=times[0].run_s, line=line(times),
                              max_batch_rows=max_batch_rows or batch_rows(times))  # fmt: skip
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="channel", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(manifest, began), self._loop).result(30)

    async def _listen(self, manifest: Manifest, began: float) -> None:
        prepare(self._socket_dir)
        socket = self._socket_dir / "replicas" / f"{self._name[-40:]}.sock"
        await self._engine.listen(socket)
        address = await self._listen_far()
        self._announcement = announce(self._socket_dir, Announcement(
            manifest.model, manifest.version, manifest.digest, self._name, str(socket), os.getpid(),
            node=self._node, address=address, pool=self._pool, began=self._began, load_s=time.monotonic() - began,
        ))  # fmt: skip

    async def _listen_far(self) -> str:
        """For gateways of other nodes, if there can be any; returns where."""
        channel = self._settings.channel
        host = channel.host or (_own_address() if self._settings.ray.address else "")
        if not host or not channel.secret:
            return ""
        refused = partial(count_refusal, self._socket_dir)
        port = await self._engine.listen_far(host, trust(channel.secret, channel.tls), refused)
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve a few times a second; `serving.autoscaler` gets it."""
        return report(self._engine.meter.read(self._engine.backlog_rows, time.monotonic()))

    def wake(self) -> None:
        """Called through Serve's handle where there may be no replica: Serve makes one, in order to call it."""

    def check_health(self) -> None:
        """Called by Serve, which replaces a replica that raises: its loop does not turn, or a run does not end."""
        if not self._thread.is_alive():
            raise RuntimeError("the channel's thread has ended")
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self._loop).result(5)
        if self._engine.overdue_s > HANGS_S:
            raise RuntimeError(f"a run goes on {self._engine.overdue_s:.0f} s after its deadline")

    async def __del__(self) -> None:
        """Called and awaited by Serve before the process ends: say goodbye, finish what is here."""
        self._announcement.unlink(missing_ok=True)
        drained = asyncio.run_coroutine_threadsafe(self._engine.drain(self._drain_s), self._loop)
        if not await asyncio.wrap_future(drained):
            log.warning("%s: work was left after %s s of draining", self._name, self._drain_s)


def _own_address() -> str:
    """Of this node, as the other nodes of the cluster know it."""
    address: str = get_node_ip_address()  # type: ignore[no-untyped-call]
    return address


def _times(session: Session, manifest: Manifest, how: Resources, most: int) -> tuple[Timed, ...]:
    """Of runs on this machine: of one row, and of more as they were when published, if that was on a CPU too."""
    try:
        feed = session.warm((1,))
        batches = functools.cache(functools.partial(repeated, feed, session.signature))
        published = manifest.batch_times if how.runs_on == "cpu" else ()
        most = most or MOST_ROWS if manifest.rows_independent and not published else 1
        times = timed(lambda rows: session.run(batches(rows)), most, MEASURING_S, time.perf_counter)
    except ModelFailure:  # blank rows do not suit it
        return manifest.batch_times or (Timed(1, 1.0),)
    here = times[0].run_s / published[0].run_s if published else 1.0
    return tuple(Timed(known.rows, here * known.run_s) for known in published) or times


def application(config: str, model: str, version: str, pool: Pool, health_check_period_s: float,
                drain_s: float) -> Any:  # fmt: skip
    """What `serve.run` takes for one pool of a version; its only deployment is called DEPLOYMENT.

    Serve calls each deployment new code, and starts all its replicas anew, unless it is told a version: then only what
    they cannot change while they run is a reason, and a change of their number, say, is none.
    """
    resources = msgspec.json.encode(pool.resources).decode()
    options: dict[str, Any] = {"num_cpus": pool.cpu}
    if pool.gpu:
        options["num_gpus"] = pool.gpu
    deployment = serve.deployment(
        name=DEPLOYMENT, **_scaling(pool), ray_actor_options=options, max_surge_percent=100,
        health_check_period_s=health_check_period_s, health_check_timeout_s=10.0, max_constructor_retry_count=3,
        graceful_shutdown_timeout_s=drain_s + 5.0, graceful_shutdown_wait_loop_s=0.1,
        logging_config={"enable_access_log": False},
    )(Replica)  # fmt: skip
    arguments = (config, model, version, pool.name, resources, pool.max_batch_rows)
    told = sha256(repr(arguments).encode()).hexdigest()
    return deployment.options(version=told, _internal=True).bind(*arguments)


def _scaling(pool: Pool) -> dict[str, Any]:
    """A fixed number, or an autoscaler; the delays of its decisions are its own, so Serve's are 0."""
    if pool.min == pool.max:
        return {"num_replicas": pool.max}
    policy = AutoscalingPolicy(  # type: ignore[no-untyped-call]
        policy_function=Autoscaler, policy_kwargs=autoscaler.arguments(pool)
    )
    with warnings.catch_warnings():  # of another setting by which Serve could be told of all its deployments at once
        warnings.simplefilter("ignore", DeprecationWarning)
        scaling = AutoscalingConfig(
            min_replicas=pool.min, max_replicas=pool.max, policy=policy, upscale_delay_s=0.0, downscale_delay_s=0.0,
            downscale_to_zero_delay_s=0.0, metrics_interval_s=autoscaler.INTERVAL_S,
            look_back_period_s=autoscaler.LOOK_BACK_S,
        )  # fmt: skip
    return {"autoscaling_config": scaling}
