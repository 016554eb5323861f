"""Independent clients, each in a process of its own: tritonclient brings gevent along, and generated modules clash.

Those that are not installed are skipped: `pip install kserve open-inference-openapi pydantic-open-inference`.
"""

import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.conformance.client import Server

TRITON = """
import sys
import numpy as np
import tritonclient.http as triton

url, model = sys.argv[1:]
client = triton.InferenceServerClient(url.removeprefix("http://"))
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(model)
assert client.is_model_ready(model, "1") and not client.is_model_ready("no-such-model")
assert client.get_model_metadata(model)["inputs"][0]["shape"] == [-1, 4]
assert "extensions" in client.get_server_metadata()
rows = np.array([[1, 2, 3, 4], [-0.5, 0.5, -0.25, 0.25]], np.float32)
answers = []
for binary in (True, False):
    for compression in (None, "gzip", "deflate"):
        x = triton.InferInput("x", [2, 4], "FP32")
        x.set_data_from_numpy(rows, binary_data=binary)
        names = ["probabilities", "label"]
        outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in names]
        for wanted in (None, outputs):
            answer = client.infer(
                model, [x], outputs=wanted, request_id="r1",
                request_compression_algorithm=compression, response_compression_algorithm=compression,
            )
            assert answer.get_response()["id"] == "r1"
            assert answer.as_numpy("label").tolist() == [1, 0]
            answers.append(answer.as_numpy("probabilities"))
assert all(np.array_equal(answer, answers[0]) for answer in answers) and answers[0].shape == (2, 2)
try:
    client.infer(model, [triton.InferInput("y", [2, 4], "FP32").set_data_from_numpy(rows)])
except triton.InferenceServerException as error:
    assert error.status() == "400" and "x" in error.message(), error
else:
    raise AssertionError("an unknown input was taken")
print("done")
"""

KSERVE = """
import asyncio
import sys
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

url, model = sys.argv[1:]

async def main():
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
    assert await client.is_server_live(url) and await client.is_server_ready(url)
    assert await client.is_model_ready(url, model)
    for binary in (False, True):
        x = InferInput("x", [2, 4], "FP32")
        x.set_data_from_numpy(np.array([[1, 2, 3, 4], [-0.5, 0.5, -0.25, 0.25]], np.float32), binary_data=binary)
        wanted = [RequestedOutput("probabilities"), RequestedOutput("label")]
        request = InferRequest(model, [x], request_id="r1", request_outputs=wanted)
        answer = await client.infer(url, request, model_name=model)
        assert answer.id == "r1" and [output.name for output in answer.outputs] == ["probabilities", "label"]
        assert answer.outputs[1].as_numpy().tolist() == [1, 0] and answer.outputs[0].as_numpy().shape == (2, 2)
    try:
        await client.infer(url, request, model_name="no-such-model")
    except Exception as error:
        assert error.response.status_code == 404 and "no-such-model" in str(error), error
    else:
        raise AssertionError("an unknown model answered")

asyncio.run(main())
print("done")
"""

OPEN_INFERENCE = """
import sys
from open_inference.openapi.client import OpenInferenceClient
from open_inference.openapi.types import InferenceRequest, RequestInput, RequestOutput, TensorData

url, model = sys.argv[1:]
client = OpenInferenceClient(base_url=url)
client.check_server_liveness(), client.check_server_readiness(), client.check_model_readiness(model)
assert client.read_model_metadata(model).inputs[0].shape == [-1, 4] and client.read_server_metadata().name
x = RequestInput(name="x", shape=[1, 4], datatype="FP32", data=TensorData(__root__=[1.0, 2.0, 3.0, 4.0]))
for outputs in (None, [RequestOutput(name="label")]):
    answer = client.model_infer(model, request=InferenceRequest(inputs=[x], outputs=outputs))
    assert answer.outputs[0].name == "label" and answer.outputs[0].shape == [1]
print("done")
"""

PYDANTIC = """
import sys
from pydantic_open_inference import InputsBaseModel, OutputsBaseModel, RemoteModel

class Inputs(InputsBaseModel):
    x: list[list[float]]

class Outputs(OutputsBaseModel):
    label: list[int]
    probabilities: list[list[float]]

url, model = sys.argv[1:]
remote = RemoteModel(model_name=model, inputs_model=Inputs, outputs_model=Outputs, server_url=url)
assert remote.is_ready()
answer = remote.infer(Inputs(x=[[1, 2, 3, 4], [-0.5, 0.5, -0.25, 0.25]]))
assert answer.label == [1, 0] and len(answer.probabilities) == 2
print("done")
"""

CLIENTS = {
    "tritonclient": TRITON,
    "kserve": KSERVE,
    "open_inference": OPEN_INFERENCE,
    "pydantic_open_inference": PYDANTIC,
}


@pytest.mark.parametrize("package", list(CLIENTS))
def test_independent_clients(server: Server, package: str) -> None:
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    command = [sys.executable, "-c", CLIENTS[package], str(server.http.base_url).rstrip("/"), server.model]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and done.stdout == "done\n", done.stderr
