"""Blobs by their SHA-256, at a URL: a folder, ``file:///…``, or an object store, ``s3://…``, ``gs://…``, ``az://…``.

A blob is written beside its place, synced, and renamed: it is there whole or not at all. What lies there is never
trusted: a blob that does not match its name is refused when read, and replaced when its content is stored again.
What comes from an object store is kept in a cache on this machine's disk, which is trusted as little: a blob that is
in it needs no store.
"""

import contextlib
import logging
import os
import secrets
import time
from collections.abc import Iterator
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

from serving.errors import ArtifactCorrupt, ConfigError, Unavailable

CONNECT_S = 3  # for an object store to take a connection
TRANSFER_S = 600  # for one blob
RETRY_S = 10  # and at most twice, what an object store refuses for the moment
OBJECT_STORES = ("s3", "gs", "az")
_ABANDONED_S = 3600.0  # staged files older than this belong to nobody

log = logging.getLogger("gaugeway.artifacts")


class Place(Protocol):
    """Where blobs lie. Both methods raise OSError when it cannot be reached."""

    def get(self, path: str) -> bytes | None: ...

    def put(self, path: str, data: bytes) -> None: ...


class Artifacts:
    """Content-addressed storage at `url`. What an object store gives is kept below `cache`, up to `cache_bytes`.

    >>> from tempfile import mkdtemp
    >>> blobs = Artifacts(Path(mkdtemp()).as_uri())
    >>> blobs.read(blobs.store(b"weights"))
    b'weights'
    """

    def __init__(self, url: str, cache: Path | None = None, cache_bytes: int = 0) -> None:
        self._url = url
        parts = urlsplit(url)
        if parts.scheme == "file" and parts.netloc in ("", "localhost"):
            self._place: Place = Folder(Path(url2pathname(parts.path)))
            cache = None
        elif parts.scheme in OBJECT_STORES and parts.netloc:
            self._place = Bucket(url)
        else:
            raise ConfigError(
                f"[registry] artifacts: expected file:///FOLDER or {', '.join(f'{s}://BUCKET' for s in OBJECT_STORES)},"
                f" each with a path if need be, got {url!r}"
            )
        self._cache = Cache(cache, cache_bytes) if cache is not None and cache_bytes else None

    def store(self, data: bytes) -> str:
        """Keep `data`, unless it is there already; returns its digest. Raises Unavailable when it cannot be written."""
        digest = sha256(data).hexdigest()
        with self._reachable():
            if self._place.get(_path(digest)) != data:
                self._place.put(_path(digest), data)
        return digest

    def read(self, digest: str) -> bytes:
        """Raises ArtifactCorrupt when the bytes are gone or are not those that were stored, Unavailable when they
        cannot be had: the place cannot be reached, and the cache does not have them.
        """
        if self._cache is not None and (kept := self._cache.read(digest)) is not None:
            return kept
        with self._reachable():
            data = self._place.get(_path(digest))
        if data is None:
            raise ArtifactCorrupt(f"artifact {digest} is missing from {self._url}")
        if (got := sha256(data).hexdigest()) != digest:
            raise ArtifactCorrupt(f"artifact {_path(digest)} at {self._url}: got digest {got}, expected {digest}")
        if self._cache is not None:
            self._cache.keep(digest, data)
        return data

    @contextlib.contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Unavailable(f"artifacts at {self._url}: {error.strerror or error}") from error


class Folder:
    """On this machine, or where all machines mount the same."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def get(self, path: str) -> bytes | None:
        try:
            return (self._root / path).read_bytes()
        except FileNotFoundError:
            return None

    def put(self, path: str, data: bytes) -> None:
        _write_local(self._root, self._root / path, data)


class Bucket:
    """In an object store, which shows an object whole or not at all. Credentials are those of the environment."""

    def __init__(self, url: str) -> None:
        try:
            import obstore
            from obstore.exceptions import BaseError
            from obstore.store import from_url
        except ModuleNotFoundError:
            raise ConfigError(f"[registry] artifacts {url!r} needs obstore: install gaugeway[objectstore]") from None
        self._obstore: Any = obstore
        self._failure = BaseError
        self._store: Any = from_url(
            url,
            client_options={"connect_timeout": f"{CONNECT_S}s", "timeout": f"{TRANSFER_S}s", "allow_http": True},
            retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=RETRY_S)},
        )

    def get(self, path: str) -> bytes | None:
        try:
            return bytes(self._obstore.get(self._store, path).bytes())
        except FileNotFoundError:
            return None
        except self._failure as error:
            raise OSError(_first_line(error)) from None

    def put(self, path: str, data: bytes) -> None:
        try:
            self._obstore.put(self._store, path, data)
        except self._failure as error:
            raise OSError(_first_line(error)) from None


class Cache:
    """Blobs on this machine's disk, at most `max_bytes` of them; those that were not read for longest go first.

    A disk that is full or broken makes it useless, and nothing else.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes

    def read(self, digest: str) -> bytes | None:
        """A blob as it was stored; None where it is not kept, or was damaged: then it is thrown away."""
        path = self._folder / _path(digest)
        try:
            data = path.read_bytes()
            if sha256(data).hexdigest() == digest:
                os.utime(path)
                return data
            log.warning("%s is not what its name says; it is fetched anew", path)
            path.unlink(missing_ok=True)
        except FileNotFoundError:
            pass
        except OSError as error:
            log.warning("the cache of artifacts cannot be read: %s", error)
        return None

    def keep(self, digest: str, data: bytes) -> None:
        if len(data) > self._max_bytes:
            return
        try:
            self._make_room(len(data))
            _write_local(self._folder, self._folder / _path(digest), data)
        except OSError as error:
            log.warning("the cache of artifacts cannot be written: %s", error)

    def _make_room(self, size: int) -> None:
        """Others of this machine do the same at the same time: what is gone already is gone."""
        kept = []
        for path in self._folder.glob("sha256/*/*"):
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                kept.append((stat.st_mtime, stat.st_size, path))
        used = sum(bytes for _, bytes, _ in kept)
        for _, bytes, path in sorted(kept):
            if used + size <= self._max_bytes:
                return
            path.unlink(missing_ok=True)
            used -= bytes


def _path(digest: str) -> str:
    return f"sha256/{digest[:2]}/{digest}"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


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
