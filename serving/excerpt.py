"""What of a version's requests is captured: listed columns, redacted before they are written anywhere.

A column that the monitors have recorded anyway is captured from their tensor. All else, and whatever is redacted,
is an extra tensor of the record: what it was before redaction is in the ring only where the monitors count it.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from hashlib import blake2b
from math import prod
from typing import NamedTuple

import numpy as np

from serving import packed
from serving.config import Capture
from serving.manifest import Manifest
from serving.packed import Cut
from serving.protocol import Array, TensorSpec

log = logging.getLogger("gaugeway.capture")

Rule = Callable[[Array], Array]


class Extra(NamedTuple):
    """A tensor made of input number `place`: of its column `column`, None: of all, what `rule` leaves. No rule: all."""

    name: str
    datatype: str
    place: int
    column: int | None
    rule: Rule | None = None

    def of(self, requests: Sequence[Sequence[Array]]) -> list[Array]:
        """Of the inputs of some requests that ran together, arrays whose rows, one after the other, are theirs.

        Rows that are too narrow to have the column have no element.
        """
        arrays = [inputs[self.place] for inputs in requests]
        if self.rule is None:
            return arrays
        array = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        if self.column is None:
            return [self.rule(array)]
        rows = array.reshape(len(array), prod(array.shape[1:]))
        return [self.rule(rows[:, self.column]) if self.column < rows.shape[1] else rows[:, :0]]


class Captured(NamedTuple):
    """For the recorder: what it adds to a record, and what the record says of itself. No excerpt: nothing."""

    extras: tuple[Extra, ...] = ()
    excerpt: packed.Excerpt | None = None


class _Listed(NamedTuple):
    name: str
    place: int
    column: int | None  # None: all of an input that no feature is declared of


def hashing_key(secret: str) -> bytes:
    """The secret of hashes, of a cluster's secret: the same on all its nodes, and of no use on a channel."""
    return blake2b(secret.encode(), person=b"gaugeway capture", digest_size=32).digest() if secret else b""


def captured(
    manifest: Manifest, capture: Capture, inputs: Sequence[int], outputs: Sequence[int], secret: bytes
) -> Captured:
    """`inputs` and `outputs` are the places, in the signature, of the tensors that are recorded anyway.

    What a rule cannot be applied to is withheld; so are inputs that may have other rows than the request: all but the
    first, of a version whose rows are not independent.
    """
    if not capture.enabled:
        return Captured()
    specs, cuts, extras = manifest.signature.inputs, list[Cut](), list[Extra]()
    for name, place, column in _listed(manifest, capture):
        spec = specs[place]
        said = capture.redact.get(name, capture.redact.get(spec.name, ""))
        rank = max(len(spec.shape) - 1, 0) if column is None else 0
        aligned = manifest.rows_independent or not place
        if not said and place in inputs:
            cuts.append(Cut(name, inputs.index(place), column, spec.datatype, rank))
        elif aligned and (extra := _extra(name, place, column, spec.datatype, said, secret)) is not None:
            cuts.append(Cut(name, len(inputs) + len(outputs) + len(extras), None, extra.datatype, rank))
            extras.append(extra)
        elif said != "drop":
            why = f"rule {said!r} does not fit {spec.datatype}" if aligned else "its rows may not be the request's"
            log.warning("%s of %r version %r is not captured: %s", name, manifest.model, manifest.version, why)
    predicted = [manifest.signature.outputs[place] for place in outputs]
    cuts += [_predicted(spec, len(inputs) + i) for i, spec in enumerate(predicted)]
    return Captured(tuple(extras), packed.Excerpt(tuple(cuts), capture.sample))


def _listed(manifest: Manifest, capture: Capture) -> Iterator[_Listed]:
    """Every column that a name stands for, once; a name that this version does not know stands for none."""
    places = {spec.name: i for i, spec in enumerate(manifest.signature.inputs)}
    by_name = {f.name: _Listed(f.name, places[f.input], f.column or 0) for f in manifest.features if f.input in places}
    found: dict[str, _Listed] = {}
    for name in capture.features:
        if name in by_name:
            found[name] = by_name[name]
        elif name in places:
            of = [one for one in by_name.values() if one.place == places[name]]
            found |= {one.name: one for one in of or [_Listed(name, places[name], None)]}
    yield from found.values()


def _predicted(spec: TensorSpec, number: int) -> Cut:
    return Cut(spec.name, number, None, spec.datatype, max(len(spec.shape) - 1, 0), output=True)


def _extra(name: str, place: int, column: int | None, datatype: str, said: str, secret: bytes) -> Extra | None:
    """None: nothing may be written."""
    rule, _, size = said.partition(":")
    if not rule:
        return Extra(name, datatype, place, column)
    if rule == "hash" and secret:
        return Extra(name, "UINT64", place, column, partial(_hashed, secret=secret))
    if rule == "truncate" and datatype == "BYTES":
        return Extra(name, datatype, place, column, partial(_shortened, size=int(size)))
    if rule == "truncate" and datatype in ("FP16", "FP32", "FP64"):
        return Extra(name, datatype, place, column, partial(_rounded, decimals=int(size)))
    return None


def _hashed(array: Array, secret: bytes) -> Array:
    """64 bits of keyed BLAKE2b of each element's bytes, shape as before."""
    if array.dtype.hasobject:
        elements = array.ravel().tolist()
    else:
        data, size = array.tobytes(), array.itemsize
        elements = [data[at : at + size] for at in range(0, len(data), size)]
    digests = b"".join([blake2b(element, digest_size=8, key=secret).digest() for element in elements])
    return np.frombuffer(digests, "<u8").reshape(array.shape)


def _shortened(array: Array, size: int) -> Array:
    """The first `size` bytes of each text."""
    short = np.empty(array.size, object)
    short[:] = [element[:size] for element in array.ravel().tolist()]
    return short.reshape(array.shape)


def _rounded(array: Array, decimals: int) -> Array:
    """To so many decimals; what is not finite, or too large to have so many, stays."""
    exact = array.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        short = np.round(exact, decimals)
    found: Array = np.where(np.isfinite(short), short, exact).astype(array.dtype)
    return found
