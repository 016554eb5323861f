"""Declared features and the prediction of records: named columns of tensors."""

from collections.abc import Sequence
from math import prod

from monitors.bundle import Bundle
from monitors.reference import PREDICTION, Profile
from serving.manifest import Feature, Manifest
from serving.packed import Layout
from serving.protocol import Array


def declared(manifest: Manifest, layout: Layout) -> list[Feature]:
    """The features whose tensor the records have, and the prediction, for `tensors` of such records.

    Raises ValueError where their rows are too narrow for a feature.
    """
    widths = {tensor.name: prod(tensor.shape) for tensor in layout.inputs}
    found = [feature for feature in manifest.features if feature.input in widths]
    for feature in found:
        number, width = feature.column or 0, widths[feature.input]
        if number >= width:
            raise ValueError(f"feature {feature.name!r} is column {number} of {feature.input!r}, which has {width}")
    return [*found, Feature(PREDICTION, PREDICTION)] if _predicted(manifest, layout) else found


def clustering(unit: str, features: Sequence[Feature]) -> Feature | None:
    """The declared feature that names the clusters; None where rows or blocks are the unit, or it is not declared.

    >>> user = Feature("user", "x", 0)
    >>> clustering("cluster:user", [user]) == user, clustering("row", [user]), clustering("cluster:plane", [user])
    (True, None, None)
    """
    _, _, name = unit.partition(":")
    return next((feature for feature in features if feature.name == name), None) if name else None


def of_unit(unit: str, features: Sequence[Feature], profile: Profile | None) -> tuple[str, ...]:
    """A sentence for people where clusters cannot be told apart, or the reference counts other rows than live."""
    _, _, named = unit.partition(":")
    if named and clustering(unit, features) is None:
        return (f"nothing is judged but harm: monitors.unit is {unit!r}, and the version declares no such feature",)
    return _miscounted(named, profile) if profile else ()


def _miscounted(named: str, profile: Profile) -> tuple[str, ...]:
    """A sentence where the reference counts other rows than live: there one of each `named` and block; "": all."""
    if profile.cluster == named:
        return ()
    then, now = (f"one of each {name} and block is" if name else "all are" for name in (profile.cluster, named))
    return (f"of the reference's rows {then} counted, of live ones {now}: where these differ that is drift",)


def tensors(bundle: Bundle, manifest: Manifest) -> dict[str, Array]:
    """By name, rows along axis 0: the inputs, and the prediction as `_prediction`, of shape (rows,)."""
    prediction = manifest.prediction
    if prediction is None or not _predicted(manifest, bundle.layout):
        return bundle.inputs
    return bundle.inputs | {PREDICTION: column(bundle.outputs[prediction.output], prediction.column)}


def column(array: Array, number: int | None) -> Array:
    """Column `number` of an array [rows, …]; None: its only one. Raises IndexError where rows are too narrow.

    >>> import numpy as np
    >>> column(np.arange(6).reshape(3, 2), 1).tolist(), column(np.zeros((0, 1)), None).tolist()
    ([1, 3, 5], [])
    """
    return array.reshape(len(array), prod(array.shape[1:]))[:, number or 0]


def _predicted(manifest: Manifest, layout: Layout) -> bool:
    return manifest.prediction is not None and manifest.prediction.output in {t.name for t in layout.outputs}
