"""KServe's Python server with one model class over onnxruntime. ``kserve_server --port N NAME=FILE…``."""

from typing import Any

import kserve
from kserve.utils.utils import get_predict_response

from loadtests.peers.apps.named_models import asked
from loadtests.peers.apps.onnx_session import OnnxSession


class OnnxModel(kserve.Model):
    """As its documentation writes custom models."""

    def __init__(self, name: str, session: OnnxSession) -> None:
        super().__init__(name)
        self._session = session
        self.ready = True

    def predict(self, payload: kserve.InferRequest, headers: Any = None, response_headers: Any = None) -> Any:
        outputs = self._session.run({one.name: one.as_numpy() for one in payload.inputs})
        return get_predict_response(payload, outputs, self.name)


if __name__ == "__main__":
    started = asked(__doc__)
    server = kserve.ModelServer(http_port=started.port, workers=1, enable_grpc=False)
    server.start([OnnxModel(name, session) for name, session in started.sessions().items()])
