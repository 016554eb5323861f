"""LitServe on the CPU."""

from loadtests.peers.peer import ROOT, Launch, Peer, Place


def prepare(place: Place) -> Launch:
    command = [str(place.python), "-m", "loadtests.peers.apps.litserve_app", "--port", str(place.port)]
    return Launch([*command, *place.models()], {"PYTHONPATH": str(ROOT)})


LITSERVE = Peer(
    said="LitServe, `LitAPI` over onnxruntime, CPU, one worker, one API server",
    prepare=prepare,
    packages=("litserve", "onnxruntime"),
    requirements="litserve",
    lacks={"image": "it has no binary tensors"},
)
