"""KServe's Python server, its REST endpoint alone."""

from loadtests.peers.peer import ROOT, Launch, Peer, Place


def prepare(place: Place) -> Launch:
    command = [str(place.python), "-m", "loadtests.peers.apps.kserve_server", "--port", str(place.port)]
    return Launch([*command, *place.models()], {"PYTHONPATH": str(ROOT)})


KSERVE = Peer(
    said="KServe's Python server, `kserve.Model` over onnxruntime, one worker, no gRPC;"
    " it listens on every address and has no setting for that",
    prepare=prepare,
    packages=("kserve", "onnxruntime"),
    requirements="kserve",
)
