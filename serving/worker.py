"""The process of a gateway worker: ``python -m serving.worker CONFIG.json --slot 0``.

It needs neither Ray nor a database: the routing table and the replicas of its node are files, looked at every
`POLL_S`; with the control plane gone it goes on with the last ones. SIGTERM: open requests are answered, then it ends.
"""

import argparse
import asyncio
import gc
import logging
import os
import socket
from pathlib import Path

import msgspec
import uvicorn
import uvloop

from serving.channel import Link, connect
from serving.config import Config, restore
from serving.dataplane import DataPlane
from serving.discovery import Announcement, announced
from serving.gateway import Gateway
from serving.labelling import Desk
from serving.metrics import Page
from serving.record import RingWriter
from serving.routing import Table

log = logging.getLogger("gaugeway.worker")

POLL_S, RECONNECT_S = 0.1, 0.5


class Links:
    """Keeps one link to every announced replica of what this worker serves."""

    def __init__(self, socket_dir: Path, plane: DataPlane) -> None:
        self._socket_dir, self._plane = socket_dir, plane
        self._links: dict[str, Link] = {}
        self._retry: dict[str, float] = {}
        self._loop = asyncio.get_running_loop()

    async def refresh(self) -> None:
        found = announced(self._socket_dir)
        for replica in self._links.keys() - found.keys():
            if not self._links[replica].inflight:
                self._links.pop(replica).close()
        now = self._loop.time()
        for replica, one in found.items():
            if replica not in self._links and self._retry.get(replica, 0.0) <= now and self._wanted(one):
                await self._open(one)

    def report(self) -> list[dict[str, object]]:
        return [{"replica": replica, "state": link.state, "load": link.load, "inflight": link.inflight}
                for replica, link in self._links.items()]  # fmt: skip

    def _wanted(self, one: Announcement) -> bool:
        return self._plane.batcher(one.model, one.version, one.digest) is not None

    async def _open(self, one: Announcement) -> None:
        try:
            link = await connect(one.socket, lambda link: self._changed(one, link))
        except OSError:
            self._retry[one.replica] = self._loop.time() + RECONNECT_S
        else:
            self._links[one.replica] = link

    def _changed(self, one: Announcement, link: Link) -> None:
        batcher = self._plane.batcher(one.model, one.version, one.digest)
        if batcher is not None:
            if link.state == "ready" and link not in batcher.links and link.hello and link.hello.digest == one.digest:
                batcher.attach(link)
            batcher.changed(link)
        if link.state == "lost" and self._links.get(one.replica) is link:
            del self._links[one.replica]
            self._retry[one.replica] = self._loop.time() + RECONNECT_S


async def follow(config: Config, plane: DataPlane, slot: int) -> None:
    """Install every new table, link to every new replica, report, for ever."""
    path, seen = config.run_dir / "table.json", 0
    links = Links(config.socket_dir, plane)
    while True:
        try:
            stamp = path.stat().st_mtime_ns if path.exists() else 0
            if stamp != seen:
                plane.install(msgspec.json.decode(path.read_bytes(), type=Table))
                seen = stamp
            await links.refresh()
            _report(config.run_dir / "workers" / f"worker-{slot}.json", slot, plane.table.generation, links)
        except Exception:  # the edge of the control plane: whatever it wrote, serving goes on
            log.exception("cannot follow the control plane; the last table stays")
        await asyncio.sleep(POLL_S)


def _report(path: Path, slot: int, generation: int, links: Links) -> None:
    """What the node's status says of this worker."""
    report = {"slot": slot, "pid": os.getpid(), "generation": generation, "links": links.report()}
    path.parent.mkdir(exist_ok=True)
    staged = path.with_suffix(".new")
    staged.write_bytes(msgspec.json.encode(report))
    staged.rename(path)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket whose port other workers of this gateway share."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((host, port))
    sock.listen(1024)
    sock.setblocking(False)
    return sock


async def serve(config: Config, slot: int) -> None:
    page = Page(config.run_dir / "metrics" / f"worker-{slot}.page")
    ring_path = config.run_dir / "rings" / f"worker-{slot}.ring"
    ring = RingWriter(ring_path, config.monitors.ring_bytes) if config.monitors.enabled else None
    desk = Desk(config.socket_dir / "monitors.sock")
    plane = DataPlane(config.gateway, page, ring)
    following = asyncio.create_task(follow(config, plane, slot))
    server = uvicorn.Server(uvicorn.Config(
        Gateway(config, plane, desk), http="httptools", ws="none", lifespan="off", access_log=False, log_config=None,
        proxy_headers=False, server_header=False, date_header=False, timeout_keep_alive=75, timeout_graceful_shutdown=30,
    ))  # fmt: skip
    gc.collect()
    gc.freeze()  # what was imported is never garbage; a full collection among it costs milliseconds
    gc.set_threshold(50_000, 20, 100)
    try:
        await server.serve([listen(config.gateway.host, config.gateway.port)])
    finally:
        following.cancel()
        await desk.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--slot", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    config = restore(arguments.config.read_bytes())
    uvloop.run(serve(config, arguments.slot))


if __name__ == "__main__":
    main()
