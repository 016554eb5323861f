"""LitServe with one model over onnxruntime. ``litserve_app --port N NAME=FILE``."""

from typing import Any, cast

import litserve
from starlette.requests import Request
from starlette.responses import Response

from loadtests.peers.apps import tensors
from loadtests.peers.apps.named_models import asked
from loadtests.peers.apps.onnx_session import OnnxSession


class OnnxModel(litserve.LitAPI):
    """One of the models; LitServe has one route an API."""

    def __init__(self, name: str, path: str, **options: Any) -> None:
        super().__init__(**options)
        self._name, self._path = name, path

    def setup(self, device: str) -> None:
        self._session = OnnxSession(self._path)

    def decode_request(self, request: Request) -> Any:
        """LitServe reads the annotation, and hands over what it has parsed."""
        return tensors.from_json(cast(dict[str, Any], request))

    def predict(self, inputs: Any) -> Any:
        return self._session.run(inputs)

    def encode_response(self, outputs: Any) -> Any:
        return Response(tensors.answer(self._name, outputs), media_type="application/json")


if __name__ == "__main__":
    started = asked(__doc__)
    apis = [OnnxModel(name, path, api_path=f"/v2/models/{name}/infer") for name, path in started.files.items()]
    server = litserve.LitServer(apis, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=started.port, num_api_servers=1, log_level="warning", generate_client_file=False)
