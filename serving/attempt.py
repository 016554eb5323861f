"""One run of a model over the rows of several requests: its outputs are what the manifest declares, or an error is."""

import time
from typing import NamedTuple, Protocol

import numpy as np

from serving.errors import GaugewayError, ModelFailure
from serving.manifest import Manifest
from serving.protocol import DATATYPES, Array


class Model(Protocol):
    def run(self, inputs: dict[str, Array]) -> list[Array]: ...
    def interrupt(self) -> None: ...


class Attempt(NamedTuple):
    """Outputs of the joined rows, or why there are none; and the seconds of the run."""

    outcome: list[Array] | GaugewayError
    infer_s: float


class Checked:
    """A model beside its manifest. May be called in any thread."""

    def __init__(self, manifest: Manifest, model: Model) -> None:
        self._model, self._independent = model, manifest.rows_independent
        self._names = [spec.name for spec in manifest.signature.inputs]
        self._outputs = [(s.name, s.datatype, DATATYPES[s.datatype]) for s in manifest.signature.outputs]

    def attempt(self, requests: list[list[Array]], rows: int) -> Attempt:
        """`requests` are the inputs of each, in the order of the signature; `rows` are those of all."""
        start = time.perf_counter()
        try:
            inputs = requests[0] if len(requests) == 1 else _join(requests)
            outputs = self._model.run(dict(zip(self._names, inputs, strict=True)))
            self._check(outputs, rows)
        except GaugewayError as error:
            return Attempt(error, time.perf_counter() - start)
        except Exception as error:  # an edge: whatever a model raises must not stop the replica
            return Attempt(ModelFailure(f"{type(error).__name__}: {error}"), time.perf_counter() - start)
        return Attempt(outputs, time.perf_counter() - start)

    def _check(self, outputs: list[Array], rows: int) -> None:
        """What leaves is what the manifest declares: a gateway must not be told otherwise."""
        if len(outputs) != len(self._outputs):
            raise ModelFailure(f"the model gave {len(outputs)} outputs, it declares {len(self._outputs)}")
        for (name, datatype, dtype), output in zip(self._outputs, outputs, strict=True):
            if output.dtype != dtype or (datatype == "BYTES" and not all(type(e) is bytes for e in output.flat)):
                raise ModelFailure(f"output {name!r} has elements of {output.dtype}, it declares {datatype}")
            if self._independent and (not output.shape or output.shape[0] != rows):
                raise ModelFailure(f"output {name!r} has shape {list(output.shape)} for {rows} rows")


def _join(requests: list[list[Array]]) -> list[Array]:
    return [np.concatenate(arrays) for arrays in zip(*requests, strict=True)]
