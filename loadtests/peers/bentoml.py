"""BentoML with one worker."""

from loadtests.peers.peer import ROOT, Launch, Peer, Place

SERVICE = "loadtests.peers.apps.bentoml_service:Models"


def prepare(place: Place) -> Launch:
    command = [str(place.python.with_name("bentoml")), "serve", SERVICE, "--working-dir", str(ROOT)]
    variables = {"PYTHONPATH": str(ROOT), "BENTOML_HOME": str(place.folder), "BENTOML_DO_NOT_TRACK": "True"}
    variables |= {"BENCH_MODELS": " ".join(place.models())}
    return Launch([*command, "--host", "127.0.0.1", "--port", str(place.port)], variables, path="/{model}")


BENTOML = Peer(
    said="BentoML, a service over onnxruntime, one worker, no access log",
    prepare=prepare,
    packages=("bentoml", "onnxruntime"),
    requirements="bentoml",
    lacks={"image": "it has no binary tensors"},
)
