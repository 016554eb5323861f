"""A worker's links to the replicas of its node, kept to what is announced and served."""

import asyncio
from collections.abc import Collection
from pathlib import Path

from serving.arena import Arena
from serving.batching import Batcher
from serving.channel import Link, State, connect
from serving.dataplane import DataPlane
from serving.discovery import Announcement, announced
from serving.routing import Key, Table

RECONNECT_S = 0.5
PREPARE_S = 1.0


class Links:
    """Keeps one link to every announced replica of what this worker serves."""

    def __init__(self, socket_dir: Path, plane: DataPlane, arena: Arena | None = None) -> None:
        self._socket_dir, self._plane, self._arena = socket_dir, plane, arena
        self._links: dict[str, Link] = {}
        self._keys: dict[Link, Key] = {}
        self._batchers: dict[Link, Batcher] = {}
        self._retry: dict[str, float] = {}
        self._loop = asyncio.get_running_loop()

    async def prepare(self, table: Table) -> None:
        """Link to the replicas of what `table` brings, so that it can be routed to from its first moment.

        Waits at most PREPARE_S for a replica of each version that has one.
        """
        coming = {entry.key for model in table.models.values() for entry in model.versions.values()}
        until = self._loop.time() + PREPARE_S
        await self.refresh(coming)
        while self._loop.time() < until and coming & (self._in("suspect") - self._in("ready")):
            await asyncio.sleep(0.005)

    def attach(self) -> None:
        """Give the links that are ready to the versions of the table that was just installed."""
        for link in list(self._links.values()):
            self._attach(link)

    async def refresh(self, coming: Collection[Key] = ()) -> None:
        """Close what was withdrawn or left the table, once it is idle; open what is missing."""
        found = announced(self._socket_dir)
        for replica, link in list(self._links.items()):
            one = found.get(replica)
            batcher = self._batchers.get(link)
            wanted = one is not None and self._wanted(one, coming)
            if not wanted and not link.inflight and (one is None or batcher is None or batcher.idle):
                self._links.pop(replica).close()
        now = self._loop.time()
        self._retry = {replica: at for replica, at in self._retry.items() if at > now}
        for replica, one in found.items():
            if replica not in self._links and replica not in self._retry and self._wanted(one, coming):
                await self._open(one)

    def report(self) -> list[dict[str, object]]:
        return [
            {"replica": replica, "state": link.state, "load": link.load, "inflight": link.inflight}
            for replica, link in self._links.items()
        ]

    def _in(self, state: State) -> set[Key]:
        """The versions that have a link in this state."""
        return {self._keys[link] for link in self._links.values() if link.state == state}

    def _wanted(self, one: Announcement, coming: Collection[Key]) -> bool:
        key = (one.model, one.version, one.digest)
        return key in coming or self._plane.batcher(*key) is not None

    async def _open(self, one: Announcement) -> None:
        try:
            async with asyncio.timeout(RECONNECT_S):
                link = await connect(one.socket, lambda link: self._changed(one, link), self._arena)
        except OSError:  # TimeoutError is one
            self._retry[one.replica] = self._loop.time() + RECONNECT_S
        else:
            self._links[one.replica] = link
            self._keys[link] = (one.model, one.version, one.digest)

    def _changed(self, one: Announcement, link: Link) -> None:
        if link.state == "ready":
            self._attach(link)
        if (batcher := self._batchers.get(link)) is not None:
            batcher.changed(link)
        if link.state == "lost":
            self._batchers.pop(link, None)
            self._keys.pop(link, None)
            if self._links.get(one.replica) is link:
                del self._links[one.replica]
                self._retry[one.replica] = self._loop.time() + RECONNECT_S

    def _attach(self, link: Link) -> None:
        hello = link.hello
        if hello is None or link.state == "lost" or link in self._batchers:
            return
        if (batcher := self._plane.batcher(hello.model, hello.version, hello.digest)) is not None:
            self._batchers[link] = batcher
            batcher.attach(link)
