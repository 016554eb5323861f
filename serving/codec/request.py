"""A request's bytes -> tensors that are right by construction."""

import re
from dataclasses import dataclass
from math import prod

import msgspec

from serving.codec.nesting import deeper_than
from serving.codec.quoting import shown
from serving.codec.tensors import Shape, from_binary, from_json, objects
from serving.errors import BadRequest
from serving.protocol import DATATYPES, InferRequest, Parameter, RequestedOutput, Signature, Tensor, TensorSpec


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on one request, whatever the size of its body. `max_elements` bounds each tensor."""

    max_json_depth: int = 100
    max_tensors: int = 64
    max_rank: int = 8
    max_elements: int = 2**24


DEFAULT_LIMITS = Limits()


class _Input(msgspec.Struct, gc=False):
    name: str
    datatype: str
    shape: list[int]
    data: msgspec.Raw = msgspec.Raw()
    parameters: dict[str, Parameter] | None = None


class _Output(msgspec.Struct, gc=False):
    name: str
    parameters: dict[str, Parameter] | None = None


class _Request(msgspec.Struct, gc=False):
    """Unknown keys are ignored: the kserve client always sends `model_name`. Some clients send null for "not given"."""

    inputs: list[_Input]
    outputs: list[_Output] | None = None
    id: str | None = None
    parameters: dict[str, Parameter] | None = None


class _Index(msgspec.Struct):
    ready: bool | None = None


_request, _index = msgspec.json.Decoder(_Request), msgspec.json.Decoder(_Index)
_NAN = re.compile(rb"[\[:,]\s*[-+]?(?:nan|inf)", re.IGNORECASE)


def decode_request(
    body: bytes | memoryview, header_length: int | None = None, limits: Limits = DEFAULT_LIMITS
) -> InferRequest:
    """The request in `body`: JSON of `header_length` bytes (None: all of it), then the binary tensors in its order.

    Raises BadRequest.

    >>> request = decode_request(b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[0.5,1]}]}')
    >>> request.inputs
    [Tensor(name='x', datatype='FP32', data=array([[0.5, 1. ]], dtype=float32))]
    """
    text = bytes(body if header_length is None else body[:header_length])
    binary = memoryview(body)[len(text) :]
    wire = _parse(text, limits)
    inputs, at = [], 0
    for item in wire.inputs:
        size = _binary_size(item)
        inputs.append(_tensor(item, limits, binary[at : at + size] if size is not None else None))
        at += size or 0
    if at != len(binary):
        raise BadRequest(f"the binary tensors take {at} bytes, but {len(binary)} follow the JSON part")
    return _infer_request(wire, inputs)


def decode_raw(body: bytes | memoryview, signature: Signature, limits: Limits = DEFAULT_LIMITS) -> InferRequest:
    """A request whose whole body is the data of the model's only input; all outputs leave as binary data.

    At most one dimension may be free; it follows from the size. Of BYTES the body is the one element, without a
    length before it, as Triton has it.
    """
    if len(signature.inputs) != 1:
        raise BadRequest(f"a raw body needs a model with exactly one input, this one has {len(signature.inputs)}")
    spec = signature.inputs[0]
    shape = _raw_shape(spec, len(body))
    if (count := prod(shape)) > limits.max_elements:
        raise BadRequest(f"input {spec.name!r}: got {count} elements, at most {limits.max_elements}")
    if spec.datatype == "BYTES":
        data = objects([bytes(body)], shape)
    else:
        data = from_binary(spec.name, spec.datatype, shape, count, memoryview(body))
    return InferRequest([Tensor(spec.name, spec.datatype, data)], binary_output=True)


def parse_header_length(text: str | None, body_bytes: int) -> int | None:
    """The value of `Inference-Header-Content-Length` (None: not given), in 0..body_bytes of the expanded body.

    >>> parse_header_length("12", 20)
    12
    """
    if text is None:
        return None
    digits = text.strip(" \t")
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 20):
        raise BadRequest(f"Inference-Header-Content-Length: expected a number of bytes, got {shown(text)}")
    if int(digits) > body_bytes:
        raise BadRequest(f"Inference-Header-Content-Length: got {digits}, but the body has only {body_bytes} bytes")
    return int(digits)


def decode_index(body: bytes) -> bool:
    """Whether a request for the repository's index asks only for what is ready; the body may be empty.

    >>> decode_index(b'{"ready": true}'), decode_index(b"")
    (True, False)
    """
    try:
        return bool(body.strip() and _index.decode(body).ready)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"malformed body: {error}") from None


def _parse(text: bytes, limits: Limits) -> _Request:
    try:
        if not text.isascii():
            text.decode()  # what the decoder skips it does not check
        wire = _request.decode(text)
    except msgspec.ValidationError as error:
        raise BadRequest(f"invalid request: {error}") from None
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not UTF-8: byte {error.object[error.start]:#04x} at {error.start}") from None
    except msgspec.DecodeError as error:
        raise BadRequest(f"malformed body: {error}{_nan_hint(text)}") from None
    except RecursionError:
        raise BadRequest(f"JSON is nested deeper than {limits.max_json_depth}") from None
    _check_tensors("inputs", [item.name for item in wire.inputs], limits)
    if wire.outputs:
        _check_tensors("outputs", [item.name for item in wire.outputs], limits)
    if deeper_than(limits.max_json_depth, text, (bytes(item.data) for item in wire.inputs)):  # data: typed lists
        raise BadRequest(f"JSON is nested deeper than {limits.max_json_depth}")
    return wire


def _check_tensors(kind: str, names: list[str], limits: Limits) -> None:
    if len(names) > limits.max_tensors:
        raise BadRequest(f"got {len(names)} {kind}, at most {limits.max_tensors}")
    if len(names) > 1 and len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BadRequest(f"{kind}: {shown(twice)} is given more than once")


def _infer_request(wire: _Request, inputs: list[Tensor]) -> InferRequest:
    parameters = wire.parameters or {}
    binary = _flag(parameters, "binary_data_output", False)
    outputs = None
    if wire.outputs:  # an empty list asks for all, as in gRPC, which cannot tell it from none
        outputs = [RequestedOutput(o.name, _flag(o.parameters, "binary_data", binary)) for o in wire.outputs]
    return InferRequest(inputs, outputs, wire.id, binary, parameters)


def _flag(parameters: dict[str, Parameter] | None, name: str, default: bool) -> bool:
    value = parameters.get(name, default) if parameters else default
    if not isinstance(value, bool):
        raise BadRequest(f"parameter {name!r}: expected true or false, got {shown(value)}")
    return value


def _binary_size(item: _Input) -> int | None:
    size = item.parameters.get("binary_data_size") if item.parameters else None
    if size is not None and (type(size) is not int or size < 0):
        raise _refusal(item, f"binary_data_size: expected a number of bytes, got {shown(size)}")
    return size


def _tensor(item: _Input, limits: Limits, binary: memoryview | None) -> Tensor:
    shape, count = _shape(item, limits)
    text = bytes(item.data)
    if bool(text) is (binary is not None):
        raise _refusal(item, "expected either data or binary_data_size")
    if binary is None:
        data = from_json(item.name, item.datatype, shape, count, text)
    else:
        data = from_binary(item.name, item.datatype, shape, count, binary)
    return Tensor(item.name, item.datatype, data)


def _shape(item: _Input, limits: Limits) -> tuple[Shape, int]:
    """The declared shape and the number of elements, both within the limits."""
    shape = item.shape
    if item.datatype not in DATATYPES:
        raise _refusal(item, f"unknown datatype {shown(item.datatype)}; there are {', '.join(DATATYPES)}")
    if len(shape) > limits.max_rank:
        raise _refusal(item, f"got rank {len(shape)}, at most {limits.max_rank}")
    count = room = 1
    for size in shape:
        if size < 0:
            raise _refusal(item, f"shape {shown(shape)} has a negative dimension")
        count *= size
        room *= size or 1  # numpy multiplies the dimensions of an empty tensor too
    if room > limits.max_elements:
        raise _refusal(item, f"shape {shown(shape)} has more than {limits.max_elements} elements")
    return tuple(shape), count


def _raw_shape(spec: TensorSpec, body_bytes: int) -> Shape:
    if spec.datatype == "BYTES":
        shape = tuple(1 if size == -1 else size for size in spec.shape)
        if prod(shape) != 1:
            raise BadRequest(f"input {spec.name!r}: a raw body holds one element of BYTES, expected {prod(shape)}")
        return shape
    free = spec.shape.count(-1)
    if free == 0:
        return spec.shape
    step_bytes = prod(size for size in spec.shape if size != -1) * DATATYPES[spec.datatype].itemsize
    if free > 1 or step_bytes == 0 or body_bytes % step_bytes:
        raise BadRequest(
            f"input {spec.name!r}: {body_bytes} raw bytes do not fit {spec.datatype} {list(spec.shape)}, "
            "where at most one dimension may be free"
        )
    return tuple(body_bytes // step_bytes if size == -1 else size for size in spec.shape)


def _refusal(item: _Input, why: str) -> BadRequest:
    return BadRequest(f"input {shown(item.name)}: {why}")


def _nan_hint(text: bytes) -> str:
    return "; NaN and infinities have no JSON form, send them as binary data" if _NAN.search(text) else ""
