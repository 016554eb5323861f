"""Triton from the wheel `nvidia-pytriton`, which ships the server's binary and its Python backend.

The wheel's own libraries are found by `LD_LIBRARY_PATH`; the backend wants the stub of the interpreter's version beside
it. The stub ignores `PYTHONPATH`, so `model.py` begins by saying where onnxruntime and our own code are.
"""

import shutil
import subprocess
from pathlib import Path

from loadtests.peers.peer import FOLDER, ROOT, Launch, Peer, Place
from loadtests.workloads import DATATYPES, Workload

ASK = "from sysconfig import *; print(get_path('purelib'), get_config_var('LIBDIR'), get_python_version())"
CONFIG = """
backend: "python"
max_batch_size: 128
dynamic_batching {{}}
instance_group [ {{ kind: KIND_CPU, count: 1 }} ]
input [ {inputs} ]
output [ {outputs} ]
"""
OUTPUTS = {
    "boosting": (("label", "INT64", ()), ("probabilities", "FP32", (2,))),
    "image": (("scores", "FP32", (10,)),),
    "text": (("embedding", "FP32", (384,)),),
}


def prepare(place: Place) -> Launch:
    said = subprocess.run([place.python, "-c", ASK], capture_output=True, text=True, check=True).stdout
    packages, libraries, version = said.split()
    server = Path(packages) / "pytriton" / "tritonserver"
    backends = place.folder / "backends"
    shutil.copytree(server / "backends" / "python", backends / "python")
    shutil.copy(server / "python_backend_stubs" / version / "triton_python_backend_stub", backends / "python")
    repository = place.folder / "repository"
    for workload in place.workloads:
        _write(repository / workload.name, workload, [packages, str(ROOT)])
    command = [str(server / "bin" / "tritonserver"), "--model-repository", str(repository)]
    command += ["--backend-directory", str(backends), "--http-address", "127.0.0.1", "--http-port", str(place.port)]
    command += ["--allow-grpc=false", "--allow-metrics=false", "--log-info=false"]
    return Launch(command, {"LD_LIBRARY_PATH": f"{packages}/nvidia_pytriton.libs:{libraries}"})


def _write(folder: Path, workload: Workload, path: list[str]) -> None:
    """The model's folder in the repository, with one version."""
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").write_bytes(workload.model)
    code = (FOLDER / "apps" / "triton_model.py").read_text()
    (folder / "1" / "model.py").write_text(f"import sys\n\nsys.path[:0] = {path!r}\n{code}")
    inputs = [_tensor(n, DATATYPES[array.dtype.name], array.shape[1:]) for n, array in workload.inputs.items()]
    outputs = [_tensor(*one) for one in OUTPUTS[workload.name]]
    (folder / "config.pbtxt").write_text(CONFIG.format(inputs=", ".join(inputs), outputs=", ".join(outputs)))


def _tensor(name: str, datatype: str, shape: tuple[int, ...]) -> str:
    """Without the rows, which `max_batch_size` puts before; a tensor of one number a row is shaped [N] in the model."""
    dims = ", ".join(map(str, shape)) or "1"
    reshape = "" if shape else " reshape { shape: [ ] }"
    return f'{{ name: "{name}" data_type: TYPE_{datatype} dims: [ {dims} ]{reshape} }}'


TRITON = Peer(
    said="`tritonserver` of the wheel `nvidia-pytriton`, Python backend over onnxruntime, one instance,"
    " `max_batch_size: 128`, `dynamic_batching {}`",
    prepare=prepare,
    packages=("nvidia-pytriton", "onnxruntime"),
    requirements="triton",
)
