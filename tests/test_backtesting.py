"""Files in, verdicts out; what is wrong with a file is said in one sentence."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from pyarrow import csv
from typer.testing import CliRunner

from monitors.backtest.document import Block
from monitors.reference import Kind
from serving import cli
from serving.backtesting import Columns, backtest
from serving.config import Monitors
from serving.errors import BadRequest, PublishRefused

DAY_S = 86400.0
SETTINGS = Monitors(block_s=DAY_S)
COLUMNS = Columns(timestamp="at", prediction="p", label="late", label_time="landed")


def table(days: int, seed: int, shift: float = 0.0, rows: int = 250) -> pa.Table:
    """The second half is shifted; every twentieth label never comes."""
    rng, n = np.random.default_rng(seed), days * rows
    at = np.sort(rng.integers(0, int(days * DAY_S), n))
    p, known = rng.random(n).round(6), np.arange(n) % 20 > 0
    late = (rng.random(n) < p).astype(float)
    return pa.table(
        {
            "temp": rng.normal(shift * (np.arange(n) > n / 2)).round(6),
            "carrier": pa.array(rng.choice(["AA", "UA"], n)),
            "at": pa.array(at).cast(pa.timestamp("s")),
            "p": p,
            "late": pa.array(np.where(known, late, np.nan), from_pandas=True),
            "landed": pa.array(np.where(known, at + 3600.0, np.nan), from_pandas=True),
        }
    )


REFERENCE, DATA = table(20, 1), table(20, 2, shift=1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backtest")
    pq.write_table(REFERENCE, folder / "reference.parquet")
    pq.write_table(DATA, folder / "data.parquet")
    csv.write_csv(DATA, folder / "data.csv")
    pyarrow.feather.write_feather(DATA, folder / "data.arrow")
    pq.write_table(DATA.take(np.random.default_rng(3).permutation(len(DATA))), folder / "unsorted.parquet")
    return folder


def test_any_kind_of_file_in_any_order_says_the_same(folder: Path) -> None:
    found = [
        backtest(folder / "reference.parquet", folder / name, COLUMNS, SETTINGS)
        for name in ("data.parquet", "data.csv", "data.arrow", "unsorted.parquet")
    ]
    for one in found[1:]:
        assert (one.alarms, [shown(block) for block in one.blocks]) == (
            found[0].alarms, [shown(block) for block in found[0].blocks])  # fmt: skip
    assert [alarm.subject for alarm in found[0].alarms if alarm.subject == "temp"] == ["temp"]
    assert found[0].risk is not None and found[0].risk.task == "classification"
    assert sum(block.rows for block in found[0].blocks) == found[0].data.rows == len(DATA)


def shown(block: Block) -> Block:
    """But for `_joint`, which judges a sample that is drawn by the rows' places in the file."""
    others = {name: evidence for name, evidence in block.others.items() if name != "_joint"}
    return msgspec.structs.replace(block, others=others)


def test_one_row_of_a_cluster_counts(folder: Path, tmp_path: Path) -> None:
    """Fifty equal rows of each user: independent rows would be evidence, users are not."""
    rng = np.random.default_rng(4)
    users = DATA.slice(0, 100).take(np.repeat(np.arange(100), 50)).drop_columns(["at"])
    users = users.append_column("at", DATA["at"]).append_column("user", pa.array(np.repeat(rng.permutation(100), 50)))
    pq.write_table(users, tmp_path / "users.parquet")
    features: dict[str, Kind | None] = {"temp": "numeric"}
    rows = backtest(folder / "reference.parquet", tmp_path / "users.parquet",
                    Columns(timestamp="at", features=features), SETTINGS)  # fmt: skip
    apart = backtest(folder / "reference.parquet", tmp_path / "users.parquet",
                     Columns(timestamp="at", cluster="user", features=features), SETTINGS)  # fmt: skip
    assert rows.alarms and not apart.alarms
    assert apart.settings["unit"] == "cluster:user"


def test_a_cluster_may_be_a_feature_too(folder: Path) -> None:
    columns = Columns(timestamp="at", cluster="carrier", features={"temp": None, "carrier": None})
    found = backtest(folder / "reference.parquet", folder / "data.parquet", columns, SETTINGS)
    assert found.blocks[0].features.keys() == {"temp", "carrier"}


def test_without_a_time_blocks_are_of_rows(folder: Path) -> None:
    columns = Columns(prediction="p", label="late", features={"temp": "numeric"})
    found = backtest(folder / "reference.parquet", folder / "data.parquet", columns, Monitors(), block_rows=400)
    assert [(block.start, block.end, block.rows) for block in found.blocks[:2]] == [(0, 400, 400), (400, 800, 400)]
    assert [(block.end, block.judged) for block in found.blocks[-2:]] == [(4800, True), (5000, False)]
    assert "the last block has 200 rows, too few to be judged" in found.notes
    (alarm,) = (alarm for alarm in found.alarms if alarm.subject == "temp")
    assert isinstance(alarm.time, int) and 2500 < alarm.time < 4000
    assert "1970" not in alarm.explanation and "temp no longer looks like the reference" in alarm.explanation
    assert "a block of 400 rows counts as a day" in " ".join(found.notes)


def changed(change: dict[str, pa.Array | None], of: pa.Table = DATA) -> pa.Table:
    """Columns replaced, added, or (None) dropped."""
    for name, column in change.items():
        if name in of.column_names:
            of = of.drop_columns([name])
        of = of if column is None else of.append_column(name, column)
    return of


N = len(DATA)
WRONG = [
    ({"p": None}, COLUMNS, "has no column 'p'"),
    ({"temp": None, "tempo": DATA["temp"]}, Columns(timestamp="at", features={"temp": None}), "did you mean 'tempo'?"),
    ({"extra": DATA["temp"]}, COLUMNS, "different columns: only .*data.parquet has 'extra'; name the features"),
    ({"temp": DATA["carrier"]}, COLUMNS, "column 'temp' holds text in .*data.parquet, but numbers in .*reference"),
    ({"carrier": DATA["temp"]}, COLUMNS, "column 'carrier' holds numbers in .*data.parquet, but text in"),
    ({"carrier": DATA["at"]}, COLUMNS, "column 'carrier' holds timestamp.*, numbers are needed"),
    ({"at": pa.array([None, *DATA["at"].to_pylist()[1:]])}, COLUMNS, "column 'at' holds times, but 1 are missing"),
    ({"landed": pa.array([-1.0] * N)}, COLUMNS, "labels came before their prediction, the first in row 1:"),
    ({"landed": pa.array([None] * N)}, COLUMNS, "4750 labels have no label time"),
    ({"late": pa.array([2.0] * N)}, COLUMNS, "a classification has labels of 0 and 1, got 2 in 5000 rows"),
    ({"p": pa.array([1.5] * N)}, COLUMNS, "a classification has predictions in 0..1, got 1.5 in 5000 rows"),
    ({}, Columns(label="late", features={"temp": None}), "--label needs --prediction"),
    ({}, Columns(prediction="p", label="late", label_time="landed"), "--label-time needs --label, and --timestamp"),
    ({}, Columns(timestamp="at", features={"at": None}), "column 'at' is named twice"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "columns", "said"), WRONG, ids=[said for *_, said in WRONG])
def test_what_is_wrong_is_said(
    folder: Path, tmp_path: Path, change: dict[str, pa.Array | None], columns: Columns, said: str
) -> None:
    pq.write_table(changed(change), tmp_path / "data.parquet")
    with pytest.raises((BadRequest, PublishRefused), match=said):
        backtest(folder / "reference.parquet", tmp_path / "data.parquet", columns, SETTINGS)


@pytest.mark.parametrize("which", ["reference", "data"])
def test_a_file_without_rows_is_refused(folder: Path, tmp_path: Path, which: str) -> None:
    pq.write_table(DATA.slice(0, 0), tmp_path / "none.parquet")
    files = {
        "reference": folder / "reference.parquet",
        "data": folder / "data.parquet",
        which: tmp_path / "none.parquet",
    }
    with pytest.raises((BadRequest, PublishRefused), match=r"none\.parquet has no rows"):
        backtest(files["reference"], files["data"], COLUMNS, SETTINGS)


def test_the_command_writes_both_reports(folder: Path, tmp_path: Path) -> None:
    arguments = ["backtest", "--reference", str(folder / "reference.parquet"), "--data", str(folder / "data.csv")]
    arguments += ["--timestamp", "at", "--prediction", "p", "--label", "late", "--label-time", "landed"]
    arguments += ["--feature", "temp", "--feature", "carrier:categorical", "--block", "12h", "--budget", "2"]
    arguments += ["--json", str(tmp_path / "found.json"), "--html", str(tmp_path / "report.html")]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "found.json").read_bytes())
    assert found["settings"]["block_s"] == 43200 and found["settings"]["false_pages_per_90_days"] == 2
    assert "What would have alarmed: data.csv" in (tmp_path / "report.html").read_text()
    assert "call nobody" in result.output


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--block", "0s"], "--block takes at least a second"),
        (["--block", "1w"], "as 90s, 30m, 6h or 1d"),
        (["--budget", "0"], "--budget"),
        (["--task", "ranking"], "--task must be classification or regression"),
        (["--feature", "temp:text"], "the kind of feature 'temp' must be numeric or categorical"),
    ],
)
def test_wrong_options_are_wrong_usage(folder: Path, option: list[str], said: str) -> None:
    files = ["--reference", str(folder / "reference.parquet"), "--data", str(folder / "data.parquet")]
    result = CliRunner().invoke(cli.app, ["backtest", *files, "--timestamp", "at", *option])
    assert result.exit_code == 2
    assert said in " ".join(result.output.replace("│", " ").split())
