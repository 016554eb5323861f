"""Processes of this machine, by their command lines, and who listens on a port."""

import os
from collections.abc import Iterator
from pathlib import Path

_LISTENING = "0A"


def command_lines() -> dict[int, list[str]]:
    """Of every process that may be seen."""
    return {pid: line for pid in _pids() if (line := command_line(pid))}


def command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def listener(port: int) -> int | None:
    """The process that listens on a TCP port, where it can be seen."""
    inodes = {f"socket:[{inode}]" for inode in _listening(port)}
    for pid in _pids():
        if inodes and inodes & set(_links(pid)):
            return pid
    return None


def _pids() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())


def _listening(port: int) -> Iterator[str]:
    """Inodes of the sockets that listen there; ``sl local_address rem_address st … inode``."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = [line.split() for line in Path(table).read_text().splitlines()[1:]]
        except OSError:
            continue
        yield from (row[9] for row in rows if row[3] == _LISTENING and int(row[1].rpartition(":")[2], 16) == port)


def _links(pid: int) -> Iterator[str]:
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            yield os.readlink(f"/proc/{pid}/fd/{name}")
    except OSError:  # another user's, or ended meanwhile
        return
