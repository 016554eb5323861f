"""`model.py` of Triton's Python backend: the requests of a batch in one run, as its own ONNX backend does."""

from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton

from loadtests.peers.apps.onnx_session import OnnxSession


class TritonPythonModel:
    """The name is the backend's."""

    def initialize(self, arguments: dict[str, str]) -> None:
        folder = Path(arguments["model_repository"]) / arguments["model_version"]
        self._session = OnnxSession(str(folder / "model.onnx"))

    def execute(self, requests: list[Any]) -> list[Any]:
        inputs = {name: [_input(request, name) for request in requests] for name in self._session.inputs}
        rows = [len(array) for array in inputs[self._session.inputs[0]]]
        outputs = self._session.run({name: _joined(arrays) for name, arrays in inputs.items()})
        ends = np.cumsum(rows)
        return [_response(outputs, end - count, end) for end, count in zip(ends, rows, strict=True)]


def _input(request: Any, name: str) -> np.ndarray:
    array: np.ndarray = triton.get_input_tensor_by_name(request, name).as_numpy()
    return array


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays) if len(arrays) > 1 else arrays[0]


def _response(outputs: dict[str, np.ndarray], start: int, end: int) -> Any:
    return triton.InferenceResponse([triton.Tensor(name, array[start:end]) for name, array in outputs.items()])
