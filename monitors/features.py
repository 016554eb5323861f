"""Declared features and the prediction of records: named columns of numbers or categories."""

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from monitors.reference import PREDICTION
from serving.manifest import Feature, Manifest
from serving.protocol import Array
from serving.record import Column, Record


def extract_all(records: Sequence[Record], manifest: Manifest) -> dict[str, Array]:
    """Of records of one version: feature name -> shape (rows,), and `_prediction` where the version declares one.

    Rows come one record after the other. Failed batches are passed over; what one of the other records does not
    carry (an input that is not on the allow list) is left out of all. Tensors are joined as bytes, before they
    become arrays: a record of one row costs little.
    """
    whole = [record for record in records if record.outputs]
    columns = select(manifest.features, _joined([record.inputs for record in whole]))
    if manifest.prediction is None:
        return columns
    column = Feature(PREDICTION, manifest.prediction.output, manifest.prediction.column)
    return columns | select([column], _joined([record.outputs for record in whole]))


def select(features: Sequence[Feature], tensors: Mapping[str, Column]) -> dict[str, Array]:
    """The declared columns of `tensors`, each of shape (rows,); a feature whose tensor is not there is left out."""
    arrays = {name: numbers(tensors[name]) for name in {f.input for f in features} & tensors.keys()}
    return {f.name: column(arrays[f.input], f.column) for f in features if f.input in arrays}


def column(array: Array, number: int | None) -> Array:
    """Column `number` of an array [rows, …]; None: its only one.

    >>> column(np.arange(6).reshape(3, 2), 1).tolist(), column(np.zeros((0, 1)), None).tolist()
    ([1, 3, 5], [])
    """
    return array.reshape(len(array), prod(array.shape[1:]))[:, number or 0]


def numbers(tensor: Column) -> Array:
    """The tensor as an array; BF16, which numpy lacks, as the float32 that it is the upper half of."""
    array = tensor.array()
    if tensor.datatype != "BF16":
        return array
    return (array.astype(np.uint32) << 16).view(np.float32)


def _joined(batches: Sequence[Mapping[str, Column]]) -> dict[str, Column]:
    """The tensors that every batch has, in one shape but for its rows."""
    names = set.intersection(*(set(batch) for batch in batches)) if batches else set()
    return {name: _join(same) for name in names if _alike(same := [batch[name] for batch in batches])}


def _alike(tensors: Sequence[Column]) -> bool:
    return len({(tensor.datatype, tensor.shape[1:]) for tensor in tensors}) == 1


def _join(tensors: Sequence[Column]) -> Column:
    rows = sum(tensor.shape[0] for tensor in tensors)
    return Column(tensors[0].datatype, (rows, *tensors[0].shape[1:]), b"".join(tensor.data for tensor in tensors))
