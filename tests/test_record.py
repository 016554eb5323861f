"""Records come back as they were, to the bit."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from serving import record
from serving.protocol import DATATYPES, Array
from serving.record import Column, Record

elements: dict[str, st.SearchStrategy[Any]] = {
    "BYTES": st.binary(max_size=5),
    "BOOL": st.booleans(),
    **{name: st.integers(0, 127) for name in DATATYPES if name not in ("BYTES", "BOOL")},
}


@given(data=st.data(), datatype=st.sampled_from(sorted(DATATYPES)), shape=st.lists(st.integers(0, 4), max_size=3))
def test_columns_come_back_for_every_datatype(data: st.DataObject, datatype: str, shape: list[int]) -> None:
    count = int(np.prod(shape))
    values = data.draw(st.lists(elements[datatype], min_size=count, max_size=count))
    flat: Array = np.empty(count, DATATYPES[datatype])
    for i, value in enumerate(values):
        flat[i] = value
    array = flat.reshape(shape)
    back = Column.of(datatype, array).array()
    assert back.dtype == array.dtype and back.shape == array.shape
    assert back.tolist() == array.tolist()


def test_columns_keep_every_bit_of_a_float() -> None:
    array = np.array([np.nan, -0.0, np.inf, 5e-324, 1.0])
    assert Column.of("FP64", array).array().tobytes() == array.tobytes()


def test_columns_of_a_slice_are_in_row_major_order() -> None:
    array = np.arange(12, dtype=np.int64).reshape(3, 4).T[::2]
    assert Column.of("INT64", array).array().tolist() == array.tolist()


def whole() -> Record:
    column = Column.of("FP32", np.arange(6, dtype=np.float32).reshape(3, 2))
    return Record(
        model="flights",
        version="1",
        digest="d" * 64,
        role="primary",
        ids=["a", "b"],
        first_rows=[0, 0],
        counts=[1, 2],
        reasons=["weights", "override"],
        propensities=[0.9, 1.0],
        keys=[2**64 - 1, 0],
        event_times=[1.5, 2.5],
        arrival_times=[1.25, 2.25],
        statuses=[200, 200],
        queue_s=[0.0, 1e-4],
        infer_s=1e-5,
        inputs={"x": column},
        outputs={"y": column},
    )


def test_records_come_back() -> None:
    assert record.decode(record.encode(whole())) == whole()
    assert whole().rows == 3
