"""Where the processor time of a small request goes, stage by stage: ``python -m loadtests.stages``.

A gateway worker's parts and a replica's, over their real sockets but in one process, loaded by wrk. A timer that runs
with the processor time of the process looks again and again which line is at work; a stage's share of the looks
is its share of the time. What is not in it: the waking of one process by another, which a request of a lone
connection waits for four times.
"""

import argparse
import asyncio
import os
import resource
import signal
import tempfile
from collections import Counter
from pathlib import Path
from types import FrameType

import uvloop

from loadtests import boosting, wrk
from loadtests.workloads import small
from serving.channel import connect
from serving.config import Config
from serving.dataplane import DataPlane
from serving.engine import Engine
from serving.gateway import Gateway
from serving.handover import listen
from serving.labelling import Desk
from serving.manifest import Feature, Manifest, Prediction
from serving.metrics import Page
from serving.ring import RingWriter
from serving.routing import ModelEntry, Policy, Table, VersionEntry, initial
from serving.runtime import Session
from serving.server import Server

EVERY_S = 0.001  # asked for; the system's own clock may tick only every 4 ms

# The file, or the file and the function, of the innermost line of ours that is at work; the first that fits.
STAGES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("write to the client", ("server._write",)),
    ("write to the channel", ("channel.write",)),
    ("HTTP", ("server", "head", "http", "chunked", "gateway")),
    ("encode the answer", ("response", "compression", "binding.respond")),
    ("parse and check tensors", ("request", "tensors", "nesting", "binding", "quoting")),
    ("route, admit", ("routing", "admission", "dataplane")),
    ("batch", ("batching", "waiting", "deadlines", "retrying")),
    ("frames, both ends", ("channel", "frames", "arena", "engine")),
    ("infer", ("runtime",)),
    ("metrics", ("metrics", "recorder.__call__", "dataplane.answered")),
    ("record for the monitors", ("recorder", "packed", "ring")),
    ("the request's own thread through these", ("inference",)),
)
REST = "event loop: wait, read, wake"


class Looks:
    """How often which stage was found at work."""

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()

    def __enter__(self) -> "Looks":
        signal.signal(signal.SIGPROF, self._look)
        signal.setitimer(signal.ITIMER_PROF, EVERY_S, EVERY_S)
        return self

    def __exit__(self, *error: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)

    def _look(self, number: int, frame: FrameType | None) -> None:
        while frame is not None and f"{os.sep}serving{os.sep}" not in frame.f_code.co_filename:
            frame = frame.f_back
        self.found[stage(Path(frame.f_code.co_filename).stem, frame.f_code.co_name) if frame else REST] += 1


def stage(file: str, function: str) -> str:
    """The stage that a function of a file belongs to.

    >>> stage("binding", "respond"), stage("binding", "bind")
    ('encode the answer', 'parse and check tensors')
    """
    for name, places in STAGES:
        if f"{file}.{function}" in places or file in places:
            return name
    return REST


async def measure(folder: Path, connections: int, seconds: int) -> tuple[Counter[str], float]:
    """Looks by stage, and the processor seconds of a request."""
    workload = small()
    session = Session(workload.model)
    manifest = Manifest(
        model="m",
        version="1",
        files={"model.onnx": "0" * 64},
        signature=session.signature,
        rows_independent=True,
        task="classification",
        prediction=Prediction("probabilities", 1),
        features=tuple(Feature(name, "x", column) for column, name in enumerate(boosting.FEATURES)),
    )
    engine = Engine(manifest, session)
    await engine.listen(folder / "replica")
    page, ring = Page(folder / "page"), RingWriter(folder / "ring", 2**24)
    config, desk = Config(), Desk(folder / "none")
    plane = DataPlane(config.gateway, page, ring)
    plane.install(Table(1, {"m": ModelEntry(Policy("m", initial({"1": 1.0}), ("1",)), {"1": VersionEntry(manifest)})}))
    batcher = plane.model("m").version("1").batcher
    batcher.attach(await connect(folder / "replica", batcher.changed))
    gateway = Gateway(config, plane, desk)
    server, sock = Server(gateway), listen("127.0.0.1", 0)
    await server.listen(sock)
    url = f"http://127.0.0.1:{sock.getsockname()[1]}/v2/models/m/infer"
    (folder / "body").write_bytes(workload.body)
    (folder / "lua").write_text(wrk.script(folder / "body", workload.headers))
    await asyncio.to_thread(wrk.drive, url, folder / "lua", connections, 1)
    before = _cpu_s()
    with Looks() as looks:
        run = await asyncio.to_thread(wrk.drive, url, folder / "lua", connections, seconds)
    spent_s = _cpu_s() - before
    await server.drain(5)
    engine.close()
    if run.failed:
        raise RuntimeError(f"{run.failed} requests failed")
    return looks.found, spent_s / run.requests


def table(found: Counter[str], request_s: float) -> str:
    """Markdown, the largest stage first."""
    looks = found.total()
    lines = [
        f"| {name} | {100 * n / looks:.0f} % | {1e6 * request_s * n / looks:.1f} |" for name, n in found.most_common()
    ]
    return "\n".join(
        [
            "| stage | share | µs a request |",
            "|---|---|---|",
            *lines,
            f"| in all | {looks} looks | {1e6 * request_s:.1f} |",
        ]
    )


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, epilog="Example: python -m loadtests.stages --connections 32")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--seconds", type=int, default=10, help="of load for each number of connections")
    arguments = parser.parse_args()
    for connections in arguments.connections:
        with tempfile.TemporaryDirectory() as folder:
            found, request_s = uvloop.run(measure(Path(folder), connections, arguments.seconds))
        print(f"\n{connections} connection{'s' * (connections > 1)}\n\n{table(found, request_s)}")


if __name__ == "__main__":
    main()
