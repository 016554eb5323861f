"""An independent client: tritonclient, in a process of its own, since it brings gevent along."""

import subprocess
import sys

import pytest

from tests.conformance.client import Server

SCRIPT = """
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


def test_tritonclient(server: Server) -> None:
    pytest.importorskip("tritonclient")
    command = [sys.executable, "-c", SCRIPT, str(server.http.base_url).rstrip("/"), server.model]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout == "done\n", done.stderr
