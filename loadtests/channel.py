"""The direct channel alone: what a call costs between a gateway's link and a replica's engine.

``python -m loadtests.channel``. A row of 16 floats through a small model, and an image of 588 KiB through one that
only looks at each number once, with and without shared memory. The gateway's time holds one copy of the image, which
stands for that from the client's socket.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import uvloop
from onnx import TensorProto, helper

from loadtests import boosting
from serving import frames
from serving.arena import Arena
from serving.channel import Call, Link, Outcome, Result, connect
from serving.engine import Engine
from serving.frames import Layouts
from serving.manifest import Manifest
from serving.protocol import Array, TensorSpec
from serving.runtime import Session

SHAPE = (1, 3, 224, 224)
CALLS = {"row": 10_000, "image": 1_000}
ARENA_BYTES = 2**28


def largest() -> bytes:
    """`x` FP32 [N, 3, 224, 224] -> `y` FP32 [N, 3], the largest number of each channel."""
    node = helper.make_node("ReduceMax", ["x"], ["y"], axes=[2, 3], keepdims=0)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *SHAPE[1:]])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", SHAPE[1]])
    graph = helper.make_graph([node], "largest", [x], [y])
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()
    )


async def replica(model: bytes, path: Path) -> None:
    session = Session(model)
    session.warm()
    manifest = Manifest(model="m", version="1", files={"model.onnx": ""}, signature=session.signature,
                        rows_independent=True)  # fmt: skip
    await Engine(manifest, session, expected_s=1e-5).listen(path)
    await asyncio.Event().wait()


class Client:
    """Keeps a number of calls open on a link until enough are answered."""

    def __init__(self, link: Link, tensor: Array, take: Callable[[int], memoryview | None]) -> None:
        self._link, self._tensor, self._take = link, tensor, take
        self._layouts, self._loop = Layouts(), asyncio.get_running_loop()
        self._spec = TensorSpec("x", "FP32", tensor.shape)
        self._left = 0
        self.seconds: list[float] = []

    async def calls(self, count: int, open: int) -> None:
        self._left, self.seconds = count - open, []
        for _ in range(open):
            self._send()
        while len(self.seconds) < count:
            await asyncio.sleep(0.01)

    def _send(self) -> None:
        tensor = self._tensor
        if tensor.nbytes > 2**16:
            room = self._take(tensor.nbytes) or np.empty(tensor.nbytes, np.uint8).data
            tensor = np.frombuffer(room, tensor.dtype).reshape(tensor.shape)
            tensor[:] = self._tensor
        body = frames.to_bytes("FP32", tensor)
        meta = self._layouts.encode([self._spec], (tensor.shape,), (len(body),))
        began = time.perf_counter()

        def done(link: Link, outcome: Outcome) -> None:
            assert isinstance(outcome, Result), outcome
            self.seconds.append(time.perf_counter() - began)
            if self._left:
                self._left -= 1
                self._send()

        self._link.send(Call(meta, [body], 1, self._loop.time() + 30, done))


async def measure(kind: str, path: Path, process: int, shared_bytes: int) -> None:
    arena = Arena(shared_bytes)
    link = await connect(path, lambda link: None, arena)
    while link.state != "ready":
        await asyncio.sleep(0.01)
    tensor = np.random.default_rng(0).random((1, 16) if kind == "row" else SHAPE, np.float32)
    client = Client(link, tensor, arena.take)
    for open in (1, 32) if kind == "row" else (1, 8):
        await client.calls(CALLS[kind] // 10, open)  # warm
        before_s, began = (busy_s(os.getpid()), busy_s(process)), time.perf_counter()
        await client.calls(CALLS[kind], open)
        rate = CALLS[kind] / (time.perf_counter() - began)
        gateway_us, replica_us = (
            (busy_s(pid) - before) / CALLS[kind] * 1e6
            for pid, before in zip((os.getpid(), process), before_s, strict=True)
        )
        median_us = np.median(client.seconds) * 1e6
        print(
            f"| {kind} | {'shared memory' if shared_bytes else 'socket'} | {open} | {median_us:.0f}"
            f" | {gateway_us:.1f} | {replica_us:.1f} | {rate:,.0f} |"
        )
    link.close()


def busy_s(pid: int) -> float:
    """Processor seconds of a process, to the nanosecond."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replica", nargs=2, metavar=("MODEL", "SOCKET"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.replica:
        model, socket = map(Path, arguments.replica)
        uvloop.run(replica(model.read_bytes(), socket))
        return
    print("| call | tensors through | open | p50, µs | gateway, µs of CPU | replica, µs of CPU | calls/s |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for kind, shared_bytes in (("row", 0), ("image", 0), ("image", ARENA_BYTES)):
            _measured(kind, Path(folder) / f"{kind}-{shared_bytes}", shared_bytes)


def _measured(kind: str, folder: Path, shared_bytes: int) -> None:
    folder.mkdir()
    model, socket = folder / "model.onnx", folder / "socket"
    model.write_bytes(boosting.model(boosting.rows()) if kind == "row" else largest())
    process = subprocess.Popen([sys.executable, "-m", "loadtests.channel", "--replica", str(model), str(socket)])
    try:
        end = time.monotonic() + 20
        while not socket.is_socket():
            assert process.poll() is None and time.monotonic() < end, "the replica did not start"
            time.sleep(0.05)
        uvloop.run(measure(kind, socket, process.pid, shared_bytes))
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
