"""Blobs by their SHA-256, at a URL: ``file:///…`` or whatever fsspec knows. The only file that imports fsspec.

A blob is written beside its place, synced, and renamed: it is there whole or not at all. What lies there is never
trusted: a blob that does not match its name is refused when read, and replaced when its content is stored again.
"""

import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import fsspec

from serving.errors import ArtifactCorrupt, Unavailable

_ABANDONED_S = 3600.0  # staged files older than this belong to nobody


class Artifacts:
    """Content-addressed storage below `url`.

    >>> blobs = Artifacts("memory://doctest")
    >>> blobs.read(blobs.store(b"weights"))
    b'weights'
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._fs, self._root = fsspec.url_to_fs(url)
        self._local = "file" in (self._fs.protocol if isinstance(self._fs.protocol, tuple) else (self._fs.protocol,))

    def store(self, data: bytes) -> str:
        """Keep `data`, unless it is there already; returns its digest. Raises Unavailable when it cannot be written."""
        digest = sha256(data).hexdigest()
        with self._reachable():
            if self._content(digest) != data:
                self._write(digest, data)
        return digest

    def read(self, digest: str) -> bytes:
        """Raises ArtifactCorrupt when the bytes are gone or are not those that were stored."""
        with self._reachable():
            data = self._content(digest)
        if data is None:
            raise ArtifactCorrupt(f"artifact {digest} is missing from {self._url}")
        if (got := sha256(data).hexdigest()) != digest:
            raise ArtifactCorrupt(f"artifact at {self._path(digest)}: got digest {got}, expected {digest}")
        return data

    def _path(self, digest: str) -> str:
        return f"{self._root.rstrip('/')}/sha256/{digest[:2]}/{digest}"

    def _content(self, digest: str) -> bytes | None:
        try:
            data: bytes = self._fs.cat_file(self._path(digest))
        except FileNotFoundError:
            return None
        return data

    def _write(self, digest: str, data: bytes) -> None:
        if self._local:
            _write_local(Path(self._root), Path(self._path(digest)), data)
        else:
            self._fs.makedirs(os.path.dirname(self._path(digest)), exist_ok=True)
            self._fs.pipe_file(self._path(digest), data)  # object stores show an object whole or not at all

    @contextlib.contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Unavailable(f"artifacts at {self._url}: {error.strerror or error}") from error


def _write_local(root: Path, path: Path, data: bytes) -> None:
    staging = root / "staging"
    staging.mkdir(parents=True, exist_ok=True)
    _sweep(staging)
    _make_folder(path.parent)
    staged = staging / secrets.token_hex(16)
    try:
        with staged.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _make_folder(path: Path) -> None:
    """Make a folder that outlives a power cut: each new name is synced in its parent."""
    if not path.is_dir():
        _make_folder(path.parent)
        path.mkdir(exist_ok=True)
        _sync(path.parent)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sweep(staging: Path) -> None:
    for file in staging.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if time.time() - file.stat().st_mtime > _ABANDONED_S:
                file.unlink()
