"""Requests that each carry another number, and what the model must answer: a lost, doubled, swapped or stale answer
is seen.
"""

import json
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

EXACT = 2**23  # whole numbers up to twice this are exact in FP32


class Workload(Protocol):
    def body(self, i: int) -> bytes:
        """Of request `i`: a JSON object, without its id."""

    def right(self, i: int, body: bytes) -> bool:
        """Whether this is the answer to request `i`."""


class Multiples:
    """Every element of the inputs is k, another one for each request; the answer is `factor` times k."""

    def __init__(self, inputs: Sequence["Input"], factor: float, first: int = 1) -> None:
        before, after = _document(inputs, lambda one: ",".join(["@"] * one.elements)).split("@", 1)
        self._before, self._after, self._factor, self._first = before.encode(), after, factor, first

    def number(self, i: int) -> int:
        return 1 + (self._first + i) % EXACT

    def body(self, i: int) -> bytes:
        k = str(self.number(i))
        return self._before + (k + self._after.replace("@", k)).encode()

    def right(self, i: int, body: bytes) -> bool:
        start = body.rfind(b'"data":[') + 8
        try:
            return float(body[start : body.index(b"]", start)]) == self._factor * self.number(i)
        except ValueError:
            return False


class Learned:
    """Bodies whose answers were asked before the load, alone and one by one; under load they must be the same bytes."""

    def __init__(self, bodies: Sequence[bytes], answers: Sequence[bytes]) -> None:
        self._bodies, self._outputs = bodies, [_outputs(answer) for answer in answers]

    @property
    def told_apart(self) -> int:
        """How many different answers there are: two requests with the same one cannot be told from each other."""
        return len(set(self._outputs))

    def body(self, i: int) -> bytes:
        return self._bodies[i % len(self._bodies)]

    def right(self, i: int, body: bytes) -> bool:
        return _outputs(body) == self._outputs[i % len(self._outputs)]


@dataclass(frozen=True)
class Input:
    """One tensor of a request; free dimensions are 1."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return int(np.prod(self.shape))

    def random(self, rng: np.random.Generator) -> str:
        """Elements of its type, as in JSON."""
        if self.datatype.startswith("FP"):
            return ",".join(f"{value:.4f}" for value in rng.normal(size=self.elements))
        if self.datatype == "BOOL":
            return ",".join("true" if value else "false" for value in rng.integers(2, size=self.elements))
        numbers = rng.integers(127, size=self.elements).tolist()
        return ",".join(f'"{n}"' if self.datatype == "BYTES" else str(n) for n in numbers)


def inputs(url: str, model: str) -> tuple[Input, ...]:
    """What the model takes, by its metadata."""
    metadata = json.loads(fetch(f"{url}/v2/models/{model}"))
    return tuple(Input(i["name"], i["datatype"], tuple(abs(n) for n in i["shape"])) for i in metadata["inputs"])


def learn(url: str, model: str, distinct: int, seed: int) -> Learned:
    """Ask for the answers to `distinct` random inputs."""
    rng, taken = np.random.default_rng(seed), inputs(url, model)
    bodies = [_document(taken, lambda one: one.random(rng)).encode() for _ in range(distinct)]
    return Learned(bodies, [fetch(f"{url}/v2/models/{model}/infer", body) for body in bodies])


def fetch(url: str, body: bytes | None = None) -> bytes:
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
        content: bytes = answer.read()
    return content


def _document(taken: Sequence[Input], data: Any) -> str:
    tensors = [
        f'{{"name":{json.dumps(one.name)},"shape":{json.dumps(one.shape)},"datatype":"{one.datatype}","data":[{data(one)}]}}'
        for one in taken
    ]
    return f'{{"inputs":[{",".join(tensors)}]}}'


def _outputs(body: bytes) -> bytes:
    """Without what may differ: the request's id stands before it."""
    return body[max(0, body.find(b'"outputs"')) :]
