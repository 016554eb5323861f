"""Blobs in an object store: a real S3 protocol over loopback, with the store away, the cache damaged or full."""

import logging
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

from serving.artifacts import Artifacts, Bucket
from serving.errors import ArtifactCorrupt, ConfigError, Unavailable
from serving.repository import Repository
from tests.test_repository import _publish, _version


class Store:
    """An S3 server with one bucket, which can be stopped and started again with what it had."""

    def __init__(self) -> None:
        self._server: Any = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        self.port = self._server.get_host_and_port()[1]
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        direct.open(urllib.request.Request(f"{self.endpoint}/models", method="PUT"), timeout=10).close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._server.stop()


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    subject = Store()
    for name, value in {"ENDPOINT_URL": subject.endpoint, "ACCESS_KEY_ID": "me", "SECRET_ACCESS_KEY": "it"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    yield subject
    subject.stop()


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()


def test_what_is_published_on_one_node_is_read_on_another(store: Store, tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/registry.db"
    _publish(Repository(database, "s3://models/here", tmp_path / "a", 2**20), "1", "2")
    other = Repository(database, "s3://models/here", tmp_path / "b", 2**20)
    assert other.read(other.manifest("fraud", "2"), "model.onnx") == b"fraud 2"
    assert [path.name for path in (tmp_path / "b").rglob("*") if path.is_file()] == [_digest(b"fraud 2")]


def test_a_cached_blob_needs_no_store(store: Store, tmp_path: Path) -> None:
    blobs = Artifacts("s3://models/here", tmp_path, 2**20)
    kept, other = blobs.store(b"kept"), blobs.store(b"other")
    assert blobs.read(kept) == b"kept"
    store.stop()
    assert blobs.read(kept) == Artifacts("s3://models/here", tmp_path, 2**20).read(kept) == b"kept"
    with pytest.raises(Unavailable, match=r"artifacts at s3://models/here: .*error sending request"):
        blobs.read(other)
    with pytest.raises(Unavailable, match="artifacts at s3://models/here"):
        blobs.store(b"new")


@pytest.mark.parametrize("damage", [b"kEpt", b"ke", b""], ids=["flipped", "truncated", "empty"])
def test_a_damaged_cache_is_fetched_anew_and_never_believed(store: Store, tmp_path: Path, damage: bytes) -> None:
    blobs = Artifacts("s3://models/here", tmp_path, 2**20)
    digest = blobs.store(b"kept")
    blobs.read(digest)
    (path,) = tmp_path.rglob(digest)
    path.write_bytes(damage)
    assert blobs.read(digest) == b"kept"
    assert path.read_bytes() == b"kept"
    path.write_bytes(damage)
    store.stop()
    with pytest.raises(Unavailable):
        blobs.read(digest)


@pytest.mark.parametrize("damage", [b"mOdel", b"mode", b""], ids=["flipped", "truncated", "empty"])
def test_what_the_store_damaged_is_refused_and_healed_by_publishing_again(
    store: Store, tmp_path: Path, damage: bytes
) -> None:
    repository = Repository(f"sqlite:///{tmp_path}/r.db", "s3://models/here", tmp_path / "cache", 2**20)
    repository.publish(_version(), {"model.onnx": b"model"})
    Bucket("s3://models/here").put(f"sha256/{_digest(b'model')[:2]}/{_digest(b'model')}", damage)
    with pytest.raises(ArtifactCorrupt, match=r"got digest .* expected"):
        repository.read(_version(), "model.onnx")
    assert not repository.publish(_version(), {"model.onnx": b"model"})
    assert repository.read(_version(), "model.onnx") == b"model"


def test_what_is_not_there_is_missing(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ArtifactCorrupt, match="is missing from s3://models/here"):
        Artifacts("s3://models/here", tmp_path, 2**20).read(_digest(b"nobody stored this"))


def test_the_cache_stays_within_its_bound_and_keeps_what_was_read_last(store: Store, tmp_path: Path) -> None:
    blobs = Artifacts("s3://models/here", tmp_path, 3000)
    first, second, third, fourth = (blobs.store(bytes([k]) * 1000) for k in range(4))
    large = blobs.store(bytes(3001))
    for digest in (first, second, third, first, fourth, large):
        blobs.read(digest)
    assert {path.name for path in tmp_path.glob("sha256/*/*")} == {first, third, fourth}
    assert list((tmp_path / "staging").iterdir()) == []


def test_many_replicas_fetch_into_one_cache_at_once(store: Store, tmp_path: Path) -> None:
    blobs = Artifacts("s3://models/here", tmp_path, 2500)
    contents = [bytes([k]) * 1000 for k in range(5)]
    digests = [blobs.store(data) for data in contents]
    start = threading.Barrier(8)

    def load(number: int) -> bool:
        mine = Artifacts("s3://models/here", tmp_path, 2500)
        start.wait(10)
        return all(mine.read(digests[(number + k) % 5]) == contents[(number + k) % 5] for k in range(15))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(load, range(8)))


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"where the folder should be")
    blobs = Artifacts("s3://models/here", tmp_path / "file", 2**20)
    assert blobs.read(blobs.store(b"weights")) == b"weights"


@pytest.mark.parametrize("url", ["ftp://models/here", "models", "s3://", "file://elsewhere/models", ""])
def test_an_address_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"\[registry\] artifacts: expected file:///FOLDER or s3://BUCKET"):
        Artifacts(url)
