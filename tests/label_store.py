"""A gateway in this process whose labels go into a store of the tests: the model `m`, without a replica."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from ssl import SSLContext
from typing import Any

from serving.config import parse
from serving.dataplane import DataPlane
from serving.gateway import Gateway
from serving.limits import Limits
from serving.metrics import Page, collect
from tests.edge import Listening, listening
from tests.test_dataplane import table

URL = "/v1/models/m/labels"


class Store:
    """Keeps the ids it is given, in their order; like the sidecar it counts as doubled what it knows.

    `before` is called in the gateway's loop for each batch, and may raise. While `open` is not set no batch is taken.
    """

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.sizes: list[int] = []
        self.before: Callable[[], None] = lambda: None
        self.waiting, self.open = threading.Event(), threading.Event()
        self.open.set()
        self._known: set[str] = set()

    async def submit(self, labels: list[dict[str, Any]]) -> dict[str, Any]:
        self.waiting.set()
        while not self.open.is_set():
            await asyncio.sleep(0.001)
        self.before()
        refused = {k for k, one in enumerate(labels) if one["label"] not in (0, 1)}
        ids = [one["id"] for k, one in enumerate(labels) if k not in refused]
        doubled = sum(id in self._known for id in ids)
        self._known.update(ids)
        self.ids += ids
        self.sizes.append(len(labels))
        told = [{"index": k, "reason": "label must be 0 or 1"} for k in sorted(refused)]
        return {"joined": len(ids), "parked": 0, "unknown": 0, "doubled": doubled, "refused": told}


@contextmanager
def labelling(
    folder: Path, limits: Limits | None = None, tls: SSLContext | None = None, **settings: Any
) -> Iterator[tuple[Listening, Store]]:
    """`settings` are those of the gateway."""
    store = Store()

    def application() -> Gateway:
        config = parse({"data_dir": str(folder), "gateway": settings})
        plane = DataPlane(config.gateway, Page(folder / "worker.page"), None)
        plane.install(table(1, {"1": 1.0}))
        return Gateway(config, plane, store)

    with listening(limits, tls, application) as server:
        yield server, store


def counted(folder: Path) -> dict[str, float]:
    """Labels by outcome, as the gateway's metrics have them."""
    samples = [sample for family in collect([folder / "worker.page"]) for sample in family.samples]
    return {one.labels["outcome"]: one.value for one in samples if one.name == "gaugeway_labels_total"}


def lines(n: int, start: int = 0) -> bytes:
    """NDJSON of `n` labels, 79 bytes each."""
    form = b'{"id": "request-%016d", "label": %d, "time": "2013-01-01T00:00:00Z"}\n'
    return b"".join(form % (k, k % 2) for k in range(start, start + n))


def names(n: int, start: int = 0) -> list[str]:
    """The ids of these."""
    return [f"request-{k:016d}" for k in range(start, start + n)]
