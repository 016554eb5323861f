"""Replicas of all cases in one process, without Ray: ``python -m loadtests.growth.replicas SPEC``; SIGTERM ends it."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec
import uvloop

from serving.discovery import Announcement, announce
from serving.engine import Engine
from serving.manifest import Manifest
from serving.protocol import Array


class Replica(msgspec.Struct, frozen=True):
    """What is served below which socket folder."""

    socket_dir: str
    manifest: Manifest


class Sum:
    """y = the sum of a row's features."""

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        return [inputs["x"].sum(axis=1, keepdims=True)]

    def interrupt(self) -> None:
        """It is over before anybody could want that."""


async def serve(replicas: list[Replica]) -> None:
    engines = []
    for number, one in enumerate(replicas):
        of, folder, name = one.manifest, Path(one.socket_dir), f"r{number}"
        engines.append(Engine(of, Sum(), replica=name, max_batch_rows=1024))
        socket = folder / "replicas" / f"{name}.sock"
        await engines[-1].listen(socket)
        announce(folder, Announcement(of.model, of.version, of.digest, name, str(socket), os.getpid()))
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    for engine in engines:
        engine.close()


if __name__ == "__main__":
    uvloop.run(serve(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=list[Replica])))
