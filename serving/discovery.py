"""How the workers of a node find the replicas of that node: a small file beside each replica's socket."""

import os
from pathlib import Path

import msgspec

FOLDER = "replicas"


class Announcement(msgspec.Struct, frozen=True):
    """A warm replica that listens at `socket`."""

    model: str
    version: str
    digest: str
    replica: str
    socket: str
    pid: int
    node: str = ""
    pool: str = ""


def announce(socket_dir: Path, announcement: Announcement) -> Path:
    """Written whole or not at all."""
    path = socket_dir / FOLDER / f"{announcement.replica}.json"
    staged = path.with_suffix(".new")
    staged.write_bytes(msgspec.json.encode(announcement))
    staged.rename(path)
    return path


def prepare(socket_dir: Path) -> None:
    """The folder of sockets, for this user alone. Raises PermissionError when it is somebody else's."""
    (socket_dir / FOLDER).mkdir(parents=True, exist_ok=True)
    if socket_dir.stat().st_uid != os.getuid():
        raise PermissionError(f"{socket_dir} belongs to another user")
    socket_dir.chmod(0o700)


def announced(socket_dir: Path) -> dict[str, Announcement]:
    """All announcements by replica; those being withdrawn meanwhile are left out."""
    found: dict[str, Announcement] = {}
    for path in sorted((socket_dir / FOLDER).glob("*.json")):
        try:
            one = msgspec.json.decode(path.read_bytes(), type=Announcement)
        except (FileNotFoundError, msgspec.DecodeError):
            continue
        found[one.replica] = one
    return found


def withdraw_dead(socket_dir: Path) -> list[Announcement]:
    """Remove the announcements whose process is gone."""
    dead = [one for one in announced(socket_dir).values() if not alive(one.pid)]
    for one in dead:
        (socket_dir / FOLDER / f"{one.replica}.json").unlink(missing_ok=True)
        Path(one.socket).unlink(missing_ok=True)
    return dead


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"
