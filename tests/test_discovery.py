"""Announcements are whole, and those of the dead are withdrawn."""

import os
import subprocess
from pathlib import Path

from serving.discovery import (
    Announcement,
    Others,
    alive,
    announce,
    announced,
    count_refusal,
    prepare,
    refusals,
    tell_of_others,
    withdraw_dead,
)


def _announcement(folder: Path, name: str, pid: int) -> Announcement:
    return Announcement("m", "1", "d", name, str(folder / f"{name}.sock"), pid)


def test_announced_until_the_process_is_gone(tmp_path: Path) -> None:
    prepare(tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == 0o700
    child = subprocess.Popen(["sleep", "60"])
    announce(tmp_path, _announcement(tmp_path, "m-1.2.0-a", child.pid))
    announce(tmp_path, _announcement(tmp_path, "m-1.2.0-b", os.getpid()))
    (tmp_path / "replicas" / "half.json").write_bytes(b'{"model": ')
    (tmp_path / "m-1.2.0-a.sock").touch()
    assert sorted(announced(tmp_path)) == ["m-1.2.0-a", "m-1.2.0-b"] and withdraw_dead(tmp_path) == []
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie does not run
    assert not alive(child.pid) and alive(os.getpid())
    assert [one.replica for one in withdraw_dead(tmp_path)] == ["m-1.2.0-a"]
    assert list(announced(tmp_path)) == ["m-1.2.0-b"] and not (tmp_path / "m-1.2.0-a.sock").exists()
    child.wait()


def test_of_other_nodes_it_knows_what_it_was_told_last(tmp_path: Path) -> None:
    prepare(tmp_path)
    others = Others(tmp_path)
    assert others.known() == {}
    one = Announcement("m", "1", "d", "m-1-a", "", 1, node="n", address="10.0.0.1:5")
    tell_of_others(tmp_path, [one])
    before = others.known()
    assert before == {"m-1-a": one}
    tell_of_others(tmp_path, [one])
    assert others.known() is before, "nothing new is nothing to look at"
    tell_of_others(tmp_path, [])
    assert others.known() == {}


def test_refusals_of_all_replicas_of_a_node_are_counted_together(tmp_path: Path) -> None:
    prepare(tmp_path)
    assert refusals(tmp_path) == 0
    for _ in range(3):
        count_refusal(tmp_path)
    assert refusals(tmp_path) == 3
