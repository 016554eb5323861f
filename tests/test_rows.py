"""Reference rows arrive in the types the model is fed, or are refused with the column's name."""

import itertools
from datetime import UTC, date, datetime
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from serving.errors import PublishRefused
from serving.manifest import Feature
from serving.protocol import Signature, TensorSpec
from serving.rows import Lot, Part, Rows


def _rows(folder: Path, values: list[Any], kind: Any = None) -> Part:
    parquet.write_table(pa.table({"c": pa.array(values, kind)}), folder / "rows.parquet")
    return _all(folder / "rows.parquet")


def _all(path: Path) -> Part:
    return Rows(path, ["c"]).sample().part


def _feed(rows: Part, datatype: str, shape: tuple[int, ...] = (-1,)) -> Any:
    return rows.tensors(Signature((TensorSpec("x", datatype, shape),), ()), [Feature("c", "x")])["x"]


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, None, 3], None, [1, np.nan, 3]),
        ([True, False, None], None, [1, 0, np.nan]),
        ([Decimal("1.5"), None], None, [1.5, np.nan]),
        ([None, None], None, [np.nan, np.nan]),
        ([1e300, -1e300], None, [np.inf, -np.inf]),
    ],
)
def test_numbers_become_the_inputs_type_and_gaps_nan(
    tmp_path: Path, values: list[Any], kind: Any, expected: list[float]
) -> None:
    fed = _feed(_rows(tmp_path, values, kind), "FP32")
    assert fed.dtype == np.float32
    np.testing.assert_array_equal(fed, expected)


def test_large_whole_numbers_stay_exact(tmp_path: Path) -> None:
    assert _feed(_rows(tmp_path, [2**53 + 1, -1]), "INT64").tolist() == [2**53 + 1, -1]
    with pytest.raises(PublishRefused, match="column 'c' holds values that input 'x'"):
        _feed(_rows(tmp_path, [300, 1]), "UINT8")


def test_text_is_bytes_and_categories_are_their_words(tmp_path: Path) -> None:
    assert _feed(_rows(tmp_path, ["a", None, "ö"]), "BYTES").tolist() == [b"a", b"", "ö".encode()]
    words = pa.array(["x", "y", "x"]).dictionary_encode()
    parquet.write_table(pa.table({"c": words}), tmp_path / "d.parquet")
    fed = _feed(_all(tmp_path / "d.parquet"), "BYTES", (-1, 1))
    assert fed.tolist() == [[b"x"], [b"y"], [b"x"]]


def test_times_are_seconds(tmp_path: Path) -> None:
    moment = datetime(2013, 1, 1, 12, tzinfo=UTC)
    expected = moment.timestamp()
    assert _rows(tmp_path, [moment, moment]).times("c").tolist() == [expected] * 2
    assert _rows(tmp_path, [datetime(2013, 1, 1, 12)], pa.timestamp("ns")).times("c").tolist() == [expected]
    odd = [1_357_041_600_000_000_789]
    assert _rows(tmp_path, odd, pa.timestamp("ns")).times("c").tolist() == [1_357_041_600.0]
    assert _rows(tmp_path, [date(2013, 1, 1)]).times("c").tolist() == [expected - 43200]
    assert _rows(tmp_path, [expected]).times("c").tolist() == [expected]
    with pytest.raises(PublishRefused, match="column 'c' holds times, but 1 are missing"):
        _rows(tmp_path, [moment, None]).times("c")
    for values, kind in (([2**62], pa.timestamp("ms")), ([1], pa.time32("s"))):
        with pytest.raises(PublishRefused, match=r"column 'c' holds time.*, times since 1970 are needed: "):
            _rows(tmp_path, values, kind).times("c")


def test_labels_may_be_unknown(tmp_path: Path) -> None:
    np.testing.assert_array_equal(_rows(tmp_path, [True, None]).labels("c"), [1, np.nan])
    with pytest.raises(PublishRefused, match="column 'c' holds string, numbers are needed"):
        _rows(tmp_path, ["yes"]).labels("c")


def test_files_that_give_no_rows(tmp_path: Path) -> None:
    with pytest.raises(PublishRefused, match="has no rows"):
        _rows(tmp_path, [], pa.float64())
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "rows.parquet").read_bytes()[:-10])
    (tmp_path / "twice.csv").write_text("c,c\n1,2\n")
    (tmp_path / "empty.csv").write_text("")
    wrong = {"cut.parquet": "cannot read", "twice.csv": "several columns 'c'", "empty.csv": "cannot read"}
    for name, sentence in wrong.items():
        with pytest.raises(PublishRefused, match=sentence):
            _all(tmp_path / name)


def test_an_input_without_a_feature_is_named(tmp_path: Path) -> None:
    signature = Signature((TensorSpec("x", "FP32", (-1,)), TensorSpec("y", "FP32", (-1,))), ())
    with pytest.raises(PublishRefused, match="gives no values for input 'y'"):
        _rows(tmp_path, [1.0]).tensors(signature, [Feature("c", "x")])


@settings(deadline=None, max_examples=40)
@given(cuts=st.lists(st.integers(1, 400), min_size=1, max_size=20), size=st.sampled_from([1, 60, 700, 2_000]))
def test_a_sample_does_not_know_how_the_file_is_cut(
    cuts: list[int], size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "cuts.stream"
    table = pa.table({"c": np.arange(sum(cuts))})
    ends = np.cumsum([0, *cuts])
    with pa.ipc.new_stream(path, table.schema) as stream:
        for a, b in itertools.pairwise(ends.tolist()):
            stream.write_table(table.slice(a, b - a))
    sample = Rows(path, ["c"]).sample(size)
    assert sample.rows == sum(cuts) and len(sample.part) == min(size, sum(cuts))
    assert sample.part.labels("c").tolist() == sample.numbers.tolist() == sorted(set(sample.numbers.tolist()))
    with pa.ipc.new_stream(path, table.schema) as stream:
        stream.write_table(table)
    assert Rows(path, ["c"]).sample(size).numbers.tolist() == sample.numbers.tolist()
    parts = [part.labels("c") for part in Rows(path, ["c"]).parts(size)]
    assert np.concatenate(parts).tolist() == table["c"].to_pylist()


def test_every_row_has_the_same_chance() -> None:
    """Of a hundred thousand rows a tenth is drawn: from each tenth of the file, and of rows with each remainder."""
    lot = Lot(10_000)
    for first in range(0, 100_000, 3_000):
        lot.add(pa.record_batch({"c": np.arange(first, min(first + 3_000, 100_000))}))
    assert lot.table()["c"].to_pylist() == lot.numbers.tolist() and len(lot.numbers) == 10_000
    for group in (lot.numbers // 10_000, lot.numbers % 10):
        drawn = np.bincount(group, minlength=10)
        assert (abs(drawn - 1_000) < 5 * np.sqrt(1_000 * 0.9)).all()


def test_the_digest_of_a_folder_is_that_of_its_files(tmp_path: Path) -> None:
    for name in ("a.parquet", "b.parquet"):
        parquet.write_table(pa.table({"c": [1.0]}), tmp_path / name)
    whole = Rows(tmp_path, ["c"]).digest()
    assert Rows(tmp_path / "a.parquet", ["c"]).digest() == sha256((tmp_path / "a.parquet").read_bytes()).hexdigest()
    (tmp_path / "b.parquet").rename(tmp_path / "c.parquet")
    assert Rows(tmp_path, ["c"]).digest() != whole
