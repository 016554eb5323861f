"""An answer -> bytes."""

from typing import Any

import numpy as np
import orjson

from serving.codec.tensors import JSON_FORMS
from serving.errors import BadRequest, ModelFailure
from serving.protocol import Array, InferResponse, Tensor


def encode_response(response: InferResponse) -> tuple[bytes, int | None]:
    """The body and, when it has binary tensors, the value of `Inference-Header-Content-Length`.

    BadRequest for FP16 and BF16 as JSON, which the client could know; ModelFailure for values that JSON cannot carry.

    >>> encode_response(InferResponse("m", "1", [Tensor("y", "FP32", np.float32([[0.1]]))]))[0].decode()
    '{"model_name":"m","model_version":"1","outputs":[{"name":"y","datatype":"FP32","shape":[1,1],"data":[0.1]}]}'
    """
    outputs: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for tensor in response.outputs:
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.data.shape}
        if tensor.name in response.binary:
            blobs.append(_to_binary(tensor))
            entry["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            entry["data"] = _to_json(tensor)
        outputs.append(entry)
    document: dict[str, Any] = {"model_name": response.model, "model_version": response.version}
    if response.id is not None:
        document["id"] = response.id
    document["outputs"] = outputs
    text = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if b"null" in text:
        _refuse_nonfinite(response)
    return (b"".join((text, *blobs)), len(text)) if blobs else (text, None)


def error_body(message: str) -> bytes:
    """The body of every error.

    >>> error_body("unknown model 'm'")
    b'{"error":"unknown model \\'m\\'"}'
    """
    return orjson.dumps({"error": message.encode(errors="replace").decode()})


def _to_json(tensor: Tensor) -> Array | list[str]:
    """Flat, row-major."""
    if tensor.datatype == "BYTES":
        try:
            return [element.decode() for element in tensor.data.ravel()]
        except UnicodeDecodeError:
            raise ModelFailure(f"output {tensor.name!r} is not UTF-8: ask for it as binary data") from None
    if tensor.datatype not in JSON_FORMS:
        raise BadRequest(f"output {tensor.name!r}: {tensor.datatype} has no JSON form; ask for it as binary data")
    return tensor.data.ravel()


def _to_binary(tensor: Tensor) -> bytes:
    if tensor.datatype == "BYTES":
        return b"".join(len(element).to_bytes(4, "little") + element for element in tensor.data.ravel())
    return tensor.data.tobytes()


def _refuse_nonfinite(response: InferResponse) -> None:
    """orjson writes NaN and infinities as null. Called only when the text has that word, which is quicker to see."""
    for tensor in response.outputs:
        is_json_float = tensor.datatype in ("FP32", "FP64") and tensor.name not in response.binary
        if is_json_float and not np.isfinite(tensor.data).all():
            raise ModelFailure(f"output {tensor.name!r} has NaN or infinite values: ask for it as binary data")
