"""What clients get is what ONNX Runtime gives, to the bit."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from serving.protocol import Array
from tests.conformance.models import conformance
from tests.gateway import Gateway
from tests.integration.calls import body

pytestmark = pytest.mark.xdist_group("one gateway")

ROWS = (1, 2, 7, 256, 257, 1000)
TRITON = """
import sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import tritonclient.http as triton

url, source, target = sys.argv[1:]
sent = dict(np.load(source))

def ask(i):
    client = triton.InferenceServerClient(url.removeprefix("http://"))
    answers = {}
    for name, rows in sent.items():
        x = triton.InferInput("x", list(rows.shape), "FP32")
        x.set_data_from_numpy(rows)
        answers[f"{name} {i}"] = client.infer("conformance", [x]).as_numpy("probabilities")
    return answers

answers = {}
with ThreadPoolExecutor(8) as pool:  # a client of gevent belongs to its thread
    for some in pool.map(ask, range(8)):
        answers |= some
np.savez(target, **answers)
"""


@pytest.fixture(scope="module")
def rows() -> dict[int, Array]:
    rng = np.random.default_rng(7)
    return {n: rng.normal(size=(n, 4)).astype(np.float32) for n in ROWS}


@pytest.fixture(scope="module")
def truth(rows: dict[int, Array]) -> dict[int, list[Array]]:
    """Label and probabilities by ONNX Runtime itself, with one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(conformance(), options, providers=["CPUExecutionProvider"])
    return {n: session.run(["label", "probabilities"], {"x": x}) for n, x in rows.items()}


@pytest.mark.parametrize("n", ROWS)
def test_curl(gateway: Gateway, rows: dict[int, Array], truth: dict[int, list[Array]], n: int, tmp_path: Path) -> None:
    request = tmp_path / "request.json"
    request.write_text(json.dumps(body(rows[n])))
    command = ["curl", "-sS", "-H", "content-type: application/json", "-d", f"@{request}"]
    done = subprocess.run([*command, f"{gateway.url}/v2/models/conformance/infer"], capture_output=True, check=True)
    outputs = {output["name"]: output for output in json.loads(done.stdout)["outputs"]}
    assert outputs["label"]["data"] == truth[n][0].tolist()
    got = np.array(outputs["probabilities"]["data"], np.float32).reshape(outputs["probabilities"]["shape"])
    assert got.tobytes() == truth[n][1].tobytes()


def test_curl_at_once(gateway: Gateway, rows: dict[int, Array], truth: dict[int, list[Array]], tmp_path: Path) -> None:
    def ask(i: int) -> None:
        folder = tmp_path / str(i)
        folder.mkdir()
        test_curl(gateway, rows, truth, ROWS[i % len(ROWS)], folder)

    with ThreadPoolExecutor(12) as pool:
        assert len(list(pool.map(ask, range(48)))) == 48


def test_tritonclient_as_it_comes(
    gateway: Gateway, rows: dict[int, Array], truth: dict[int, list[Array]], tmp_path: Path
) -> None:
    sent: dict[str, Any] = {str(n): x for n, x in rows.items()}
    np.savez(tmp_path / "rows.npz", **sent)
    files = [str(tmp_path / "rows.npz"), str(tmp_path / "answers.npz")]
    command = [sys.executable, "-c", TRITON, gateway.url, *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    answers = np.load(tmp_path / "answers.npz")
    assert len(answers.files) == 8 * len(ROWS)
    for name in answers.files:
        assert answers[name].tobytes() == truth[int(name.split()[0])][1].tobytes(), name
