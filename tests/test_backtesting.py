"""Files in, verdicts out; what is wrong with a file is said in one sentence."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from pyarrow import csv
from typer.testing import CliRunner

from monitors.backtest.document import Block
from monitors.backtest.page import page
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
    assert {"temp", "_all"} <= {alarm.subject for alarm in rows.alarms}
    assert [alarm.subject for alarm in apart.alarms] == ["_quality"]  # whole rows repeat, whoever sends them
    assert apart.settings["unit"] == "cluster:user"


def ferry(first: datetime, hours: int, seed: int) -> pa.Table:
    """200 rows an hour from `first` on; the ferry sails in even hours by the clocks of Berlin."""
    at = [first + timedelta(hours=hour) for hour in range(hours)]
    full = np.repeat([one.astimezone(ZoneInfo("Europe/Berlin")).hour % 2 == 0 for one in at], 200)
    x = np.random.default_rng(seed).normal(2.0 * full)
    return pa.table({"x": x, "at": np.repeat([one.timestamp() for one in at], 200)})


def test_hours_are_those_of_the_time_zone(tmp_path: Path) -> None:
    """A reference of the winter and data of the summer: by UTC the ferry sails in the other hours."""
    files = tmp_path / "reference.parquet", tmp_path / "data.parquet"
    pq.write_table(ferry(datetime(2026, 1, 12, tzinfo=UTC), 240, 7), files[0])
    pq.write_table(ferry(datetime(2026, 7, 13, tzinfo=UTC), 12, 8), files[1])
    settings, columns = Monitors(slot_s=3600, block_s=3600, block_rows=100), Columns(timestamp="at")
    berlin, utc = (backtest(*files, columns, settings, time_zone=zone) for zone in ("Europe/Berlin", "UTC"))
    near, far = ([block.features["x"].effects["tv"] or 0.0 for block in found.blocks] for found in (berlin, utc))
    assert max(near) < 0.2 and min(far) > 0.5
    assert "by hour of the day (Europe/Berlin)" in berlin.promise
    assert (berlin.settings["time_zone"], utc.settings["time_zone"]) == ("Europe/Berlin", "UTC")


def test_a_time_zone_that_nobody_knows_is_refused(folder: Path) -> None:
    with pytest.raises(BadRequest, match="--time-zone must be a name that this machine knows, as UTC, got 'Mars'"):
        backtest(folder / "reference.parquet", folder / "data.parquet", COLUMNS, SETTINGS, time_zone="Mars")


def crowd(seed: int) -> pa.Table:
    """A hundred users a day; whoever has a value above the median has ten rows, others have one."""
    value = np.random.default_rng(seed).normal(size=2_000)
    user = np.repeat(np.arange(2_000), np.where(value > 0, 10, 1))
    at = pa.array(user // 100 * int(DAY_S)).cast(pa.timestamp("s"))
    return pa.table({"temp": value[user], "user": user, "at": at})


def test_of_the_reference_too_one_row_of_a_cluster_counts(tmp_path: Path) -> None:
    for name, rows in (("all", crowd(5)), ("bare", crowd(5).drop_columns(["user"])), ("data", crowd(6))):
        pq.write_table(rows, tmp_path / f"{name}.parquet")
    columns = Columns(timestamp="at", cluster="user", features={"temp": "numeric"})
    as_live, unlike = (
        backtest(tmp_path / f"{name}.parquet", tmp_path / "data.parquet", columns, SETTINGS) for name in ("all", "bare")
    )
    assert not as_live.alarms and unlike.alarms
    assert f"one row of each user and block is counted: 2000 of {crowd(5).num_rows} rows" in as_live.notes
    assert any(note.startswith("of the reference's rows all are counted") for note in unlike.notes)


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
    ({"late": pa.array([2.0] * N)}, COLUMNS, "a classification has labels of 0 and 1, got 2 in 5000 rows; is it"),
    ({"p": pa.array([1.5] * N)}, COLUMNS, "a classification has predictions in 0..1, got 1.5 in 5000 rows"),
    ({}, Columns(label="late", features={"temp": None}), "--label needs --prediction"),
    ({}, Columns(prediction="p", label="late", label_time="landed"), "--label-time needs --label, and --timestamp"),
    ({}, Columns(timestamp="at", features={"at": None}), "column 'at' is named twice"),
    ({}, Columns(timestamp="at", features={"_x": None}), "must not be empty or begin with an underscore, got '_x'"),
    ({}, Columns(timestamp="at", features={"temp": None}, segments=("carrier",)), "--segment takes a feature, got"),
    ({"late": DATA["carrier"]}, COLUMNS, "column 'late' holds string, numbers are needed"),
    ({"p": DATA["carrier"]}, COLUMNS, "column 'p' holds string, numbers are needed"),
    ({"at": DATA["carrier"]}, COLUMNS, "column 'at' holds string, times are needed: timestamps"),
    ({"landed": DATA["carrier"]}, COLUMNS, "column 'landed' holds string, times are needed: timestamps"),
    ({"at": pa.array(np.full(N, np.nan))}, COLUMNS, "column 'at' holds times, but 5000 are missing"),
    ({"at": pa.array(np.full(N, 1.36e12))}, COLUMNS, r"times from 1.36e\+12 to 1.36e\+12, expected .* milliseconds\?"),
    ({"temp": pa.array([[1.0]] * N)}, COLUMNS, "column 'temp' holds list<.*>, numbers are needed"),
    ({"user": pa.array([None, 2**60] * (N // 2))}, Columns(cluster="user", features={"temp": None}),
     "column 'user' names clusters by numbers beyond"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "columns", "said"), WRONG, ids=[said for *_, said in WRONG])
def test_what_is_wrong_is_said(
    folder: Path, tmp_path: Path, change: dict[str, pa.Array | None], columns: Columns, said: str
) -> None:
    pq.write_table(changed(change), tmp_path / "data.parquet")
    with pytest.raises((BadRequest, PublishRefused), match=said):
        backtest(folder / "reference.parquet", tmp_path / "data.parquet", columns, SETTINGS)


DAY = pa.array(np.zeros(N, np.int64)).cast(pa.timestamp("s"))
RIGHT = {
    "all missing": ({"temp": pa.array([None] * N, pa.float64())}, COLUMNS),
    "all missing, of no type": ({"carrier": pa.nulls(N), "temp": pa.nulls(N)}, COLUMNS),
    "infinite": ({"temp": pa.array(np.where(np.arange(N) % 3, np.inf, -np.inf))}, COLUMNS),
    "infinite predictions and labels": (
        {"p": pa.array(np.full(N, np.inf)), "late": pa.array(np.full(N, -np.inf))},
        COLUMNS,
    ),
    "no prediction is known": ({"p": pa.nulls(N)}, COLUMNS),
    "no label ever came": ({"late": pa.nulls(N), "landed": pa.nulls(N)}, COLUMNS),
    "one value": ({"temp": pa.array(np.full(N, 7.0)), "carrier": pa.array(["AA"] * N)}, COLUMNS),
    "huge whole numbers": ({"temp": pa.array(np.full(N, 2**64 - 1, np.uint64))}, COLUMNS),
    "times with a zone": ({"at": DATA["at"].cast(pa.timestamp("us", "Europe/Berlin"))}, COLUMNS),
    "all at one time": ({"at": DAY, "landed": DAY}, COLUMNS),
    "labels that never come": ({"landed": pa.array(np.full(N, np.inf))}, COLUMNS),
    "an index of pandas": ({"__index_level_0__": pa.array(np.arange(N))}, COLUMNS),
    "clusters": ({"user": pa.array(np.arange(N) // 2 + 2**60)}, replace(COLUMNS, cluster="user")),
}


@pytest.mark.parametrize("case", RIGHT)
def test_odd_rows_are_judged_all_the_same(folder: Path, tmp_path: Path, case: str) -> None:
    change, columns = RIGHT[case]
    pq.write_table(changed(change), tmp_path / "data.parquet")
    found = backtest(folder / "reference.parquet", tmp_path / "data.parquet", columns, SETTINGS)
    assert sum(block.rows for block in found.blocks) == N and found.blocks[0].judged
    json.loads(found.encode())
    assert not re.search(r"\b(nan|inf|None)\b", page(found))


def test_clusters_named_by_numbers_beyond_2_to_the_53_are_not_taken_for_one(folder: Path, tmp_path: Path) -> None:
    """As floats, 2500 users would be 10."""
    pq.write_table(changed({"user": pa.array(np.arange(N) // 2 + 2**60)}), tmp_path / "data.parquet")
    columns = Columns(cluster="user", features={"temp": "numeric"})
    found = backtest(folder / "reference.parquet", tmp_path / "data.parquet", columns, SETTINGS, block_rows=1000)
    lower, upper = found.blocks[0].features["temp"].intervals["ks"]
    assert upper - lower < 0.2  # of 500 users; of 2 it is all there is


def test_hours_are_hours_across_a_change_of_the_clock(folder: Path, tmp_path: Path) -> None:
    """Clocks in Berlin went from 3 back to 2 on 27 October 2013: that hour is there twice, and is two blocks."""
    at = 1382745600.0 + np.sort(np.random.default_rng(5).integers(0, 48 * 3600, N))
    local = pa.array(at.astype(np.int64)).cast(pa.timestamp("s", "Europe/Berlin"))
    pq.write_table(changed({"at": local}), tmp_path / "data.parquet")
    columns, settings = Columns(timestamp="at", features={"temp": None}), Monitors(block_s=3600.0, block_rows=10)
    found = backtest(folder / "reference.parquet", tmp_path / "data.parquet", columns, settings)
    assert [(block.start, block.end) for block in found.blocks[:2]] == [
        ("2013-10-26T00:00:00Z", "2013-10-26T01:00:00Z"), ("2013-10-26T01:00:00Z", "2013-10-26T02:00:00Z")]  # fmt: skip
    assert len(found.blocks) == 48 and sum(block.rows for block in found.blocks) == N
    assert [block.rows for block in found.blocks] == np.bincount((at // 3600 - at[0] // 3600).astype(int)).tolist()


def test_a_hundred_columns_of_long_names(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    names = [f"a column with a long name, number {k} & <b>" for k in range(100)]
    for name in ("reference", "data"):
        pq.write_table(
            pa.table(dict(zip(names, rng.normal(size=(100, 1000)), strict=True))), tmp_path / f"{name}.parquet"
        )
    found = backtest(tmp_path / "reference.parquet", tmp_path / "data.parquet", Columns(), SETTINGS, block_rows=500)
    assert len(found.blocks) == 2 and found.blocks[1].features.keys() == set(names)
    assert "60 more features are not shown" in page(found) and "&amp; &lt;b&gt;" in page(found)


def test_parts_of_a_folder_fit_or_are_named(folder: Path, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    parts.mkdir()
    pq.write_table(DATA.slice(0, 3000), parts / "1.parquet")
    pq.write_table(changed({"temp": pa.array(np.arange(2000))}, DATA.slice(3000)), parts / "2.parquet")
    found = backtest(folder / "reference.parquet", parts, COLUMNS, SETTINGS)
    assert sum(block.rows for block in found.blocks) == N
    pq.write_table(DATA.drop_columns(["temp"]), parts / "3.parquet")
    with pytest.raises(PublishRefused, match=r"3\.parquet has no column 'temp', .*1\.parquet has"):
        backtest(folder / "reference.parquet", parts, COLUMNS, SETTINGS)


def test_two_columns_of_one_name_are_refused(folder: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table([DATA["temp"], DATA["temp"]], names=["temp", "temp"]), tmp_path / "data.parquet")
    with pytest.raises(PublishRefused, match="has several columns 'temp'"):
        backtest(folder / "reference.parquet", tmp_path / "data.parquet", Columns(features={"temp": None}), SETTINGS)


@pytest.mark.parametrize("rows", [1, 150])
def test_too_few_rows_for_a_block_are_refused(folder: Path, tmp_path: Path, rows: int) -> None:
    pq.write_table(DATA.slice(0, rows), tmp_path / "data.parquet")
    with pytest.raises(BadRequest, match=rf"data.parquet has {rows} rows, too few for a block: 200 are needed"):
        backtest(folder / "reference.parquet", tmp_path / "data.parquet", COLUMNS, SETTINGS)


def test_a_reference_is_held_to_the_task_as_well(folder: Path, tmp_path: Path) -> None:
    pq.write_table(changed({"p": pa.array(np.full(N, 37.5))}, REFERENCE), tmp_path / "reference.parquet")
    with pytest.raises(BadRequest, match=r"reference\.parquet: a classification has predictions in 0\.\.1, got 37\.5"):
        backtest(tmp_path / "reference.parquet", folder / "data.parquet", COLUMNS, SETTINGS)
    found = backtest(tmp_path / "reference.parquet", folder / "data.parquet", COLUMNS, SETTINGS, task="regression")
    assert found.risk is not None and found.risk.task == "regression"


def test_without_labels_the_notes_speak_of_the_option(folder: Path) -> None:
    found = backtest(
        folder / "reference.parquet",
        folder / "data.parquet",
        Columns(prediction="p", features={"temp": None}),
        SETTINGS,
    )
    assert [note for note in found.notes if "risk" in note] == ["risk is not judged: --label names no column"]


@pytest.mark.parametrize(
    ("data", "said"), [(b"", "Empty CSV file"), (b"temp,at\n", "has no rows"), (b"\xff\xfe\0", "cannot read")]
)
def test_files_that_are_none_end_in_a_sentence(folder: Path, tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "data.csv").write_bytes(data)
    files = ["--reference", str(folder / "reference.parquet"), "--data", str(tmp_path / "data.csv")]
    result = CliRunner().invoke(cli.app, ["backtest", *files, "--feature", "temp"])
    assert isinstance(result.exception, (BadRequest, PublishRefused)) and said in str(result.exception)


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
    arguments += ["--time-zone", "Asia/Tokyo"]
    arguments += ["--json", str(tmp_path / "found.json"), "--html", str(tmp_path / "report.html")]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "found.json").read_bytes())
    assert found["settings"]["block_s"] == 43200 and found["settings"]["false_pages_per_90_days"] == 2
    assert found["settings"]["time_zone"] == "Asia/Tokyo"
    assert "What would have alarmed: data.csv" in (tmp_path / "report.html").read_text()
    assert "call nobody" in result.output


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--block", "0s"], "--block takes a second to 3650d"),
        (["--block", "4000d"], "--block takes a second to 3650d"),
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
