"""The data of one tensor, from JSON or from binary, as an array of exactly the declared datatype and shape."""

import re
import struct
from collections.abc import Iterator
from functools import cache
from itertools import chain
from typing import Any

import msgspec
import numpy as np

from serving.codec.nesting import occurrences
from serving.codec.quoting import shown
from serving.errors import BadRequest
from serving.protocol import DATATYPES, Array

Shape = tuple[int, ...]

# How JSON carries a datatype: the type of an element, and the code with which struct packs it and checks its range.
JSON_FORMS: dict[str, tuple[type, str]] = {
    "BOOL": (bool, "?"),
    "UINT8": (int, "B"),
    "UINT16": (int, "H"),
    "UINT32": (int, "I"),
    "UINT64": (int, "Q"),
    "INT8": (int, "b"),
    "INT16": (int, "h"),
    "INT32": (int, "i"),
    "INT64": (int, "q"),
    "FP32": (float, "f"),
    "FP64": (float, "d"),
    "BYTES": (str, "s"),
}
_OPENING = re.compile(rb"[\s\[]*")
_LARGE_BYTES = 2**16


def from_json(name: str, datatype: str, shape: Shape, count: int, text: bytes) -> Array:
    """JSON flat or nested as `shape` says, `count` elements; integers do for floats, floats never for integers.

    >>> from_json("x", "FP32", (2, 1), 2, b"[[0.5], [2]]").tolist()
    [[0.5], [2.0]]
    """
    if datatype not in JSON_FORMS:
        raise BadRequest(f"input {shown(name)}: {datatype} has no JSON form; use binary data")
    element, code = JSON_FORMS[datatype]
    if len(text) > _LARGE_BYTES and element is not str and occurrences(text, b",") > count:
        raise _miscount(name, shape, count, "more")  # before lists of them take gigabytes
    # numpy.zeros((2, 0, 3)).tolist() is [[], []]: nested up to the first empty dimension
    nested = shape[: shape.index(0) + 1] if 0 in shape else shape
    values = _values(name, datatype, element, nested, text)
    if len(values) != count:
        raise _miscount(name, shape, count, str(len(values)))
    if element is str:
        return objects([value.encode() for value in values], shape)
    return _packed(name, datatype, code, values, shape)


def from_binary(name: str, datatype: str, shape: Shape, count: int, data: memoryview) -> Array:
    """Little-endian, row-major, without padding; of BYTES each element after its length in 4 bytes.

    >>> from_binary("x", "INT16", (1, 2), 2, memoryview(bytes([1, 0, 255, 255]))).tolist()
    [[1, -1]]
    """
    if datatype == "BYTES":
        return objects(list(_elements(name, data, count)), shape)
    dtype = DATATYPES[datatype]
    if len(data) != count * dtype.itemsize:
        expected = f"{count * dtype.itemsize} for {datatype} {list(shape)}"
        raise BadRequest(f"input {shown(name)}: got {len(data)} bytes, expected {expected}")
    if datatype == "BOOL" and data.tobytes().strip(b"\0\1"):
        raise BadRequest(f"input {shown(name)}: BOOL takes the bytes 0 and 1 only")
    array: Array = np.ndarray(shape, dtype, data)
    return array if array.flags.aligned else array.copy()


def objects(elements: list[bytes], shape: Shape) -> Array:
    """An array of BYTES; numpy would take a plain list of them for fixed-width strings and cut trailing NULs."""
    array = np.empty(len(elements), np.object_)
    array[:] = elements
    return array.reshape(shape)


@cache
def _lists(element: type, depth: int) -> msgspec.json.Decoder[Any]:
    """Decodes an `element`, or lists of it, `depth` deep."""
    kind: Any = element
    for _ in range(depth):
        kind = list[kind]
    return msgspec.json.Decoder(kind)


def _values(name: str, datatype: str, element: type, shape: Shape, text: bytes) -> list[Any]:
    """The elements in a list, row-major."""
    opening = _OPENING.match(text)
    depth = opening.group().count(b"[") if opening else 0
    if depth not in (1, len(shape)):
        raise BadRequest(f"input {shown(name)}: data is nested {depth} deep, expected 1 or {len(shape)}")
    try:
        values = _lists(element, depth).decode(text)
    except msgspec.DecodeError as error:
        hint = "; null is no number, send NaN as binary data" if "got `null`" in str(error) else ""
        raise BadRequest(f"data of input {shown(name)} ({datatype}): {error}{hint}") from None
    if depth > 1:
        return _flat(name, values, shape)
    return values if depth else [values]


def _flat(name: str, values: list[Any], shape: Shape) -> list[Any]:
    lengths = {len(values)}
    for axis, size in enumerate(shape):
        if wrong := lengths - {size}:
            raise BadRequest(f"input {shown(name)}: got {min(wrong)} elements along axis {axis}, expected {size}")
        if axis + 1 < len(shape):
            lengths = set(map(len, values))
            values = list(chain.from_iterable(values))
    return values


def _packed(name: str, datatype: str, code: str, values: list[Any], shape: Shape) -> Array:
    try:
        packed = struct.pack(f"<{len(values)}{code}", *values)
    except (struct.error, OverflowError):
        unfit = next(value for value in values if not _fits(code, value))
        raise BadRequest(f"input {shown(name)}: {shown(unfit)} is out of the range of {datatype}") from None
    return np.ndarray(shape, DATATYPES[datatype], packed)


def _fits(code: str, value: float) -> bool:
    try:
        return bool(struct.pack("<" + code, value))
    except (struct.error, OverflowError):
        return False


def _elements(name: str, data: memoryview, count: int) -> Iterator[bytes]:
    at = 0
    for index in range(count):
        start = at + 4
        at = start + int.from_bytes(data[at:start], "little")
        if at > len(data):
            raise BadRequest(f"input {shown(name)}: the data ends within element {index} of {count}")
        yield bytes(data[start:at])
    if at != len(data):
        raise BadRequest(f"input {shown(name)}: {len(data) - at} bytes are left over after {count} elements")


def _miscount(name: str, shape: Shape, count: int, got: str) -> BadRequest:
    return BadRequest(f"input {shown(name)}: got {got} elements, expected {count} for shape {list(shape)}")
