import io

import numpy as np
from rich.console import Console

from serving.demo.replay import Progress
from serving.demo.table import Board, drifting, line, table
from serving.demo.traffic import Traffic
from serving.demo.verdicts import Drift, Labels, Risk, Verdicts, Version


def board(answers: int) -> Board:
    times = 1364774400 + np.arange(100.0)
    ids = [f"r{i}" for i in range(100)]
    progress = Progress(Traffic(ids, ids, times, np.zeros((100, 1), np.float32), times, np.ones(100)))
    progress.clock = 1364774400.0
    for i in range(answers):
        progress.answer(i, ids[i], "2" if i % 4 == 0 else "1", 0.5, 0.002)
    return Board("flights", progress, {"1": 0.75, "2": 0.25})


def version(rows: int, joined: int, alarm: bool) -> Version:
    drift = {
        "temp": Drift(6.0, 5.2, True, psi=8.8, since=1.0),
        "dewp": Drift(9.0, 5.2, True, psi=9.9, since=1.0),
        "visib": Drift(0.1, 5.2, False, psi=0.5),
        "_all": Drift(6.0, 5.2, True, psi=8.8, since=1.0),
    }
    return Version("alarm", drift, Risk(0.21, joined, 6.1, 5.2, alarm, 0.19), Labels(joined, 0.97), rows)


def rendered(shown: Board) -> str:
    console = Console(width=200, file=io.StringIO())
    console.print(table(shown))
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_the_strongest_drift_comes_first_and_the_whole_is_no_feature() -> None:
    assert drifting(version(1, 1, False)) == ["dewp 9.90", "temp 8.80"]
    assert drifting(None) == []


def test_the_table_says_what_is_known_of_each_version() -> None:
    shown = board(100)
    shown.look(Verdicts({"flights": {"1": version(75, 70, True)}}), 1.0)
    text = rendered(shown)
    assert "0.750 (asked 0.75)" in text
    assert "0.2100 (0.1900)" in text
    assert "6.1 of 5.2 ALARM" in text
    assert "70 (0.970)" in text
    assert "dewp 9.90, temp 8.80" in text


def test_the_line_says_the_same_to_a_log() -> None:
    shown = board(100)
    shown.look(Verdicts({"flights": {"1": version(75, 70, True)}}), 1.0)
    text = line(shown)
    assert text.startswith("2013-04-01 00:00  100 of 100 requests")
    assert "p50 2.0 ms, p99 2.0 ms, 0 failed" in text
    assert "version 1: 0.750 of keys, Brier 0.2100, HARM, labels 0.970, drifting: dewp 9.90, temp 8.80" in text
    assert "version 2: no verdict yet" in text


def test_nothing_is_known_before_the_first_answer() -> None:
    assert "0 of 100 requests, 0/s, p50 0.0 ms" in line(board(0))
    assert "asked 0.25" in rendered(board(0))


def test_the_rate_is_of_the_time_since_the_look_before() -> None:
    shown = board(10)
    shown.look(None, 100.0)
    for i in range(10, 30):
        shown.progress.answer(i, "k", "1", 0.5, 0.001)
    shown.look(None, 102.0)
    assert shown.rate == 10


def test_caught_up_means_every_row_and_every_label() -> None:
    shown = board(100)
    shown.progress.labels.sent = 70
    for rows, joined, expected in ((100, 70, True), (99, 70, False), (100, 69, False)):
        shown.look(Verdicts({"flights": {"1": version(rows, joined, False)}}), 1.0)
        assert shown.caught_up is expected
