"""Bytes <-> tensors: the only place that parses JSON or binary tensors of a request.

After `decode_request` a tensor is right by construction: its data has the declared datatype and shape. After `bind`
it also fits the model. Whatever the bytes, nothing but a `GaugewayError` is raised.

JSON is decoded by msgspec in two typed steps: the request with each `data` left raw, then each `data` as nested lists
of the one type that its datatype allows; `struct` makes the array. Measured with timeit (best of 5, one core of an AMD
EPYC, µs) for 16 / 4,096 floats:

    msgspec typed, two steps   0.74 / 169      struct.pack, checks the range            0.30 / 22
    msgspec untyped + check    0.85 / 163      numpy.array, where 1e39 becomes infinite 0.58 / 44
    orjson + check             0.94 / 118

One row of 16 floats in all: `decode_request` 4.7, `bind` 0.7, `respond` 0.9, `encode_response` 1.6. orjson is faster on
large bodies but turns integers beyond 64 bits into floats without a word, and a check of the types in Python has its
own traps: `True` is an `int`, numpy parses strings and takes None for NaN. On the way out orjson writes float32 arrays
in the shortest digits that give the same bits back.
"""

from serving.codec.binding import bind, respond
from serving.codec.compression import Expander, accepted_encoding, compress, decompress
from serving.codec.labels import Batch, Label, Lines, Refused, decode_labels, is_ndjson, label_batches
from serving.codec.request import DEFAULT_LIMITS, Limits, decode_index, decode_raw, decode_request, parse_header_length
from serving.codec.response import encode_response, error_body

__all__ = [
    "DEFAULT_LIMITS",
    "Batch",
    "Expander",
    "Label",
    "Limits",
    "Lines",
    "Refused",
    "accepted_encoding",
    "bind",
    "compress",
    "decode_index",
    "decode_labels",
    "decode_raw",
    "decode_request",
    "decompress",
    "encode_response",
    "error_body",
    "is_ndjson",
    "label_batches",
    "parse_header_length",
    "respond",
]
