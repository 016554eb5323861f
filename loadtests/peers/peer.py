"""What a peer is to the benchmark: where its packages are listed, and how it is started for some workloads."""

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.workloads import Workload

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent


@dataclass(frozen=True)
class Place:
    """Where a peer is to run: a folder of its own, its environment's interpreter, the port it must answer on."""

    folder: Path
    python: Path
    port: int
    workloads: tuple[Workload, ...]

    def model(self, workload: Workload) -> Path:
        """The file of its ONNX model, written here."""
        path = self.folder / f"{workload.name}.onnx"
        path.write_bytes(workload.model)
        return path

    def models(self) -> list[str]:
        """`NAME=FILE` of every workload, as our applications take them."""
        return [f"{one.name}={self.model(one)}" for one in self.workloads]


@dataclass(frozen=True)
class Launch:
    """A process to start. `path` is where a model of some name is asked."""

    command: list[str]
    variables: Mapping[str, str] = field(default_factory=dict)
    path: str = "/v2/models/{model}/infer"


def _unchanged(workload: Workload) -> Workload:
    return workload


@dataclass(frozen=True)
class Peer:
    """One server with one worker."""

    said: str
    """What it is and how it was set up, for the page."""
    prepare: Callable[[Place], Launch]
    packages: tuple[str, ...]
    """Distributions whose versions the page names."""
    requirements: str | None = None
    """The list in this folder that its environment is made from; None: Gaugeway's own environment."""
    lacks: Mapping[str, str] = field(default_factory=dict)
    """Workloads that it cannot serve, and why not."""
    reworded: Callable[[Workload], Workload] = _unchanged
    """The request as it must be put to this peer, where its model names or types the inputs otherwise."""
    outputs: Mapping[str, str] = field(default_factory=dict)
    """Its names of outputs, by the model's."""


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports
