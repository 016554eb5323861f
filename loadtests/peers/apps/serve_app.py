"""A Ray Serve deployment over onnxruntime, in a cluster of its own. ``serve_app --port N NAME=FILE…``."""

import signal
from typing import Any

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from loadtests.peers.apps import tensors
from loadtests.peers.apps.named_models import asked
from loadtests.peers.apps.onnx_session import OnnxSession

OCTETS = "application/octet-stream"
LENGTH = "inference-header-content-length"


@serve.deployment(num_replicas=1, max_ongoing_requests=256, ray_actor_options={"num_cpus": 0.1})
class OnnxModel:
    """One model behind its route."""

    def __init__(self, name: str, path: str) -> None:
        self._name, self._session = name, OnnxSession(path)

    async def __call__(self, request: Request) -> Any:
        if LENGTH not in request.headers:
            outputs = self._session.run(tensors.from_json(await request.json()))
            return Response(tensors.answer(self._name, outputs), media_type="application/json")
        inputs = tensors.from_bytes(await request.body(), int(request.headers[LENGTH]))
        body, length = tensors.to_bytes(self._name, self._session.run(inputs))
        return Response(body, media_type=OCTETS, headers={LENGTH: str(length)})


if __name__ == "__main__":
    started = asked(__doc__)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=2**27, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": started.port})
    for name, path in started.files.items():
        bound = OnnxModel.bind(name, path)  # type: ignore[attr-defined]  # the decorator makes it a deployment
        serve.run(bound, name=name, route_prefix=f"/v2/models/{name}/infer")
    try:
        signal.pause()
    except KeyboardInterrupt:
        serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()
