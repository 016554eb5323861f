"""A BentoML service over onnxruntime; the models stand in the environment as `NAME=FILE NAME=FILE`."""

import os
from typing import Any

import bentoml

from loadtests.peers.apps import tensors
from loadtests.peers.apps.onnx_session import OnnxSession

MODELS = "BENCH_MODELS"


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Models:
    """One route a model; BentoML reads the routes and the shape of the body from the methods."""

    def __init__(self) -> None:
        files = dict(one.split("=", 1) for one in os.environ[MODELS].split())
        self._sessions = {name: OnnxSession(path) for name, path in files.items()}

    @bentoml.api(route="/boosting")
    def boosting(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        return self._answer("boosting", inputs)

    @bentoml.api(route="/text")
    def text(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        return self._answer("text", inputs)

    def _answer(self, name: str, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        document = tensors.to_json(name, self._sessions[name].run(tensors.from_json({"inputs": inputs})))
        return document | {"outputs": [one | {"data": one["data"].tolist()} for one in document["outputs"]]}
