from typing import Any

import msgspec
import numpy as np
import pytest

from monitors.features import extract_all
from serving.manifest import Feature, Manifest, Prediction
from serving.protocol import Signature
from serving.record import Column, Record

MANIFEST = Manifest(
    model="flights",
    version="1",
    files={},
    signature=Signature((), ()),
    rows_independent=True,
    task="classification",
    prediction=Prediction("probabilities", 1),
    features=(
        Feature("hour", "x", 0),
        Feature("distance", "x", 2),
        Feature("carrier", "c", kind="categorical"),
        Feature("age", "age"),
    ),
)


def record(rows: int = 3, **inputs: Column) -> Record:
    x = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    carriers = np.array([b"AA", b"UA", b"DL"] * rows, object)[:rows]
    columns = {
        "x": Column.of("FP32", x),
        "c": Column.of("BYTES", carriers.reshape(rows, 1)),
        "age": Column.of("INT64", np.arange(rows)),
    }
    probabilities = np.stack([np.zeros(rows), np.full(rows, 0.25)], axis=1).astype(np.float32)
    return Record(
        model="flights",
        version="1",
        digest="",
        role="primary",
        ids=["a"],
        first_rows=[0],
        counts=[rows],
        reasons=["weight"],
        propensities=[1.0],
        keys=[0],
        event_times=[0.0],
        arrival_times=[0.0],
        statuses=[200],
        queue_s=[0.0],
        infer_s=0.0,
        inputs=columns | inputs,
        outputs={"probabilities": Column.of("FP32", probabilities)},
    )


def test_columns_inputs_and_the_prediction() -> None:
    values = extract_all([record()], MANIFEST)
    assert {name: column.tolist() for name, column in values.items()} == {
        "hour": [0, 3, 6],
        "distance": [2, 5, 8],
        "carrier": [b"AA", b"UA", b"DL"],
        "age": [0, 1, 2],
        "_prediction": [0.25] * 3,
    }
    assert values["hour"].dtype == np.float32


def test_records_together_are_the_records_one_after_the_other() -> None:
    records = [record(1), record(4), failed(), record(2)]
    apart = [extract_all([one], MANIFEST) for one in records if one.outputs]
    together = extract_all(records, MANIFEST)
    assert together.keys() == apart[0].keys()
    for name, column in together.items():
        assert column.tolist() == np.concatenate([one[name] for one in apart]).tolist()


def failed() -> Record:
    return msgspec.structs.replace(record(), inputs={}, outputs={})


@pytest.mark.parametrize("records", [[], [failed()]])
def test_nothing_was_computed(records: list[Record]) -> None:
    assert extract_all(records, MANIFEST) == {}


def test_an_input_that_is_not_recorded_is_left_out() -> None:
    one = record()
    without = msgspec.structs.replace(one, inputs={"x": one.inputs["x"]})
    assert set(extract_all([without], MANIFEST)) == {"hour", "distance", "_prediction"}
    assert set(extract_all([one, without], MANIFEST)) == {"hour", "distance", "_prediction"}


def test_a_version_without_prediction() -> None:
    assert "_prediction" not in extract_all([record()], msgspec.structs.replace(MANIFEST, prediction=None))


def test_bf16_is_read_as_the_number_it_is() -> None:
    bits = (np.array([1.5, -2.0, 0.0], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    assert extract_all([record(age=Column.of("BF16", bits))], MANIFEST)["age"].tolist() == [1.5, -2.0, 0.0]


def test_tensors_of_different_widths_are_not_laid_together() -> None:
    other: Any = Column.of("FP32", np.zeros((3, 5), np.float32))
    assert "hour" not in extract_all([record(), record(x=other)], MANIFEST)
