import sqlite3
from pathlib import Path

import pytest

from monitors.journal import Journal


def test_only_what_was_committed_is_there_again(tmp_path: Path) -> None:
    first = Journal(tmp_path / "j.db", "60 s")
    first.begin()
    first.put("a", {("m", 1): b"1", ("m", 2): b"2"})
    first.commit()
    first.begin()
    first.put("a", {("m", 1): b"changed"})
    first.remove("a", [("m", 2)])
    first.close()
    again = Journal(tmp_path / "j.db", "60 s")
    assert again.all("a") == {("m", 1): b"1", ("m", 2): b"2"}
    assert not again.fresh
    again.close()


def test_a_file_of_another_meaning_is_begun_anew(tmp_path: Path) -> None:
    first = Journal(tmp_path / "j.db", "60 s")
    first.put("a", {(): b"1"})
    first.close()
    again = Journal(tmp_path / "j.db", "3600 s")
    assert again.fresh
    assert again.one("a") is None
    again.close()


def test_a_file_that_is_no_database_is_an_error_and_is_kept(tmp_path: Path) -> None:
    (tmp_path / "j.db").write_bytes(b"what somebody else wrote here" * 100)
    with pytest.raises(sqlite3.DatabaseError):
        Journal(tmp_path / "j.db", "60 s")
    assert (tmp_path / "j.db").exists()
