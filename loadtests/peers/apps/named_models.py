"""The command line of our applications: `--port N NAME=FILE…`."""

import argparse
from dataclasses import dataclass

from loadtests.peers.apps.onnx_session import OnnxSession


@dataclass(frozen=True)
class Asked:
    """What an application was started with."""

    port: int
    files: dict[str, str]
    """Of the models, by name."""

    def sessions(self) -> dict[str, OnnxSession]:
        return {name: OnnxSession(path) for name, path in self.files.items()}


def asked(description: str | None) -> Asked:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("models", nargs="+", metavar="NAME=FILE")
    arguments = parser.parse_args()
    return Asked(arguments.port, dict(one.split("=", 1) for one in arguments.models))
