import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from monitors.bundle import SHORT, bundles, join
from serving.record import Column, Record
from tests.monitors.traffic import FEATURES, packed
from tests.monitors.traffic import record as one_record


def record(*ids: str, rows: int = 1, first: int = 0) -> Record:
    """Its rows say which they are."""
    n = len(ids) * rows
    x = np.zeros((n, FEATURES), np.float32)
    x[:, 0] = [100 * int(id[1:]) + first + k for id in ids for k in range(rows)]
    return msgspec.structs.replace(one_record(ids, x, [1.0] * len(ids)), first_rows=[first] * len(ids))


def test_rows_know_their_request_and_their_number_in_it() -> None:
    found = packed([record("r1"), record("r2", "r3", rows=3, first=5), record("r14", rows=0), record("r5", rows=2)])
    ((bundle, which),) = bundles(found, join(found))
    assert which.all() and bundle.ids == b"r1r2r3r14r5"
    assert bundle.counts.tolist() == [1, 3, 3, 0, 2]
    number = np.array([1, 2, 3, 14, 5])[bundle.request]
    assert bundle.inputs["x"][:, 0].tolist() == (100 * number + bundle.row).tolist()
    assert bundle.spread(bundle.requests["rows"]).tolist() == [1, 3, 3, 3, 3, 3, 3, 2, 2]


def test_records_of_one_row_each_are_their_requests() -> None:
    found = packed([record("r1"), record("r2", first=3)])
    ((bundle, _),) = bundles(found, join(found))
    assert bundle.row.tolist() == [0, 3] and bundle.request.tolist() == [0, 1]
    assert bundle.spread(bundle.counts) is bundle.counts


def test_tensors_of_different_widths_are_not_laid_together() -> None:
    wide = msgspec.structs.replace(record("r2"), inputs={"x": Column.of("FP32", np.zeros((1, 7), np.float32))})
    failed = msgspec.structs.replace(record("r4"), inputs={}, outputs={}, statuses=[500])
    found = packed([record("r1"), wide, record("r3"), failed])
    parts = [(bundle.ids, which.tolist(), sorted(bundle.inputs)) for bundle, which in bundles(found, join(found))]
    assert parts == [
        (b"r1r3", [True, False, True, False], ["x"]),
        (b"r2", [False, True, False, False], ["x"]),
        (b"r4", [False, False, False, True], []),
    ]


texts = st.lists(st.binary(max_size=12) | st.binary(max_size=SHORT + 1), min_size=1, max_size=6)


@given(st.lists(texts, min_size=1, max_size=3))
def test_texts_of_several_records_come_back(parts: list[list[bytes]]) -> None:
    """As fixed-width bytes where none is long or ends with a zero, which numpy would take off."""
    found = packed([worded(part) for part in parts])
    ((bundle, _),) = bundles(found, join(found))
    values, words = [text for part in parts for text in part], bundle.inputs["t"]
    assert words.tolist() == [[text, text[::-1]] for text in values]
    both = [text for one in values for text in (one, one[::-1])]
    assert (words.dtype.kind == "S") == all(len(text) <= SHORT and not text.endswith(b"\0") for text in both)


def worded(values: list[bytes]) -> Record:
    column = np.empty((len(values), 2), object)
    column[:, 0], column[:, 1] = values, [text[::-1] for text in values]
    one = record(*(f"r{k}" for k in range(len(values))))
    return msgspec.structs.replace(one, inputs={"t": Column.of("BYTES", column)})


def test_an_output_without_elements_is_one() -> None:
    empty = msgspec.structs.replace(record("r1"), inputs={"t": Column.of("BYTES", np.empty((1, 0), object))})
    found = packed([empty, empty])
    ((bundle, _),) = bundles(found, join(found))
    assert bundle.inputs["t"].shape == (2, 0)
