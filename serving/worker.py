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
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import uvloop

from serving import sleepers
from serving.arena import Arena
from serving.berth import end_with_node
from serving.config import Config, restore
from serving.dataplane import DataPlane
from serving.discovery import prepare
from serving.excerpt import hashing_key
from serving.gateway import Gateway, streams
from serving.handover import Offer, inherited, listen
from serving.labelling import Desk
from serving.limits import Limits
from serving.links import Links
from serving.metrics import Page
from serving.ring import RingWriter
from serving.routing import Table
from serving.server import Server
from serving.tls import server_context

log = logging.getLogger("gaugeway.worker")

POLL_S = 0.1
DRAIN_S = 30.0
FOLLOW_S = 5.0


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


@dataclass
class Report:
    """What this worker says of itself to the node: which start it is, what it follows, whether it answers."""

    folder: Path
    slot: int
    revision: int = 0
    listening: bool = False
    followed: asyncio.Event = field(default_factory=asyncio.Event)  # the control plane was looked at once

    def write(self, generation: int, links: Links) -> None:
        report = {
            "slot": self.slot,
            "pid": os.getpid(),
            "revision": self.revision,
            "listening": self.listening,
            "generation": generation,
            "links": links.report(),
        }
        path = self.folder / f"worker-{self.slot}.json"
        path.parent.mkdir(exist_ok=True)
        staged = path.with_suffix(".new")
        staged.write_bytes(msgspec.json.encode(report))
        staged.rename(path)


async def follow(config: Config, plane: DataPlane, report: Report, arena: Arena | None = None) -> None:
    """Install every new table, link to every new replica, report, for ever."""
    file, links, said = TableFile(config.run_dir / "table.json"), Links(config, plane, arena, report.slot), ""
    while True:
        try:
            if (table := file.read()) is not None:
                await links.prepare(table)
                plane.install(table)
                links.attach()
            await links.refresh()
            sleepers.tell(config.run_dir, plane.asleep())
            report.write(plane.table.generation, links)
        except Exception as error:  # the edge of the control plane: whatever it wrote, serving goes on
            if repr(error) != said:
                log.exception("cannot follow the control plane; the last table stays")
                said = repr(error)
        report.followed.set()
        await asyncio.sleep(POLL_S)


async def serve(config: Config, slot: int, revision: int = 0, descriptor: int = -1) -> None:
    """Until SIGTERM. It listens on what it inherited as `descriptor`, else on a socket of its own."""
    page = Page(config.run_dir / "metrics" / f"worker-{slot}.page")
    ring_path = config.run_dir / "rings" / f"worker-{slot}.ring"
    ring = RingWriter(ring_path, config.monitors.ring_bytes) if config.monitors.enabled else None
    desk = Desk(config.socket_dir / "monitors.sock")
    plane = DataPlane(config.gateway, page, ring, hashing_key(config.channel.secret))
    arena = Arena(config.gateway.shared_memory_bytes)
    report = Report(config.run_dir / "workers", slot, revision)
    following = asyncio.create_task(follow(config, plane, report, arena))
    gateway = Gateway(config, plane, desk)
    limits = Limits(max_body_bytes=config.gateway.max_body_bytes)
    server = Server(gateway, limits, gateway.refused, arena.take, streams)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    gc.collect()
    gc.freeze()  # what was imported is never garbage; a full collection among it costs milliseconds
    gc.set_threshold(50_000, 20, 100)
    end_with_node(config, lambda lost: setattr(plane, "orphaned", lost))
    sock = inherited(descriptor) if descriptor >= 0 else listen(config.gateway.host, config.gateway.port)
    prepare(config.socket_dir)
    try:
        with suppress(TimeoutError):  # whoever is accepted finds the table, and links to replicas
            await asyncio.wait_for(report.followed.wait(), FOLLOW_S)
        await server.listen(sock.dup(), server_context(config.gateway.tls))
        offer = Offer(sock, config.socket_dir / f"worker-{slot}.door")
        report.listening = True
        await stop.wait()
        offer.close()
        await server.drain(DRAIN_S)
    finally:
        plane.close()
        following.cancel()
        await desk.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--slot", type=int, default=0)
    parser.add_argument("--revision", type=int, default=0, help="of the configuration, as the node counts")
    parser.add_argument("--listen", type=int, default=-1, help="descriptor of an inherited listening socket")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until the server listens to it
    config = restore(arguments.config.read_bytes())
    uvloop.run(serve(config, arguments.slot, arguments.revision, arguments.listen))


if __name__ == "__main__":
    main()
