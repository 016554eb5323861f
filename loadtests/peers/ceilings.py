"""Both ceilings of loadtests/ceiling.py, in Gaugeway's own environment."""

from loadtests.peers.peer import ROOT, Launch, Peer, Place


def _prepare(server: str, place: Place) -> Launch:
    command = [str(place.python), "-m", "loadtests.ceiling", server, "--port", str(place.port)]
    return Launch([*command, *place.models()], {"PYTHONPATH": str(ROOT)})


CEILING_UVICORN = Peer(
    said="ceiling: uvicorn, orjson and onnxruntime in one process, nothing else",
    prepare=lambda place: _prepare("uvicorn", place),
    packages=("uvicorn", "onnxruntime"),
)
CEILING_PROTOCOL = Peer(
    said="ceiling: a protocol class on uvloop and httptools, orjson and onnxruntime in one process, nothing else",
    prepare=lambda place: _prepare("protocol", place),
    packages=("uvloop", "httptools", "onnxruntime"),
)
