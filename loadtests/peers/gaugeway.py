"""Gaugeway three times: everything on, without the capture log, and without monitors and records."""

import subprocess

from loadtests import boosting
from loadtests.peers.peer import ROOT, Launch, Peer, Place, free_ports
from loadtests.workloads import reference_rows

CONFIG = """
data_dir = "{data}"
[gateway]
port = {port}
[admin]
port = {admin}
[metrics]
node_port = {node}
controller_port = {controller}
[monitors]
enabled = {monitors}
"""
CAPTURE = f"""
[models.boosting.capture]
enabled = true
features = {list(boosting.FEATURES)}
"""


def _prepare(place: Place, monitors: bool = True, capture: bool = False) -> Launch:
    admin, node, controller = free_ports(3)
    config = place.folder / "gaugeway.toml"
    text = CONFIG.format(
        data=place.folder / "data",
        port=place.port,
        admin=admin,
        node=node,
        controller=controller,
        monitors=str(monitors).lower(),
    )
    config.write_text(text + CAPTURE if capture else text)
    variables = {"PYTHONPATH": str(ROOT)}
    command = [str(place.python), "-m", "serving.cli"]
    for workload in place.workloads:
        what = _monitored(place) if workload.name == "boosting" else []
        what += ["--batch-tolerance", str(workload.batch_tolerance)]
        publish = [*command, "publish", workload.name, str(place.model(workload)), *what, "--config", str(config)]
        subprocess.run(publish, check=True, capture_output=True, cwd=ROOT)
    return Launch([*command, "up", "--config", str(config)], variables)


def _monitored(place: Place) -> list[str]:
    """What the monitors want to know of the small model."""
    reference = place.folder / "reference.parquet"
    boosting.write_reference(reference_rows(), str(reference))
    task = ["--task", "classification", "--prediction", "probabilities:1", "--features", ",".join(boosting.FEATURES)]
    return [*task, "--reference", str(reference), "--label", "label"]


GAUGEWAY = Peer(
    said="Gaugeway, everything on: routing between versions, limits, metrics, records of every request, monitors, and"
    " every row of the small model in the capture log; one gateway worker, one replica a model",
    prepare=lambda place: _prepare(place, capture=True),
    packages=("gaugeway", "ray", "onnxruntime"),
)
GAUGEWAY_UNCAPTURED = Peer(
    said="Gaugeway without the capture log, which is off by default",
    prepare=_prepare,
    packages=("gaugeway", "ray", "onnxruntime"),
)
GAUGEWAY_UNMONITORED = Peer(
    said="Gaugeway with `monitors.enabled = false`: no records, no monitors",
    prepare=lambda place: _prepare(place, monitors=False),
    packages=("gaugeway", "ray", "onnxruntime"),
)
