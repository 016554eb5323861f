"""A custom runtime of MLServer: onnxruntime instead of one of its own frameworks, with its own codecs."""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from loadtests.peers.apps.onnx_session import OnnxSession


class OnnxModel(MLModel):
    """Reads the file that `parameters.uri` of its settings names."""

    async def load(self) -> bool:
        self._session = OnnxSession(self.settings.parameters.uri)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        outputs = self._session.run({one.name: NumpyCodec.decode_input(one) for one in payload.inputs})
        encoded = [NumpyCodec.encode_output(name, array) for name, array in outputs.items()]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=encoded)
