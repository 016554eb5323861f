"""Wakes pools that have no replica: a call through Serve's own handle, for which Serve makes a replica at once.

Serve counts what waits at handles, and a handle that waits at zero replicas says so without delay. The call itself
does nothing; requests go over the direct channel as soon as the replica has announced itself.
"""

import logging
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any

from ray import serve

from serving.config import Config
from serving.discovery import announced
from serving.planning import PoolKey, name_of
from serving.sleepers import told

log = logging.getLogger("gaugeway.waking")

LOOK_S = 0.05
AGAIN_S = 1.0  # a pool that somebody still waits for is asked again


@dataclass(frozen=True)
class ColdStart:
    """The last one of a pool: from the first request that waited to a replica that listens, and its two parts."""

    total_s: float
    process_s: float  # until the replica's process began to load the model
    load_s: float  # the model: read, verified, loaded, warmed


class Waker:
    """Of one node. Runs in a thread of its own until `stopping` is set."""

    def __init__(self, config: Config, stopping: threading.Event) -> None:
        self._config, self._stopping = config, stopping
        self._handles: dict[PoolKey, Any] = {}
        self._asked: dict[PoolKey, float] = {}  # when last
        self._since: dict[PoolKey, float] = {}  # when first, in seconds since 1970
        self.cold_starts: dict[PoolKey, ColdStart] = {}
        self._said = ""
        threading.Thread(target=self._run, name="wake", daemon=True).start()

    def report(self) -> dict[str, dict[str, float]]:
        return {name_of(*key): asdict(one) for key, one in list(self.cold_starts.items())}

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_S):
            try:
                self._look(told(self._config.run_dir))
                self._said = ""
            except Exception as error:  # the edge of Serve, which may be starting anew: whoever waits is told of again
                if repr(error) != self._said:
                    log.exception("cannot wake; trying again")
                    self._said = repr(error)

    def _look(self, waiting: set[PoolKey]) -> None:
        now = time.monotonic()
        for key in waiting:
            self._since.setdefault(key, time.time())
            if now - self._asked.get(key, -AGAIN_S) >= AGAIN_S:
                self._asked[key] = now
                self._call(key)
        for key in self._since.keys() - waiting:
            self._measure(key, self._since.pop(key))
            self._asked.pop(key, None)
            if (handle := self._handles.pop(key, None)) is not None:
                handle.shutdown()  # or it would report to Serve for ever that nothing waits

    def _call(self, key: PoolKey) -> None:
        if key not in self._handles:
            self._handles[key] = serve.get_app_handle(name_of(*key))
        self._handles[key].wake.remote()

    def _measure(self, key: PoolKey, since: float) -> None:
        for one in announced(self._config.socket_dir).values():
            if (one.model, one.version, one.pool) == key and one.began > since:
                total_s = one.began - since + one.load_s
                self.cold_starts[key] = ColdStart(total_s, one.began - since, one.load_s)
                log.info("%s was woken in %.2f s, of which its model took %.2f s", name_of(*key), total_s, one.load_s)
