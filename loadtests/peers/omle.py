"""omle-server, C++ in one process: the same trees, converted from LightGBM's own text to its format, in FP64."""

import subprocess
from dataclasses import replace

import numpy as np

from loadtests import boosting
from loadtests.peers.peer import Launch, Peer, Place, free_ports
from loadtests.workloads import Workload

OUTPUTS = {"label": "y_pred", "probabilities": "y_prob"}


def prepare(place: Place) -> Launch:
    models = place.folder / "models"
    models.mkdir()
    trees = place.folder / "boosting.txt"
    trees.write_text(boosting.trees(boosting.rows()))
    convert = [place.python.with_name("omle-convert"), trees, models / "boosting.omle"]
    subprocess.run(convert, check=True, capture_output=True)
    command = [str(place.python.with_name("omle-server")), "--model-dir", str(models), "--log-level", "warn"]
    command += ["--rest-port", str(place.port), "--grpc-port", str(free_ports(1)[0])]
    return Launch([*command, "--rest-threads", "1", "--grpc-threads", "1", "--model-threads", "1"])


def reworded(workload: Workload) -> Workload:
    """The same numbers under the name and the datatype that it reads."""
    return replace(workload, inputs={"X": _as_written(workload.inputs["x"])})


def _as_written(array: np.ndarray) -> np.ndarray:
    """FP64 with the same text: 0.1, not the float32 next to it."""
    return np.array([float(str(value)) for value in array.ravel()]).reshape(array.shape)


OMLE = Peer(
    said="omle-server, C++ in one process, one REST thread, the same trees in its own format,"
    " input named `X` in FP64; it listens on every address",
    prepare=prepare,
    packages=("omle-server", "omle-convert"),
    requirements="omle",
    lacks=dict.fromkeys(("image", "text"), "its format has trees and linear models, not this one"),
    reworded=reworded,
    outputs=OUTPUTS,
)
