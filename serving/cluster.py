"""The Ray cluster and the controller in it, seen from the process that starts and stops them.

Import it only after `serving.up` has set Ray's environment: parts of it are read when Ray is imported.
"""

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from serving.config import Config, dump
from serving.controller import NAME, NAMESPACE, ControllerActor
from serving.errors import NotReady


class Cluster:
    """Started here, or joined at `[ray] address`."""

    def __init__(self, config: Config) -> None:
        here = config.ray.address is None
        local: dict[str, Any] = {"num_cpus": config.ray.cpus, "num_gpus": config.ray.gpus,
                                 "object_store_memory": 80 * 2**20} if here else {}  # fmt: skip
        try:
            ray.init(config.ray.address or "local", namespace=NAMESPACE, include_dashboard=False if here else None,
                     log_to_driver=False, logging_level=logging.WARNING, **local)  # fmt: skip
            _hide_token()
            self._controller: Any = ControllerActor.options(
                name=NAME, namespace=NAMESPACE, lifetime="detached", num_cpus=0, memory=1, max_restarts=-1,
                max_concurrency=16, scheduling_strategy=_here(),
            ).remote(dump(config))  # fmt: skip
        except BaseException:  # interrupted, say: what was started by then must end
            ray.shutdown()
            raise

    def waits_for(self) -> str:
        """Empty when all that is wanted runs. Raises NotReady when the controller cannot start."""
        try:
            return str(ray.get(self._controller.ready.remote(), timeout=10))
        except (ActorUnavailableError, GetTimeoutError):
            return "the controller"
        except RayActorError as error:
            raise NotReady(f"the controller cannot start: {str(error).strip().splitlines()[-1]}") from None

    def failures(self) -> list[str]:
        """Versions whose replicas cannot start, and why."""
        return list(ray.get(self._controller.failures.remote(), timeout=10))

    def stop_asked(self) -> bool:
        """A controller that is being started again has not been asked."""
        try:
            return bool(ray.get(self._controller.stop_asked.remote(), timeout=10))
        except (RayActorError, GetTimeoutError):
            return False

    def stop(self) -> None:
        with suppress(Exception):  # whatever is broken, the rest must be stopped too
            ray.get(self._controller.stop_asked.remote(), timeout=10)  # of a Ray that has ended there is no answer
            ray.get(self._controller.stop.remote(), timeout=150)
        with suppress(Exception):
            ray.kill(self._controller)
        ray.shutdown()


def _here() -> NodeAffinitySchedulingStrategy:
    """The controller belongs to this machine, where its listeners are looked for; to another one if this is lost.

    Ray heeds this only for an actor that asks for some resource, a byte of memory say: others go to any node.
    """
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)


def _hide_token() -> None:
    """Ray writes the token it makes into a file that everybody may read, and whoever has it runs code here."""
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    with suppress(FileNotFoundError, PermissionError):  # none, or somebody else's to protect
        path.chmod(0o600)
