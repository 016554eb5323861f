"""Replicas for tests without Ray: a real `Engine` on a real unix socket, in this process or in one of its own.

The model of a process is y = 2 x + offset for `x` FP32 [N, 1]; it takes `run_s`, dies on x = POISON, and writes every
x that it was asked to compute to a file, so that a test can count executions.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import uvloop

from serving.arena import Arena
from serving.batching import Answer, Item
from serving.channel import Link, connect
from serving.discovery import Announcement, announce, prepare
from serving.engine import Engine
from serving.manifest import Manifest, decode
from serving.protocol import Array, Signature, TensorSpec
from serving.trust import Trust

POISON = -666.0
SECRET = "the secret of this cluster, which all of its nodes know"
X, Y = TensorSpec("x", "FP32", (-1, 1)), TensorSpec("y", "FP32", (-1, 1))


class Function:
    """A model that is a function of its first input and takes `run_s`; `calls` are the inputs it was run with."""

    def __init__(self, function: Callable[[Array], Array | list[Array]], run_s: float = 0.0) -> None:
        self._function, self._run_s = function, run_s
        self.calls: list[Array] = []
        self.interrupted = 0

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        (x, *_) = inputs.values()
        self.calls.append(x.copy())
        outputs = self._function(x)
        time.sleep(self._run_s)
        return outputs if isinstance(outputs, list) else [outputs]

    def interrupt(self) -> None:
        self.interrupted += 1


def manifest(
    model: str = "m",
    version: str = "1",
    *,
    independent: bool = True,
    inputs: Sequence[TensorSpec] = (X,),
    outputs: Sequence[TensorSpec] = (Y,),
) -> Manifest:
    signature = Signature(tuple(inputs), tuple(outputs))
    files = {"model.onnx": f"{model} {version}"}
    return Manifest(model=model, version=version, files=files, signature=signature, rows_independent=independent)


def column(*values: float) -> Array:
    """FP32 of shape [N, 1]."""
    return np.array([[value] for value in values], np.float32)


async def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Wait for a condition; fail when it does not come."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come"
        await asyncio.sleep(0.002)


@asynccontextmanager
async def listening(engine: Engine, path: Path) -> AsyncIterator[Engine]:
    await engine.listen(path)
    try:
        yield engine
    finally:
        engine.close()


async def linked(path: Path, changed: Callable[[Link], None] = lambda link: None, arena: Arena | None = None) -> Link:
    """A link that has said hello."""
    link = await connect(path, changed, arena)
    await until(lambda: link.state == "ready")
    return link


class ReplicaProcess:
    """An engine in a process of its own, announced below `folder`, to be killed or stopped.

    With a `host` it listens there for other nodes too, who must know SECRET; `within` is a command that runs it.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        manifest: Manifest,
        *,
        run_s: float = 0.0,
        offset: float = 0.0,
        max_batch_rows: int = 256,
        host: str = "",
        within: Sequence[str] = (),
    ) -> None:
        prepare(folder)
        self.name, self.manifest = name, manifest
        self.socket, self._computed = folder / "replicas" / f"{name}.sock", folder / f"{name}.computed"
        self.announcement = folder / "replicas" / f"{name}.json"
        spec = folder / f"{name}.spec"
        options = {
            "folder": str(folder),
            "name": name,
            "run_s": run_s,
            "offset": offset,
            "max_batch_rows": max_batch_rows,
            "host": host,
        }
        spec.write_text(json.dumps({**options, "manifest": json.loads(manifest.encode())}))
        self._process = subprocess.Popen([*within, sys.executable, "-m", "tests.replicas", str(spec)])
        self.pid = self._process.pid

    def wait_ready(self, timeout_s: float = 20.0) -> None:
        end = time.monotonic() + timeout_s
        while not self.announcement.exists():
            assert self._process.poll() is None and time.monotonic() < end, f"replica {self.name} did not start"
            time.sleep(0.01)

    @property
    def computed(self) -> list[float]:
        """Every x that it was asked for, in order."""
        return [float(line) for line in self._computed.read_text().split()] if self._computed.exists() else []

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, also of a stopped one; returns when it is gone."""
        self._process.kill()
        self._process.wait()


def _main(spec: Mapping[str, object]) -> None:
    manifest = decode(json.dumps(spec["manifest"]).encode())
    folder, name = Path(str(spec["folder"])), str(spec["name"])
    run_s, offset = float(str(spec["run_s"])), float(str(spec["offset"]))
    computed = os.open(folder / f"{name}.computed", os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def run(x: Array) -> Array:
        os.write(computed, "".join(f"{value:g}\n" for value in x[:, 0]).encode())
        if (x == POISON).any():
            os._exit(1)
        return 2 * x + np.float32(offset)

    async def serve() -> None:
        most = int(str(spec["max_batch_rows"]))
        engine = Engine(manifest, Function(run, run_s), replica=name, max_batch_rows=most, expected_s=run_s)
        socket = folder / "replicas" / f"{name}.sock"
        await engine.listen(socket)
        host = str(spec["host"])
        address = f"{host}:{await engine.listen_far(host, Trust(SECRET.encode()), lambda: None)}" if host else ""
        announced = Announcement(
            manifest.model, manifest.version, manifest.digest, name, str(socket), os.getpid(), address=address
        )
        path = announce(folder, announced)
        term = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, term.set)
        await term.wait()
        path.unlink()
        await engine.drain(10)

    uvloop.run(serve())


if __name__ == "__main__":
    _main(json.loads(Path(sys.argv[1]).read_text()))


def future(item: Item) -> "asyncio.Future[Answer]":
    """The promise of an item that a test made with a future."""
    assert isinstance(item.promise, asyncio.Future)
    return item.promise
