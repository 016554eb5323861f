"""Whether a peer's answer equals onnxruntime's, asked once before anything is measured."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from loadtests.workloads import DATATYPES, Workload

TYPES = {name: np.dtype(numpy) for numpy, name in DATATYPES.items()}
TOLERANCE = 1e-4  # relative and absolute: engines and their versions may add in another order
NOT_YET = (404, 503)  # what a server may say while it loads its models


class WrongAnswer(Exception):
    """It answers, but not what onnxruntime does."""


@dataclass(frozen=True)
class Answer:
    """A response with success."""

    body: bytes
    json_length: int | None
    """Bytes of the JSON before the binary tensors; None: there are none."""


def ask(url: str, workload: Workload, timeout_s: float = 10.0) -> Answer:
    """One request.

    Raises:
        OSError: nobody listens, or the status says no.
    """
    request = urllib.request.Request(url, workload.body, workload.headers)
    with urllib.request.urlopen(request, timeout=timeout_s) as response:
        length = response.headers.get("Inference-Header-Content-Length")
        return Answer(response.read(), int(length) if length else None)


def first_answer(url: str, workload: Workload, ended: Callable[[], bool], timeout_s: float) -> Answer:
    """Ask until there is an answer.

    Raises:
        OSError: the last refusal; the server ended, or the time is over.
    """
    until = time.monotonic() + timeout_s
    while True:
        try:
            return ask(url, workload)
        except OSError as error:
            final = isinstance(error, urllib.error.HTTPError) and error.code not in NOT_YET
            if final or ended() or time.monotonic() > until:
                raise OSError(_said(error)) from error
            time.sleep(0.2)


def compare(answer: Answer, expected: Mapping[str, np.ndarray], names: Mapping[str, str]) -> None:
    """Hold an answer against the expected outputs; `names` are the peer's where they are others.

    Raises:
        WrongAnswer: an output is missing or differs.
    """
    outputs = decode(answer)
    for ours, array in expected.items():
        name = names.get(ours, ours)
        if name not in outputs:
            raise WrongAnswer(f"no output {name!r}; it has {', '.join(outputs)}")
        found = outputs[name]
        if found.size != array.size or not np.allclose(found, array.ravel(), rtol=TOLERANCE, atol=TOLERANCE):
            raise WrongAnswer(f"{name} is {found[:4]}, onnxruntime has {array.ravel()[:4]}")


def decode(answer: Answer) -> dict[str, np.ndarray]:
    """Outputs by name, flat.

    >>> decode(Answer(b'{"outputs": [{"name": "y", "datatype": "FP32", "data": [[1.5], [2]]}]}', None))
    {'y': array([1.5, 2. ], dtype=float32)}
    """
    at = len(answer.body) if answer.json_length is None else answer.json_length
    outputs = {}
    for one in json.loads(answer.body[:at])["outputs"]:
        kind = TYPES[one["datatype"]]
        size = (one.get("parameters") or {}).get("binary_data_size")
        if size is None:
            outputs[one["name"]] = np.asarray(one["data"], kind).ravel()
        else:
            outputs[one["name"]] = np.frombuffer(answer.body[at : at + size], kind)
            at += size
    return outputs


def _said(error: OSError) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"status {error.code}: {error.read(200).decode(errors='replace')}"
    return str(error)
