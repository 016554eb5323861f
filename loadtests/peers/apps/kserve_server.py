"""KServe's Python server with one model class over onnxruntime. ``kserve_server --port N NAME=FILE…``."""

from typing import Any

import kserve
import numpy as np
from kserve.utils.numpy_codec import from_np_dtype
from kserve.utils.utils import generate_uuid

from loadtests.peers.apps.named_models import asked
from loadtests.peers.apps.onnx_session import OnnxSession


class OnnxModel(kserve.Model):
    """As its documentation writes custom models."""

    def __init__(self, name: str, session: OnnxSession) -> None:
        super().__init__(name)
        self._session = session
        self.ready = True

    def predict(self, payload: kserve.InferRequest, headers: Any = None, response_headers: Any = None) -> Any:
        binary = payload.use_binary_outputs
        found = self._session.run({one.name: one.as_numpy() for one in payload.inputs})
        outputs = [_output(name, array, binary) for name, array in found.items()]
        return kserve.InferResponse(payload.id or generate_uuid(), self.name, outputs, use_binary_outputs=binary)


def _output(name: str, array: np.ndarray, binary: bool) -> Any:
    output = kserve.InferOutput(name, list(array.shape), from_np_dtype(array.dtype))
    output.set_data_from_numpy(array, binary_data=binary)
    return output


if __name__ == "__main__":
    started = asked(__doc__)
    server = kserve.ModelServer(http_port=started.port, workers=1, enable_grpc=False)
    server.start([OnnxModel(name, session) for name, session in started.sessions().items()])
