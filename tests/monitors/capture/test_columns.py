"""Captured rows are the records' rows, whatever their datatypes and shapes."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from monitors.bundle import Bundle, join, numbers
from monitors.capture.columns import rows, schema
from monitors.labels import share
from serving.packed import Cut
from serving.protocol import DATATYPES, Array
from serving.record import Column, Record
from tests.monitors.capture.captured import CUTS, NOW, excerpted, expected, key, records
from tests.monitors.traffic import packed

WHOLE = {name: np.iinfo(kind) for name, kind in DATATYPES.items() if kind.kind in "iu"}
ELEMENTS: dict[str, st.SearchStrategy[Any]] = {
    **{name: st.integers(int(bounds.min), int(bounds.max)) for name, bounds in WHOLE.items()},
    "BYTES": st.binary(max_size=5),
    "BOOL": st.booleans(),
    "FP16": st.floats(width=16, allow_nan=False),
    "FP32": st.floats(width=32, allow_nan=False),
    "FP64": st.floats(allow_nan=False),
    "BF16": st.integers(0, 0x7F7F),
}


def batch(found: list[Record]) -> Any:
    """Of records of one layout."""
    bundled = packed(found)
    bundle = Bundle(bundled[0].layout, bundled, join(bundled))
    return rows(bundle, schema(bundle.layout))


@st.composite
def tensors(draw: st.DrawFn, n: int) -> tuple[str, Array]:
    """A tensor of n rows."""
    datatype = draw(st.sampled_from(sorted(DATATYPES)))
    shape = (n, *draw(st.lists(st.integers(0, 3), max_size=2)))
    flat: Array = np.empty(math.prod(shape), DATATYPES[datatype])
    for i in range(len(flat)):
        flat[i] = draw(ELEMENTS[datatype])
    return datatype, flat.reshape(shape)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), counts=st.lists(st.integers(0, 2), min_size=1, max_size=3))
def test_every_datatype_and_shape_comes_back(data: st.DataObject, counts: list[int]) -> None:
    n = sum(counts)
    drawn = data.draw(st.lists(tensors(n), min_size=1, max_size=3))
    columns = {f"t{i}": Column.of(*one) for i, one in enumerate(drawn)}
    cuts = [Cut(name, i, None, c.datatype, len(c.shape) - 1) for i, (name, c) in enumerate(columns.items())]
    cuts += [Cut(f"{name}:1", i, 1, c.datatype, 0) for i, (name, c) in enumerate(columns.items())
             if math.prod(c.shape[1:]) > 1]  # fmt: skip
    q = len(counts)
    record = Record(
        model="m", version="1", digest="d", role="primary", ids=[f"r{k}" for k in range(q)], first_rows=[7] * q,
        counts=counts, reasons=["weight"] * q, propensities=[0.25] * q, keys=[2**64 - 1] * q,
        event_times=[math.nan] * q, arrival_times=[NOW] * q, statuses=[200] * q, queue_s=[0.0] * q, infer_s=0.0,
        inputs=columns, outputs={},
    )  # fmt: skip
    found = batch([excerpted(record, cuts=cuts)])
    found.validate(full=True)
    inputs = found.column("inputs")
    for name, column in columns.items():
        array = numbers(column)
        assert inputs.field(name).to_pylist() == array.tolist()
        if math.prod(column.shape[1:]) > 1:
            assert inputs.field(f"{name}:1").to_pylist() == array.reshape(n, math.prod(column.shape[1:]))[:, 1].tolist()


def test_the_facts_of_a_row_are_those_of_its_request() -> None:
    (one,) = records(1, first=8)
    found = batch([one]).to_pylist()
    assert [(row["request_id"], row["row"]) for row in found] == expected([one]) == [("r8", 0), ("r8", 1), ("r8", 2)]
    facts = {name: found[1][name] for name in ("status", "role", "propensity", "sampling", "key_hash")}
    assert facts == {"status": 200, "role": "primary", "propensity": 1.0, "sampling": 1.0, "key_hash": key(3)}
    assert found[1]["arrival_time"].timestamp() - found[1]["event_time"].timestamp() == 0
    assert found[1]["inputs"] == {"x0": 8.0, "x2": 8.0} and len(found[1]["outputs"]["p"]) == 2


def test_a_column_that_a_row_is_too_narrow_to_have_is_null_and_its_schema_the_same() -> None:
    (wide,) = records(1)
    narrow = replace(wide, inputs={"x": Column.of("FP32", np.ones((1, 2), np.float32))})
    found = batch([narrow])
    assert found.schema.equals(batch([wide]).schema, check_metadata=True)
    assert found.column("inputs").to_pylist() == [{"x0": 1.0, "x2": None}]


def test_a_failed_request_has_neither_inputs_nor_outputs_and_the_same_schema() -> None:
    good, failed = batch(records(1)), batch(records(1, first=6))
    assert good.schema.equals(failed.schema, check_metadata=True)
    row = failed.to_pylist()[0]
    assert (row["status"], row["inputs"], row["outputs"], row["key_hash"]) == (500, None, None, key(1))


def test_times_that_are_none_and_keys_that_are_none_are_null() -> None:
    (one,) = records(1)
    for time in (math.nan, math.inf, -1e300):
        row = batch([replace(one, event_times=[time])]).to_pylist()[0]
        assert row["event_time"] is None and row["key_hash"] is None


def test_times_are_utc_to_the_microsecond() -> None:
    (one,) = records(1, start=NOW + 0.123456)
    (at,) = batch([one]).column("arrival_time").cast(pa.int64()).to_pylist()
    assert at == 1_764_000_000_123_456


@pytest.mark.parametrize("sample", [0.1, 0.5])
def test_a_sample_has_its_share_of_requests_and_all_rows_of_each(sample: float) -> None:
    requests = 2000
    found = batch([one for one in records(requests, sample=sample) if one.inputs])
    kept = set(found.column("request_id").to_pylist())
    n = sum(1 for k in range(requests) if k % 7 != 6)
    assert abs(len(kept) - n * sample) < 4 * math.sqrt(n * sample * (1 - sample))
    assert found.num_rows == sum(1 + int(id[1:]) % 3 for id in kept)
    assert set(found.column("sampling").to_pylist()) == {sample}


def test_the_parts_of_a_request_and_all_nodes_agree_on_the_sample() -> None:
    """A larger sample holds a smaller one, and whoever looks at an id decides alike."""
    small, large = (set(batch(records(6, sample=s)).column("request_id").to_pylist()) for s in (0.3, 0.7))
    assert small <= large == {f"r{k}" for k in range(6) if share("m", f"r{k}") < 0.7}


def test_ids_that_are_no_text_can_be_written() -> None:
    (one,) = records(1)
    assert batch([replace(one, ids=["a\udcff"])]).column("request_id").to_pylist() == ["a?"]


def test_without_outputs_there_is_no_such_column() -> None:
    (one,) = records(1)
    found = batch([excerpted(one, cuts=CUTS[:1])])
    assert "outputs" not in found.schema.names and "inputs" in found.schema.names
