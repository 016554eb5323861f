"""A decoded request against a model's signature, and the model's outputs as the answer to it."""

from collections.abc import Iterable, Sequence

from serving.codec.quoting import shown
from serving.errors import BadRequest
from serving.protocol import Array, InferRequest, InferResponse, Signature, Tensor, TensorSpec


def bind(request: InferRequest, signature: Signature, model: str) -> list[Array]:
    """The arrays of the request in the order of the signature, all of which they fit; BadRequest otherwise.

    Names of outputs are checked too, so that no model runs for an answer that cannot be given.
    """
    given = {tensor.name: tensor for tensor in request.inputs}
    arrays = []
    for spec in signature.inputs:
        tensor = given.get(spec.name)
        if tensor is None:
            raise BadRequest(f"model {model!r} takes {_names(signature.inputs)}; the request lacks {spec.name!r}")
        if tensor.datatype != spec.datatype or not _fits_shape(tensor.data.shape, spec.shape):
            got = _described(TensorSpec(tensor.name, tensor.datatype, tensor.data.shape))
            raise BadRequest(f"input {spec.name!r} of model {model!r}: got {got}, expected {_described(spec)}")
        arrays.append(tensor.data)
    if len(request.inputs) != len(arrays):
        _check_names("input", given, signature.inputs, model)
        raise BadRequest(f"model {model!r} takes {_names(signature.inputs)}; the request has one twice")
    if request.outputs is not None:
        _check_names("output", (output.name for output in request.outputs), signature.outputs, model)
    return arrays


def respond(
    request: InferRequest, signature: Signature, arrays: Sequence[Array], model: str, version: str
) -> InferResponse:
    """The answer to a bound request from all outputs of the model: those it named in its order, else all."""
    if request.outputs is None:
        outputs = [Tensor(s.name, s.datatype, a) for s, a in zip(signature.outputs, arrays, strict=True)]
        binary = frozenset(s.name for s in signature.outputs) if request.binary_output else frozenset()
        return InferResponse(model, version, outputs, binary, request.id)
    place = {spec.name: index for index, spec in enumerate(signature.outputs)}
    chosen = [place[output.name] for output in request.outputs]
    outputs = [Tensor(signature.outputs[i].name, signature.outputs[i].datatype, arrays[i]) for i in chosen]
    binary = frozenset(output.name for output in request.outputs if output.binary)
    return InferResponse(model, version, outputs, binary, request.id)


def _fits_shape(shape: tuple[int, ...], spec: tuple[int, ...]) -> bool:
    if len(shape) != len(spec):
        return False
    for size, expected in zip(shape, spec, strict=True):  # a generator would take twice as long
        if size != expected and expected != -1:
            return False
    return True


def _check_names(kind: str, names: Iterable[str], specs: Sequence[TensorSpec], model: str) -> None:
    for name in names:
        if all(name != spec.name for spec in specs):
            raise BadRequest(f"model {model!r} has no {kind} {shown(name)}; it has {_names(specs)}")


def _described(spec: TensorSpec) -> str:
    return f"{spec.datatype} {list(spec.shape)}"


def _names(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(repr(spec.name) for spec in specs)
