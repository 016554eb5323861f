"""MLServer with a custom runtime; everything in its one process."""

import json

from loadtests.peers.peer import ROOT, Launch, Peer, Place, free_ports

IMPLEMENTATION = "loadtests.peers.apps.mlserver_model.OnnxModel"


def prepare(place: Place) -> Launch:
    grpc_port, metrics_port = free_ports(2)
    settings = {"host": "127.0.0.1", "http_port": place.port, "grpc_port": grpc_port, "metrics_port": metrics_port}
    settings |= {"parallel_workers": 0, "debug": False}
    (place.folder / "settings.json").write_text(json.dumps(settings))
    for workload in place.workloads:
        folder = place.folder / workload.name
        folder.mkdir()
        parameters = {"uri": str(place.model(workload)), "version": "1"}
        of_model = {"name": workload.name, "implementation": IMPLEMENTATION, "parameters": parameters}
        (folder / "model-settings.json").write_text(json.dumps(of_model))
    command = [str(place.python.with_name("mlserver")), "start", str(place.folder)]
    return Launch(command, {"PYTHONPATH": str(ROOT)})


MLSERVER = Peer(
    said="MLServer, a custom runtime that calls onnxruntime, `parallel_workers: 0`",
    prepare=prepare,
    packages=("mlserver", "onnxruntime"),
    requirements="mlserver",
    lacks={"image": "its REST endpoint does not read binary tensors"},
)
