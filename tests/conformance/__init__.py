"""The Open Inference Protocol v2 over HTTP, as checks R1 to R30 that any server can be put through.

    python -m tests.conformance.models FOLDER                        # the two models it needs, in Triton's layout
    pytest tests/conformance --base-url http://127.0.0.1:8000 -v     # -k r13: one check; --junitxml for a matrix

Without `--base-url` the checks run against the gateway of the test session. The server must serve `conformance` and
`echo` (`--model`, `--echo-model` for other names), each with a version "1":

- Gaugeway: `gaugeway publish` each `FOLDER/<name>/1/model.onnx` under its name as version 1.
- Triton: `tritonserver --model-repository FOLDER`; its ONNX Runtime backend completes the configuration.
- MLServer, KServe: a custom runtime (`mlserver.MLModel`, `kserve.Model`) that passes every tensor to an
  `onnxruntime.InferenceSession` of that file and gives the outputs back.

`test_http.py` asks beneath the protocol, and `test_hostile.py` sends what means harm; what they look for inside the
server, its memory, log and metrics, only the session's own gateway shows.

A failure is a finding, not a verdict: the texts of the protocol contradict one another, and these checks ask for the
superset with which every client works. Extensions are checked where `GET /v2` announces them. Headers that only
Gaugeway has are checked only on Gaugeway.
"""
