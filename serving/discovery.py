"""How the workers of a node find replicas: a small file beside the socket of each that runs here, one file of others.

A replica writes its own. The controller collects them from all nodes and gives them to all; so a replica of another
node is known within a second, and those that are known stay so while the controller is away.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

FOLDER = "replicas"
_OTHERS, _REFUSALS = "others.json", "refusals"


class Announcement(msgspec.Struct, frozen=True):
    """A warm replica that listens at `socket` for workers of its own Ray node, at `address` for those of others."""

    model: str
    version: str
    digest: str
    replica: str
    socket: str
    pid: int
    node: str = ""
    pool: str = ""
    address: str = ""  # host:port; empty: it does not listen for others
    began: float = 0.0  # when its process began to load the model, in seconds since 1970
    load_s: float = 0.0  # from there until it listened


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


def tell_of_others(socket_dir: Path, others: Sequence[Announcement]) -> None:
    """Written only when it says something new: workers look at its time."""
    path, text = socket_dir / _OTHERS, msgspec.json.encode(others)
    if path.exists() and path.read_bytes() == text:
        return
    staged = path.with_suffix(".new")
    staged.write_bytes(text)
    staged.rename(path)


class Others:
    """The replicas of other nodes, as this node was last told."""

    def __init__(self, socket_dir: Path) -> None:
        self._path, self._seen = socket_dir / _OTHERS, (0, 0)
        self._known: dict[str, Announcement] = {}

    def known(self) -> dict[str, Announcement]:
        """By replica; the same object as long as nothing changes."""
        try:
            stat = self._path.stat()
            if (seen := (stat.st_mtime_ns, stat.st_ino)) != self._seen:
                found = msgspec.json.decode(self._path.read_bytes(), type=list[Announcement])
                self._known, self._seen = {one.replica: one for one in found}, seen
        except (FileNotFoundError, msgspec.DecodeError):
            pass  # nobody was told yet; what cannot be read is written anew
        return self._known


def count_refusal(socket_dir: Path) -> None:
    """Of a connection that did not prove the secret, by whichever replica of this node: a byte of a file each."""
    with (socket_dir / _REFUSALS).open("ab", buffering=0) as file:
        file.write(b".")


def refusals(socket_dir: Path) -> int:
    path = socket_dir / _REFUSALS
    return path.stat().st_size if path.exists() else 0


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
