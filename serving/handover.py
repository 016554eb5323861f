"""A listening socket that outlives the process that accepts from it.

A connection that nobody has accepted yet belongs to the socket, and is lost when its last copy is closed: opening
another socket on the same port (`SO_REUSEPORT`) does not save it. So a worker offers copies of its own; the node's
actor takes one, and leaves it to the worker that comes next.
"""

import asyncio
import socket
from pathlib import Path

TAKE_S = 0.2  # the kernel answers for a process that does not
BACKLOG = 1024


def listen(host: str, port: int) -> socket.socket:
    """A listening socket whose port other workers of this gateway share."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    sock.listen(BACKLOG)
    sock.setblocking(False)
    return sock


def inherited(descriptor: int) -> socket.socket:
    """The copy that the parent left open; children of this process get none."""
    sock = socket.socket(fileno=descriptor)
    sock.set_inheritable(False)
    sock.setblocking(False)
    return sock


class Offer:
    """Gives a copy of `sock` to whoever of this user connects at `path`, until it is closed."""

    def __init__(self, sock: socket.socket, path: Path) -> None:
        self._sock, self._path = sock, path
        path.unlink(missing_ok=True)
        self._door = socket.socket(socket.AF_UNIX)
        self._door.bind(str(path))
        path.chmod(0o600)
        self._door.listen(4)
        self._door.setblocking(False)
        asyncio.get_running_loop().add_reader(self._door, self._give)

    def _give(self) -> None:
        try:
            client, _ = self._door.accept()
        except OSError:  # it left before it was let in
            return
        with client:
            socket.send_fds(client, [b"."], [self._sock.fileno()])

    def close(self) -> None:
        """Also this process' copy."""
        asyncio.get_running_loop().remove_reader(self._door)
        self._path.unlink(missing_ok=True)
        self._door.close()
        self._sock.close()


def take(path: Path) -> socket.socket | None:
    """A copy of what is offered at `path`; None when nobody offers anything there."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(TAKE_S)
        try:
            client.connect(str(path))
            _, descriptors, _, _ = socket.recv_fds(client, 1, 1)
        except OSError:
            return None
    return inherited(descriptors[0]) if descriptors else None
