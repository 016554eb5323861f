import sqlite3
from itertools import count

import numpy as np
import pytest

from monitors import pending
from monitors.keys import Pair
from monitors.pending import BLOCK_ROWS, Name, Pending, Rows

NAME = Name("m", "1", "")


def opened(path: str = ":memory:") -> Pending:
    return Pending(sqlite3.connect(path, isolation_level=None))


def rows(subject: Pending, keys: range, *, slot: int = 0, value: float = 0.5) -> Rows:
    hashes = np.array(keys, np.uint64)
    return subject.made(NAME, Pair(hashes, hashes), slot=slot, value=value, time=1.0, counted=True, halvings=0)


def value(subject: Pending, key: int) -> float | None:
    held = subject.find(np.uint64(key), np.uint64(key))
    return None if held is None else float(held.row["value"])


def test_what_was_saved_is_found_again_and_what_was_not_is_not(tmp_path: object) -> None:
    path = f"{tmp_path}/monitors.db"
    subject = opened(path)
    for start in range(0, 10_000, 700):
        subject.append(rows(subject, range(start, start + 700), value=start))
        subject.save()
    subject.append(rows(subject, range(20_000, 20_001)))
    again = opened(path)
    assert again.rows == 10_500 and subject.rows == 10_501
    assert [value(again, key) for key in (0, 699, 700, 4095, 4096, 10_499, 10_500, 20_000)] == [
        0, 0, 700, 3500, 3500, 9800, None, None,
    ]  # fmt: skip
    again.append(rows(again, range(30_000, 40_000)))
    assert [value(again, key) for key in range(30_000, 40_000)] == [0.5] * 10_000
    assert again.name(int(rows(again, range(1))[0]["name"])) == NAME


def test_an_equal_half_of_a_key_is_not_the_key() -> None:
    subject = opened()
    subject.append(rows(subject, range(5)))
    assert subject.contains(np.array([4, 5], np.uint64)).tolist() == [True, False]
    assert subject.find(np.uint64(4), np.uint64(3)) is None
    asked = Pair(np.array([4, 4, 9, 2], np.uint64), np.array([3, 4, 9, 2], np.uint64))
    assert sorted(subject.find_all(asked)) == [1, 3]


@pytest.mark.parametrize("between", [0, BLOCK_ROWS])
def test_the_last_row_of_a_key_holds_it(between: int) -> None:
    subject = opened()
    subject.append(rows(subject, range(10)))
    subject.append(rows(subject, range(100, 100 + between)))
    held = subject.find(np.uint64(3), np.uint64(3))
    assert held is not None
    subject.displace(held, rows(subject, range(3, 4), value=0.9, slot=1))
    assert value(subject, 3) == 0.9
    assert subject.rows == 10 + between
    subject.expire(1)
    assert (subject.rows, value(subject, 3), value(subject, 4)) == (1, 0.9, None)


def test_blocks_whose_slots_are_past_are_deleted(tmp_path: object) -> None:
    path = f"{tmp_path}/monitors.db"
    subject = opened(path)
    for slot in range(6):
        subject.append(rows(subject, range(slot * BLOCK_ROWS, (slot + 1) * BLOCK_ROWS), slot=slot))
    subject.save()
    subject.expire(4)
    subject.save()
    for one in (subject, opened(path)):
        assert one.rows == 2 * BLOCK_ROWS
        assert one.contains(np.array([0, 4 * BLOCK_ROWS], np.uint64)).tolist() == [False, True]
        assert (value(one, 4 * BLOCK_ROWS - 1), value(one, 4 * BLOCK_ROWS)) == (None, 0.5)


def test_ids_that_are_used_again_and_again_do_not_fill_the_disk(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending, "SLACK_ROWS", 2 * BLOCK_ROWS)
    path = f"{tmp_path}/monitors.db"
    subject, keys, numbers = opened(path), range(5000), count()
    subject.append(rows(subject, keys))
    for turn in range(1, 5):
        for key in keys:
            held = subject.find(np.uint64(key), np.uint64(key))
            assert held is not None
            subject.displace(held, rows(subject, range(key, key + 1), value=turn + key / 10_000))
            next(numbers)
    subject.save()
    assert subject.rows == 5000
    for one in (subject, opened(path)):
        assert len(one._index) <= 2 * 5000 + pending.SLACK_ROWS + 1 < next(numbers)
        assert [value(one, key) for key in keys] == [4 + key / 10_000 for key in keys]


def kept(subject: Pending, key: int) -> list[int]:
    held = subject.find(np.uint64(key), np.uint64(key))
    assert held is not None
    cells: list[int] = held.row["cells"].tolist()
    return cells


def test_cells_are_kept_beside_rows_that_have_fewer_or_none(tmp_path: object) -> None:
    path = f"{tmp_path}/monitors.db"
    subject = opened(path)
    subject.append(rows(subject, range(10)))
    for first, width in ((10, 3), (20, 2), (30, 5)):
        hashes = np.arange(first, first + 10, dtype=np.uint64)
        cells = np.full((10, width), first, np.uint8)
        subject.append(subject.made(NAME, Pair(hashes, hashes), cells, slot=0, value=0.5, time=1.0, counted=True))
        subject.append(rows(subject, range(100 + first, 110 + first)))
        subject.save()
    for one in (subject, opened(path)):
        assert [kept(one, key) for key in (0, 10, 20, 30, 130)] == [[], [10] * 3, [20, 20, 255], [30] * 5, [255] * 5]
    again = opened(path)
    again._compact()
    assert [kept(again, key) for key in (0, 20)] == [[255] * 5, [20, 20, 255, 255, 255]]


def test_rows_of_before_cells_go_on() -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("CREATE TABLE pending_blocks (number INTEGER PRIMARY KEY, last_slot INTEGER, data BLOB)")
    old = np.zeros(2, pending.ROW)
    old["hi"] = old["lo"] = [7, 8]
    connection.execute("INSERT INTO pending_blocks VALUES (0, 0, ?)", (old.tobytes(),))
    subject = Pending(connection)
    assert [value(subject, key) for key in (7, 8, 9)] == [0.0, 0.0, None]
