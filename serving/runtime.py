"""An ONNX Runtime session: bytes of a model in, runs out. The only file that imports onnxruntime.

Sessions run on one CPU thread unless told otherwise: with two, tree ensembles gave other bits for a row alone than
for the same row in a batch; with one, never.
"""

import functools
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as _state

from serving.errors import ArtifactCorrupt, BadRequest, ConfigError, ModelFailure, PublishRefused
from serving.manifest import Manifest
from serving.protocol import DATATYPES, Array, Signature, TensorSpec

log = logging.getLogger("gaugeway.runtime")

_TYPES = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
    "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
    "float16": "FP16", "float": "FP32", "double": "FP64", "string": "BYTES",
}  # fmt: skip
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_SIZES = (1, 8, 64, 224)  # tried for free dimensions other than the rows
_FAILURES: tuple[type[Exception], ...] = (
    *(kind for kind in vars(_state).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    RuntimeError,
    ValueError,
    MemoryError,
)  # onnxruntime's exceptions have no base of their own


class Session:
    """A loaded model. `run` may be called from any thread.

    `memory_bytes` bounds what its tensors and weights take, on the device of the provider, of all sessions of this
    process together on a CPU; 0: nothing does. Raises PublishRefused with a sentence when the bytes are no model that
    can be served here, and ConfigError where the provider is not there.
    """

    def __init__(self, model: bytes, *, threads: int = 1, provider: str = "cpu", memory_bytes: int = 0) -> None:
        self._session = _open(model, threads, provider, memory_bytes)
        self.signature = Signature(
            tuple(_spec(node, "input") for node in self._session.get_inputs()),
            tuple(_spec(node, "output") for node in self._session.get_outputs()),
        )
        self._names = [spec.name for spec in self.signature.outputs]
        self._texts = [spec.name for spec in self.signature.inputs if spec.datatype == "BYTES"]
        self._text_outputs = [i for i, spec in enumerate(self.signature.outputs) if spec.datatype == "BYTES"]
        self._options = _quiet()

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        """All outputs in the signature's order; BYTES are object arrays of `bytes` on both sides.

        Raises ModelFailure when the model fails on these inputs, BadRequest for BYTES that are not UTF-8, which
        onnxruntime cannot take.
        """
        feed = self._as_text(inputs) if self._texts else inputs
        try:
            outputs: list[Array] = self._session.run(self._names, feed, self._options)
        except _FAILURES as error:
            raise ModelFailure(f"the model failed: {_sentence(error)}") from None
        for i in self._text_outputs:
            outputs[i] = _convert(outputs[i], str.encode)
        return outputs

    def interrupt(self) -> None:
        """End the runs that are in progress, within milliseconds, with ModelFailure; later runs are not touched.

        A single long kernel is not interruptible: the run ends when the kernel does.
        """
        running, self._options = self._options, _quiet()
        running.terminate = True

    def fallen_back(self) -> list[str]:
        """Operators that run on the CPU, because the provider that was asked for does not have them: ``Conv x 3``."""
        if self._session.get_providers()[0] == _PROVIDERS["cpu"]:
            return []
        return _fallen_back(self._session.get_provider_graph_assignment_info())

    def warm(self, rows: Sequence[int] = (1, 8)) -> dict[str, Array]:
        """Run inputs of ones, else of zeros, with each number of rows; returns the largest that was run.

        Free dimensions other than the rows are tried with 1, 8, 64, 224. Raises the last ModelFailure when nothing
        runs.
        """
        failure = ModelFailure("nothing was run")
        for count in sorted(rows, reverse=True):
            for feed in blanks(self.signature, count):
                try:
                    self.run(feed)
                except ModelFailure as error:
                    failure = error
                    continue
                for fewer in rows:
                    self.run(_first_rows(feed, self.signature, fewer))
                return feed
        raise failure

    def _as_text(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        feed = dict(inputs)
        try:
            for name in self._texts:
                # str objects only: arrays of fixed-width bytes make onnxruntime read past their end
                feed[name] = _convert(feed[name], bytes.decode)
        except UnicodeDecodeError as error:
            raise BadRequest(f"input {name!r} must be UTF-8 for this model; byte {error.start} is not") from None
        return feed


def load(
    manifest: Manifest, model: bytes, *, threads: int = 1, provider: str = "cpu", memory_bytes: int = 0
) -> Session:
    """A warm session of a published version; `model` are the verified bytes of its file.

    Raises ArtifactCorrupt when the model does not have the inputs and outputs that the manifest declares.
    """
    session = Session(model, threads=threads, provider=provider, memory_bytes=memory_bytes)
    if fallen := session.fallen_back():
        log.warning(
            "version %r of %r: %s is not there for %s, which run on the CPU",
            manifest.version, manifest.model, _PROVIDERS[provider], ", ".join(fallen),
        )  # fmt: skip
    if _outline(session.signature) != _outline(manifest.signature):
        raise ArtifactCorrupt(
            f"version {manifest.version!r} of {manifest.model!r}: the file has signature"
            f" {_outline(session.signature)}, the manifest {_outline(manifest.signature)}"
        )
    try:
        session.warm()
    except ModelFailure:
        pass  # publishing proved that the model runs on its reference rows; blank ones need not suit it
    return session


def blanks(signature: Signature, rows: int) -> Iterator[dict[str, Array]]:
    """Inputs of ones, then of zeros, in the shapes of the signature; several where dimensions are free.

    >>> signature = Signature((TensorSpec("x", "FP32", (-1, 2)),), ())
    >>> next(blanks(signature, 3))["x"].shape
    (3, 2)
    """
    free = any(-1 in spec.shape[1:] for spec in signature.inputs)
    for size in _SIZES if free else _SIZES[:1]:
        for fill in (np.ones, np.zeros):
            feed = {}
            for spec in signature.inputs:
                shape = tuple(rows if i == 0 and n < 0 else size if n < 0 else n for i, n in enumerate(spec.shape))
                if spec.datatype == "BYTES":
                    feed[spec.name] = np.full(shape, b"", object)
                else:
                    feed[spec.name] = fill(shape, DATATYPES[spec.datatype])
            yield feed


def _open(model: bytes, threads: int, provider: str, memory_bytes: int) -> "ort.InferenceSession":
    options = ort.SessionOptions()
    providers = _providers(provider, memory_bytes, options)
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.use_deterministic_compute = True
    options.log_severity_level = 4  # errors are raised; the log would only repeat them
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = ort.InferenceSession(model, options, providers=providers)
    except _FAILURES as error:
        raise PublishRefused(f"ONNX Runtime cannot load it: {_sentence(error)}") from None
    if (got := session.get_providers()[0]) != _PROVIDERS[provider]:  # onnxruntime only warns, and takes the next
        raise ConfigError(
            f"{_PROVIDERS[provider]} does not start on this machine, {got} does; see the log of the replica"
        )
    return session


def _providers(provider: str, memory_bytes: int, options: "ort.SessionOptions") -> list[Any]:
    """What a session is made with; a bound on the CPU's memory is the environment's, which this makes once."""
    name, there = _PROVIDERS[provider], ort.get_available_providers()
    if name not in there:
        raise ConfigError(
            f"ONNX Runtime has no {name} here, it has {', '.join(there)}; install the extra `gpu` in place of"
            ' onnxruntime, or set `provider = "cpu"`'
        )
    if provider == "cuda":
        ort.preload_dlls()  # CUDA and cuDNN may be packages beside it, where the loader does not look
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        bound = {"gpu_mem_limit": str(memory_bytes)} if memory_bytes else {}
        return [(name, {"arena_extend_strategy": "kSameAsRequested", **bound}), _PROVIDERS["cpu"]]
    if memory_bytes:
        options.add_session_config_entry("session.use_env_allocators", "1")
        _bound_cpu(memory_bytes)
    return [name]


@functools.cache
def _bound_cpu(memory_bytes: int) -> None:
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    arena = ort.OrtArenaCfg({"max_mem": memory_bytes, "arena_extend_strategy": 1})  # as requested
    ort.create_and_register_allocator(memory, arena)


def _fallen_back(assigned: Iterable[Any]) -> list[str]:
    """Of what onnxruntime says of who computes which nodes: those of the CPU, counted."""
    on_cpu = Counter(n.op_type for part in assigned if part.ep_name == _PROVIDERS["cpu"] for n in part.get_nodes())
    return [f"{kind} x {count}" for kind, count in sorted(on_cpu.items())]


def _quiet() -> "ort.RunOptions":
    options = ort.RunOptions()
    options.log_severity_level = 4
    return options


def _spec(node: "ort.NodeArg", side: str) -> TensorSpec:
    found = re.fullmatch(r"tensor\((\w+)\)", node.type)
    if not found or found[1] not in _TYPES:
        raise PublishRefused(f"{side} {node.name!r} is of type {node.type}; it must be a tensor of {', '.join(_TYPES)}")
    shape = tuple(n if isinstance(n, int) and n >= 0 else -1 for n in node.shape)
    return TensorSpec(node.name, _TYPES[found[1]], shape)


def _outline(signature: Signature) -> str:
    """Names and datatypes, and the inputs' shapes; declared shapes of outputs are not always true."""
    inputs = ", ".join(f"{s.name} {s.datatype} {list(s.shape)}" for s in signature.inputs)
    return f"({inputs}) -> ({', '.join(f'{s.name} {s.datatype}' for s in signature.outputs)})"


def repeated(feed: Mapping[str, Array], signature: Signature, rows: int) -> dict[str, Array]:
    """The first row of `feed`, `rows` times, in those inputs that are free in their rows."""
    free = {spec.name for spec in signature.inputs if spec.shape and spec.shape[0] < 0}
    return {name: np.repeat(array[:1], rows, axis=0) if name in free else array for name, array in feed.items()}


def _first_rows(feed: Mapping[str, Array], signature: Signature, rows: int) -> dict[str, Array]:
    free = {spec.name for spec in signature.inputs if spec.shape and spec.shape[0] < 0}
    return {name: array[:rows] if name in free else array for name, array in feed.items()}


def _convert(array: Array, element: Callable[[Any], str | bytes]) -> Array:
    """An object array of the same shape with `element` applied to each."""
    out = np.empty(array.size, object)
    out[:] = [element(e) for e in array.ravel()]
    return out.reshape(array.shape)


def _sentence(error: Exception) -> str:
    """onnxruntime's message on one line, without its prefix, at most 300 characters."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error).strip())
    return " ".join(text.split())[:300] or type(error).__name__
