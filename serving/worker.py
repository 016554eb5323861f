"""The process of a gateway worker: ``python -m serving.worker CONFIG.json --slot 0``.

It needs neither Ray nor a database: the routing table and the replicas of its node are files, looked at every
`POLL_S`; with the control plane gone it goes on with the last ones. SIGTERM: open requests are answered, then it ends.
"""

import argparse
import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from pathlib import Path

import msgspec
import uvloop

from serving import sleepers
from serving.arena import Arena
from serving.config import Config, restore
from serving.dataplane import DataPlane
from serving.gateway import Gateway
from serving.labelling import Desk
from serving.links import Links
from serving.metrics import Page
from serving.ring import RingWriter
from serving.routing import Table
from serving.server import Limits, Server
from serving.tls import server_context

log = logging.getLogger("gaugeway.worker")

POLL_S = 0.1
DRAIN_S = 30.0


class TableFile:
    """The routing table that the control plane leaves on disk; it replaces the file, never writes into it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, ...] = ()

    def read(self) -> Table | None:
        """A table that was not read before. What cannot be read is said once."""
        try:
            stat = self._path.stat()
            stamp = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if stamp == self._seen:
                return None
            self._seen = stamp
            return msgspec.json.decode(self._path.read_bytes(), type=Table)
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            log.error("%s is no routing table, the last one stays: %s", self._path, error)
            return None


async def follow(config: Config, plane: DataPlane, slot: int, arena: Arena | None = None) -> None:
    """Install every new table, link to every new replica, report, for ever."""
    file, links, said = TableFile(config.run_dir / "table.json"), Links(config.socket_dir, plane, arena), ""
    while True:
        try:
            if (table := file.read()) is not None:
                await links.prepare(table)
                plane.install(table)
                links.attach()
            await links.refresh()
            sleepers.tell(config.run_dir, plane.asleep())
            _report(config.run_dir / "workers" / f"worker-{slot}.json", slot, plane.table.generation, links)
        except Exception as error:  # the edge of the control plane: whatever it wrote, serving goes on
            if repr(error) != said:
                log.exception("cannot follow the control plane; the last table stays")
                said = repr(error)
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
    arena = Arena(config.gateway.shared_memory_bytes)
    following = asyncio.create_task(follow(config, plane, slot, arena))
    gateway = Gateway(config, plane, desk)
    limits = Limits(max_body_bytes=config.gateway.max_body_bytes)
    server = Server(gateway, limits, gateway.refused, arena.take)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    gc.collect()
    gc.freeze()  # what was imported is never garbage; a full collection among it costs milliseconds
    gc.set_threshold(50_000, 20, 100)
    try:
        await server.listen(listen(config.gateway.host, config.gateway.port), server_context(config.gateway.tls))
        await stop.wait()
        await server.drain(DRAIN_S)
    finally:
        following.cancel()
        await desk.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--slot", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until the server listens to it
    config = restore(arguments.config.read_bytes())
    uvloop.run(serve(config, arguments.slot))


if __name__ == "__main__":
    main()
