"""A worker's links to replicas, kept to what is announced and served: all of its own node, and of others its share."""

import asyncio
import logging
import socket
from collections import defaultdict
from collections.abc import Collection, Mapping

from serving import locality
from serving.arena import Arena
from serving.batching import Batcher
from serving.channel import Link, State, connect, connect_far
from serving.config import Config
from serving.dataplane import DataPlane
from serving.discovery import Announcement, Others, announced
from serving.errors import ConfigError, Untrusted
from serving.routing import Key, Table
from serving.trust import Trust, trust

log = logging.getLogger("gaugeway.links")

RECONNECT_S = 0.5
FAR_S = 2.0  # to connect to another node; it takes no longer between machines that are there
PREPARE_S = 1.0


class Links:
    """Keeps one link to every announced replica of what this worker serves, as `locality` chooses."""

    def __init__(self, config: Config, plane: DataPlane, arena: Arena | None = None, slot: int = 0) -> None:
        self._config, self._plane, self._arena = config, plane, arena
        self._gateway = f"{socket.gethostname()}/{config.berth}/{slot}"
        self._others = Others(config.socket_dir)
        self._trust: Trust | None = None
        self._links: dict[str, Link] = {}
        self._keys: dict[Link, Key] = {}
        self._batchers: dict[Link, Batcher] = {}
        self._retry: dict[str, float] = {}
        self._opening: dict[str, tuple[Key, asyncio.Task[None]]] = {}  # to other nodes: nothing waits for these
        self._complained: set[str] = set()
        self._chosen: tuple[object, dict[str, Announcement]] = (None, {})
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
        near, far = announced(self._config.socket_dir), self._others.known()
        found = self._choose(near, far)
        for replica, link in list(self._links.items()):
            one = found.get(replica)
            batcher = self._batchers.get(link)
            left = one is None and not (link.far and replica not in far)  # a list of others may be late: it says itself
            served = self._served(self._keys[link], coming)
            if (left or not served) and not link.inflight and (one is None or batcher is None or batcher.idle):
                link.dismissed = True  # its file is gone, and its goodbye may still be on the way
                self._links.pop(replica).close()
        now = self._loop.time()
        self._retry = {replica: at for replica, at in self._retry.items() if at > now}
        for replica, one in found.items():
            known = replica in self._links or replica in self._retry or replica in self._opening
            if not known and self._served(_key(one), coming):
                await self._open(one, replica in near)

    def report(self) -> list[dict[str, object]]:
        return [
            {"replica": replica, "state": link.state, "load": link.load, "inflight": link.inflight, "far": link.far}
            for replica, link in self._links.items()
        ]

    def close(self) -> None:
        for _, task in self._opening.values():
            task.cancel()

    def _choose(self, near: dict[str, Announcement], far: dict[str, Announcement]) -> dict[str, Announcement]:
        """Those to be linked to; chosen anew only when something was announced or withdrawn."""
        seen = (near.keys(), far)
        if self._chosen[0] == seen:
            return self._chosen[1]
        here, there = _by_version(near), _by_version({name: one for name, one in far.items() if name not in near})
        names = {
            name
            for key in here.keys() | there.keys()
            for name in locality.chosen(self._gateway, here.get(key, ()), there.get(key, ()))
        }
        self._chosen = (seen, {name: one for name, one in {**far, **near}.items() if name in names})
        return self._chosen[1]

    def _in(self, state: State) -> set[Key]:
        """The versions that have a link in this state; one that is being opened is none yet."""
        opening = {key for key, _ in self._opening.values()} if state == "suspect" else set()
        return opening | {self._keys[link] for link in self._links.values() if link.state == state}

    def _served(self, key: Key, coming: Collection[Key]) -> bool:
        return key in coming or self._plane.batcher(*key) is not None

    async def _open(self, one: Announcement, near: bool) -> None:
        if not near:
            self._opening[one.replica] = (_key(one), self._loop.create_task(self._open_far(one)))
            return
        try:
            async with asyncio.timeout(RECONNECT_S):
                link = await connect(one.socket, lambda link: self._changed(one, link), self._arena)
        except OSError:  # TimeoutError is one
            self._retry[one.replica] = self._loop.time() + RECONNECT_S
        else:
            self._opened(one, link)

    async def _open_far(self, one: Announcement) -> None:
        try:
            if self._trust is None:
                self._trust = trust(self._config.channel.secret, self._config.channel.tls)
            async with asyncio.timeout(FAR_S):
                link = await connect_far(one.address, self._trust, lambda link: self._changed(one, link))
        except (OSError, ConfigError, Untrusted) as error:
            if one.replica not in self._complained:
                log.warning(
                    "cannot reach replica %s at %s: %s", one.replica, one.address, error or type(error).__name__
                )
                self._complained.add(one.replica)
            self._retry[one.replica] = self._loop.time() + FAR_S
        else:
            self._complained.discard(one.replica)
            self._opened(one, link)
        finally:
            self._opening.pop(one.replica, None)

    def _opened(self, one: Announcement, link: Link) -> None:
        if link.state != "lost":  # already
            self._links[one.replica] = link
            self._keys[link] = _key(one)
            self._attach(link)

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


def _key(one: Announcement) -> Key:
    return (one.model, one.version, one.digest)


def _by_version(announcements: Mapping[str, Announcement]) -> dict[Key, set[str]]:
    found: defaultdict[Key, set[str]] = defaultdict(set)
    for name, one in announcements.items():
        found[_key(one)].add(name)
    return found
