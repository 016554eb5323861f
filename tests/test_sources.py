"""The same table in any format gives the same rows; what is broken is told with got, expected and where."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import csv, feather, ipc, parquet

from serving.errors import PublishRefused
from serving.rows import Rows
from serving.sources import Csv, open_source

WORDS = ("1", "0", "", "true", "1.5", "x", "NA", "inf", "12:00:00", "2013-01-01", "2013-01-01 00:00:00",
         "2013-01-01 00:00:00.5", "2013-01-01T00:00:00Z", "2013-01-01 00:00:00.25Z")  # fmt: skip
FORMATS = ("rows.parquet", "folder", "rows.arrow", "rows.stream", "rows.feather", "rows.csv")


def _table(rows: int = 500) -> Any:
    rng = np.random.default_rng(1)
    words = np.array(["a", "b", "ö", "d e"])[rng.integers(0, 4, rows)]
    return pa.table({"x": rng.normal(size=rows), "n": rng.integers(0, 9, rows), "w": words, "t": np.arange(rows) * 60})


def _write(table: Any, folder: Path, name: str) -> Path:
    path = folder / name
    if name == "rows.parquet":
        parquet.write_table(table, path, row_group_size=70)
    elif name == "folder":
        (path / "year=2013").mkdir(parents=True, exist_ok=True)
        parquet.write_table(table.slice(0, 200), path / "a.parquet")
        parquet.write_table(table.slice(200), path / "year=2013" / "b.parquet")
        (path / "_SUCCESS").touch()
        (path / ".hidden.parquet").touch()
    elif name == "rows.arrow":
        with ipc.new_file(path, table.schema) as file:
            file.write_table(table, max_chunksize=90)
    elif name == "rows.stream":
        with ipc.new_stream(path, table.schema) as stream:
            stream.write_table(table)
    elif name == "rows.feather":
        feather.write_feather(table, path, chunksize=130)
    else:
        csv.write_csv(table, path)
    return path


@pytest.mark.parametrize("name", FORMATS)
def test_all_formats_give_the_same_rows(tmp_path: Path, name: str) -> None:
    table = _table()
    rows = Rows(_write(table, tmp_path, name), ["w", "x", "t"])
    sample = rows.sample()
    assert sample.rows == len(sample.part) == 500
    assert sample.numbers.tolist() == list(range(500))
    assert sample.part.labels("x").tolist() == table["x"].to_pylist()
    assert sample.part.times("t").tolist() == table["t"].to_pylist()
    assert [len(part) for part in rows.parts(300)] == [300, 200]


@pytest.mark.parametrize("name", ["rows.parquet", "rows.stream", "rows.arrow", "folder"])
def test_fields_of_a_struct_are_columns_and_a_row_without_it_is_none(tmp_path: Path, name: str) -> None:
    """As `gaugeway capture export` writes them: a request that failed has no inputs."""
    inputs = [{"hour": n, "word": f"w{n % 2}"} if n % 10 else None for n in range(500)]
    table = pa.table({"status": [200 if n % 10 else 500 for n in range(500)], "inputs": inputs, "word": ["own"] * 500})
    rows = Rows(_write(table, tmp_path, name), ["hour", "status", "inputs.word"])
    sample = rows.sample()
    assert sample.rows == 450 and set(sample.part.labels("status")) == {200}
    assert sample.part.labels("hour").tolist() == [n for n in range(500) if n % 10]
    whole = pa.Table.from_batches(list(open_source(tmp_path / name).batches(["word", "inputs.word"])))
    assert whole["word"].unique().to_pylist() == ["own"] and whole["inputs.word"].unique().to_pylist() == ["w1", "w0"]
    with pytest.raises(PublishRefused, match=r"has no column 'ho'; it has 'status', 'inputs', 'word', 'inputs.hour'"):
        Rows(tmp_path / name, ["ho"])
    with pytest.raises(PublishRefused, match="has several columns 'word'"):
        Rows(tmp_path / name, ["word"])


def test_words_of_a_dictionary_are_the_words(tmp_path: Path) -> None:
    table = pa.table(
        {"w": pa.chunked_array([pa.array(["a", "b"]).dictionary_encode(), pa.array(["c"]).dictionary_encode()])}
    )
    for name in ("rows.parquet", "rows.stream", "folder"):
        source = open_source(_write(table, tmp_path, name))
        assert pa.Table.from_batches(list(source.batches(["w"])))["w"].to_pylist() == ["a", "b", "c"]


@settings(deadline=None, max_examples=150)
@given(words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=8), block=st.integers(48, 200))
def test_a_csv_in_blocks_has_the_types_of_the_whole(
    words: list[str], block: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Arrow guesses the types of a file that it reads in blocks from the first of them, and fails at the others."""
    path = tmp_path_factory.getbasetemp() / "blocks.csv"
    path.write_text("a,b\n" + "".join(f"{word},{word}\n" for word in words))
    whole = csv.read_csv(path)
    blocks = pa.Table.from_batches(list(Csv(path, block).batches(["b", "a"])))
    assert blocks.schema == whole.select(["b", "a"]).schema
    assert str(blocks.to_pydict()) == str(whole.select(["b", "a"]).to_pydict())  # NaN is NaN as text


def test_bytes_that_are_no_text_are_bytes(tmp_path: Path) -> None:
    (tmp_path / "odd.csv").write_bytes(b"a\n" + b"word\n" * 20 + b"\xff\n")
    read = pa.Table.from_batches(list(Csv(tmp_path / "odd.csv", 16).batches(["a"])))
    assert read["a"][20].as_py() == b"\xff"


def test_files_of_a_folder_must_fit_together(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"x": [1, 2], "y": [1, 2]}), tmp_path / "1.parquet")
    parquet.write_table(pa.table({"x": [1.5], "y": [3]}), tmp_path / "2.parquet")
    assert Rows(tmp_path, ["x"]).sample().part.labels("x").tolist() == [1, 2, 1.5]
    parquet.write_table(pa.table({"x": ["one"]}), tmp_path / "3.parquet")
    with pytest.raises(PublishRefused, match=r"3.parquet does not fit to .*1.parquet: .*x.*"):
        Rows(tmp_path, ["x"]).sample()
    with pytest.raises(PublishRefused, match=r"3.parquet has no column 'y', .*1.parquet has"):
        Rows(tmp_path, ["y"]).sample()


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("rows.csv", "folder")])
def test_a_truncated_file_is_refused(tmp_path: Path, name: str) -> None:
    path = _write(_table(), tmp_path, name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(PublishRefused, match=f"cannot read .*{name} as Parquet, Arrow or CSV: "):
        Rows(path, ["x"]).sample()


def test_a_ragged_csv_is_refused_wherever_it_is_ragged(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,b\n" + "1,2\n" * 50 + "3\n")
    with pytest.raises(PublishRefused, match=r"cannot read .*rows.csv .*Expected 2 columns, got 1"):
        Rows(tmp_path / "rows.csv", ["a"]).sample()


def test_what_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "old.feather").write_bytes(b"FEA1" + bytes(100))
    (tmp_path / "none").mkdir()
    wrong = {
        "old.feather": "is Feather version 1, expected version 2",
        "none": "has no Parquet file: none ends in .parquet or .parq",
        "missing": "there is no file .*missing",
    }
    for name, sentence in wrong.items():
        with pytest.raises(PublishRefused, match=sentence):
            Rows(tmp_path / name, ["x"])
    for name in FORMATS:
        with pytest.raises(PublishRefused, match=f"{name} has no column 'z'; it has 'x', 'n', 'w', 't'"):
            Rows(_write(_table(), tmp_path, name), ["z"])
        with pytest.raises(PublishRefused, match=f"{name}.* has no rows"):
            Rows(_write(_table().slice(0, 0), tmp_path, name), ["x"]).sample()
