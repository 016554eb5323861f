"""Versions are immutable and whole, whatever happens while they are made; the desired state changes one step a time."""

import json
import os
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from threading import Event
from uuid import uuid4

import pytest

from serving import config
from serving.database import orders
from serving.errors import (
    ArtifactCorrupt,
    BadRequest,
    ConfigError,
    Conflict,
    NotFound,
    Unavailable,
    UnknownModel,
    UnknownVersion,
)
from serving.manifest import Feature, Manifest, Prediction
from serving.protocol import Signature, TensorSpec
from serving.repository import Repository
from serving.routing import Table
from tests.postgres import Server

SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "FP32", (-1, 1)),))


ELSEWHERE = "database.url"  # in a test's folder: its database is no file in it


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder for a registry, once with SQLite and once with PostgreSQL."""
    if request.param == "postgresql":
        server: Server = request.getfixturevalue("postgres")
        (tmp_path / ELSEWHERE).write_text(server.database(uuid4().hex))
    return tmp_path


def _open(folder: Path) -> Repository:
    elsewhere = folder / ELSEWHERE
    database = elsewhere.read_text() if elsewhere.exists() else f"sqlite:///{folder}/registry.db"
    return Repository(database, (folder / "artifacts").as_uri())


def _version(version: str = "1", content: bytes = b"model", model: str = "fraud", **more: object) -> Manifest:
    files = {"model.onnx": sha256(content).hexdigest()}
    return Manifest(model=model, version=version, files=files, signature=SIGNATURE, rows_independent=True, **more)  # type: ignore[arg-type]


def _publish(repository: Repository, *versions: str, model: str = "fraud") -> None:
    for version in versions:
        content = f"{model} {version}".encode()
        repository.publish(_version(version, content, model), {"model.onnx": content})


def _blob(folder: Path, content: bytes) -> Path:
    return next((folder / "artifacts").rglob(sha256(content).hexdigest()))


def test_what_is_published_is_read_back(place: Path) -> None:
    made = _version(task="regression", prediction=Prediction("y"), features=(Feature("a", "x"),), lineage={"by": "me"})
    assert _open(place).publish(made, {"model.onnx": b"model"})
    repository = _open(place)
    assert repository.manifest("fraud", "1") == made
    assert repository.read(made, "model.onnx") == b"model"
    assert repository.published_at("fraud", "1") > 1.6e9


def test_the_same_content_again_is_no_news(place: Path) -> None:
    repository = _open(place)
    assert repository.publish(_version(), {"model.onnx": b"model"})
    assert not repository.publish(_version(lineage={"source": "elsewhere"}), {"model.onnx": b"model"})
    assert repository.manifest("fraud", "1").lineage == {}


@pytest.mark.parametrize(
    ("other", "what"),
    [(_version(content=b"other"), "files"), (_version(task="regression"), "task")],
)
def test_other_content_under_a_version_is_a_conflict(place: Path, other: Manifest, what: str) -> None:
    repository = _open(place)
    repository.publish(_version(), {"model.onnx": b"model"})
    content = b"other" if what == "files" else b"model"
    with pytest.raises(Conflict, match=f"version '1' of 'fraud' exists with other {what}"):
        repository.publish(other, {"model.onnx": content})
    assert repository.manifests() == [_version()]
    assert len(list((place / "artifacts" / "sha256").rglob("?" * 64))) == 1  # nothing was stored for it


def test_names_and_digests_are_checked(tmp_path: Path) -> None:
    repository = _open(tmp_path)
    for model, version in (("../up", "1"), ("Upper", "1"), ("a" * 64, "1"), ("fraud", ""), ("fraud", "a/b")):
        with pytest.raises(BadRequest, match="must match"):
            repository.publish(_version(version, model=model), {"model.onnx": b"model"})
    with pytest.raises(BadRequest, match="declares files"):
        repository.publish(_version(), {"model.onnx": b"swapped"})
    assert repository.manifests() == []


def test_the_order_of_publication(place: Path) -> None:
    repository = _open(place)
    _publish(repository, "2", "10", "1")
    _publish(repository, "7", model="other")
    assert [m.version for m in repository.manifests("fraud")] == ["2", "10", "1"]
    assert [m.model for m in repository.manifests()] == ["fraud"] * 3 + ["other"]
    assert repository.newest("fraud") == "1"


def test_what_is_unknown_is_named_with_what_there_is(place: Path) -> None:
    repository = _open(place)
    _publish(repository, "3", "5")
    with pytest.raises(UnknownVersion, match="model 'fraud' has no version '7'; it has '3', '5'"):
        repository.manifest("fraud", "7")
    with pytest.raises(UnknownModel, match="unknown model 'froud'; there are 'fraud'"):
        repository.manifests("froud")
    with pytest.raises(UnknownVersion):
        repository.published_at("fraud", "7")
    with pytest.raises(NotFound, match=r"has no file 'reference.json'; it has 'model.onnx'"):
        repository.read(repository.manifest("fraud", "3"), "reference.json")


@pytest.mark.parametrize("damage", [b"mOdel", b"mode", b"", None], ids=["flipped", "truncated", "empty", "missing"])
def test_damaged_artifacts_are_refused_and_healed_by_publishing_again(tmp_path: Path, damage: bytes | None) -> None:
    repository = _open(tmp_path)
    repository.publish(_version(), {"model.onnx": b"model"})
    blob = _blob(tmp_path, b"model")
    blob.unlink() if damage is None else blob.write_bytes(damage)
    with pytest.raises(ArtifactCorrupt, match="is missing" if damage is None else "got digest .* expected"):
        repository.read(_version(), "model.onnx")
    assert not repository.publish(_version(), {"model.onnx": b"model"})
    assert repository.read(_version(), "model.onnx") == b"model"


_KILLED = """
import json, os, shutil, signal, sys
from tests.test_repository import _open, _version
from pathlib import Path

STEPS = {"write", "fsync", "replace", "mkdir", "open", "execute", "commit", "close", "unlink", "flock"}

def attempt(folder, step):
    left = step
    def watch(frame, event, what):
        nonlocal left
        if event == "c_call" and what.__name__ in STEPS:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.setprofile(watch)
    _open(folder).publish(_version(), {"model.onnx": b"model"})
    sys.setprofile(None)

root, step, stride = Path(sys.argv[1]), 0, int(sys.argv[2])
while True:
    step += stride
    folder = root / str(step)
    shutil.copytree(root / "made", folder)
    if (child := os.fork()) == 0:
        attempt(folder, step)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
print(step)
"""


@pytest.mark.parametrize(("opened", "stride"), [(True, 1), (False, 7)], ids=["publishing", "migrating"])
def test_killed_at_any_step_a_version_is_absent_or_complete(tmp_path: Path, opened: bool, stride: int) -> None:
    (tmp_path / "made").mkdir()
    if opened:
        _open(tmp_path / "made")
    command = [sys.executable, "-c", _KILLED, str(tmp_path), str(stride)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    steps, seen = int(done.stdout), set()
    assert steps > 20
    for step in range(stride, steps + 1, stride):
        repository = _open(tmp_path / str(step))
        there = repository.manifests() == [_version()]
        assert there or repository.manifests() == []
        if there:
            assert repository.read(_version(), "model.onnx") == b"model"
        seen.add(there)
        assert repository.publish(_version(), {"model.onnx": b"model"}) is not there  # and it can be done again
        assert repository.read(_version(), "model.onnx") == b"model"
    assert seen == {True, False}


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    script = (
        "import resource, signal; from pathlib import Path; from tests.test_repository import _open, _version\n"
        f"r = _open(Path({str(tmp_path)!r})); signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); big = bytes(200_000)\n"
        "r.publish(_version(content=big), {'model.onnx': big})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert "serving.errors.Unavailable: artifacts at file://" in done.stderr and "File too large" in done.stderr
    assert _open(tmp_path).manifests() == []
    assert [path for path in (tmp_path / "artifacts").rglob("*") if path.is_file()] == []


def test_many_open_and_publish_at_once(place: Path) -> None:
    def publish(number: int) -> bool:
        return _open(place).publish(_version(str(number // 2)), {"model.onnx": b"model"})

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(publish, range(16))) == 8
    assert len(_open(place).manifests()) == 8


def test_a_registry_of_a_newer_gaugeway_is_left_alone(tmp_path: Path) -> None:
    _open(tmp_path)
    with sqlite3.connect(tmp_path / "registry.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(Unavailable, match="has schema '9999'"):
        _open(tmp_path)


def test_what_cannot_be_reached(tmp_path: Path) -> None:
    (tmp_path / "registry.db").write_bytes(b"not a database, but long enough to be read as one" * 100)
    with pytest.raises(Unavailable, match=r"registry sqlite:///.*not a database"):
        _open(tmp_path)
    with pytest.raises(Unavailable, match=r"registry sqlite:////proc/nowhere"):
        _open(Path("/proc/nowhere"))


def test_the_desired_state_changes_with_a_generation_and_a_reason(place: Path) -> None:
    repository = _open(place)
    _publish(repository, "1", "2")
    assert (repository.desired().generation, repository.desired().models) == (0, {})
    first = config.Model(sticky="header:x-user", weights={"1": 1.0})
    assert repository.set_model("fraud", first, by="ada", why="start") == 1
    assert repository.set_weights("fraud", {"1": 0.25, "2": 0.75}, by="bob", why="better") == 2
    assert repository.set_weights("fraud", {"1": 0.25, "2": 0.75}, by="bob", why="again") == 2
    second = config.Model(sticky="header:x-user", weights={"1": 0.25, "2": 0.75})
    assert _open(place).desired().models == {"fraud": second}
    changes = repository.changes()
    assert [(c.generation, c.by, c.why, c.model) for c in changes] == [
        (1, "ada", "start", "fraud"),
        (2, "bob", "better", "fraud"),
    ]
    assert [(c.before, c.after) for c in changes] == [(None, first), (first, second)]


def test_a_remark_is_a_change_from_the_same_to_the_same(place: Path) -> None:
    repository = _open(place)
    _publish(repository, "1")
    repository.remark("fraud", by="ada", why="before anything")
    repository.set_weights("fraud", {"1": 1.0}, by="ada", why="start")
    repository.remark("fraud", by="bob", why="erased 3 rows")
    found = [(c.generation, c.by, c.why, c.before == c.after) for c in repository.changes()]
    assert found == [(0, "ada", "before anything", True), (1, "ada", "start", False), (1, "bob", "erased 3 rows", True)]
    assert repository.desired().generation == 1


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ({"1": 0.5, "2": 0.4}, "must add up to 1, got 0.9"),
        ({}, "must add up to 1, got 0"),
        ({"1": 1.5, "2": -0.5}, "must lie in 0..1, got 1.5"),
        ({"1": float("nan")}, "must lie in 0..1, got nan"),
        ({"1": 0.5, "3": 0.5}, "model 'fraud' has no version '3'; it has '1', '2'"),
    ],
)
def test_wrong_weights_change_nothing(place: Path, weights: dict[str, float], sentence: str) -> None:
    repository = _open(place)
    _publish(repository, "1", "2")
    with pytest.raises((BadRequest, UnknownVersion), match=sentence):
        repository.set_weights("fraud", weights, by="me", why="")
    assert repository.desired().generation == 0 and repository.changes() == []


def test_import_takes_what_sql_does_not_have(place: Path) -> None:
    repository = _open(place)
    _publish(repository, "1", "2")
    _publish(repository, "1", model="other")
    decided = config.Model(weights={"2": 1.0})
    repository.set_model("fraud", decided, by="me", why="")
    models = {"fraud": config.Model(weights={"1": 1.0}), "other": config.Model(sticky="cookie:id")}
    assert repository.import_models(models) == ["other"]
    assert repository.import_models(models) == []
    assert repository.desired().models == {"fraud": decided, "other": models["other"]}
    assert repository.desired().generation == 2


def test_import_is_all_or_nothing(place: Path) -> None:
    repository = _open(place)
    _publish(repository, "1")
    good = config.Model(weights={"1": 1.0})
    with pytest.raises(UnknownModel, match="unknown model 'missing'; there are 'fraud'"):
        repository.import_models({"fraud": good, "missing": good})
    with pytest.raises(UnknownVersion):
        repository.import_models({"fraud": config.Model(shadows=(config.Shadow(version="9"),))})
    assert repository.desired().models == {}


def test_weights_set_from_many_sides_are_serialised(place: Path) -> None:
    repository = _open(place)
    _publish(repository, "1", "2")

    def shift(number: int) -> int:
        share = number / 100
        return _open(place).set_weights("fraud", {"1": share, "2": 1 - share}, by=str(number), why="")

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(shift, range(1, 25))) == list(range(1, 25))
    changes = repository.changes()
    assert [c.before for c in changes[1:]] == [c.after for c in changes[:-1]]


def test_orders_rise_in_number_and_change_nothing_that_is_served(place: Path) -> None:
    repository = _open(place)
    _publish(repository, "1")
    before = repository.stamp()
    numbers = [repository.order("fraud", "1", "reset", by="me", why=why) for why in ("repaired", "again")]
    assert numbers[0] < numbers[1]
    assert repository.stamp() == before
    with pytest.raises(UnknownVersion, match="model 'fraud' has no version '2'; it has '1'"):
        repository.order("fraud", "2", "reset", by="me", why="there is none")


def test_an_order_may_bring_a_reference_which_is_kept_beside_the_one_before(place: Path) -> None:
    repository, published = _open(place), {"model.onnx": b"model", "reference.json": b"winter"}
    digests = {name: sha256(data).hexdigest() for name, data in published.items()}
    version = Manifest(model="fraud", version="1", files=digests, signature=SIGNATURE, rows_independent=True)
    repository.publish(version, published)
    assert repository.under_reference(version) == version
    for data in (b"spring", b"summer"):
        repository.order("fraud", "1", "rebase", by="me", why="newer", reference=data, rows=f"9 rows of {data!r}")
        repository.order("fraud", "1", "reset", by="me", why="repaired")
    held = repository.under_reference(version)
    assert repository.read(held, "reference.json") == b"summer"
    assert repository.read(version, "reference.json") == b"winter"
    with repository._database.reading() as connection:
        rows = connection.execute(orders.select().where(orders.c.reference != "")).mappings().all()
    spring, summer = (sha256(data).hexdigest() for data in (b"spring", b"summer"))
    assert [(row["replaced"], row["reference"]) for row in rows] == [
        (digests["reference.json"], spring), (spring, summer),
    ]  # fmt: skip
    assert rows[0]["by"] == "me" and rows[0]["why"] == "newer" and rows[0]["rows"] == "9 rows of b'spring'"


@pytest.mark.parametrize(
    ("kinds", "holds"), [(["learn"], 0), (["learn", "learn"], 0), (["rebase", "learn"], 0), (["learn", "rebase"], 1)]
)
def test_what_was_learned_behind_another_reference_is_none(kinds: list[str], holds: int, place: Path) -> None:
    repository = _open(place)
    _publish(repository, "1")
    version = repository.manifest("fraud", "1")
    for k, kind in enumerate(kinds):
        repository.order("fraud", "1", kind, by="me", why="it was there", reference=b"%d" % k)
    held = repository.under_reference(version)
    assert repository.read(held, "reference.json") == b"%d" % holds
    repository.order("fraud", "1", "rebase", by="me", why="newer", reference=b"newer")
    with repository._database.reading() as connection:
        rows = connection.execute(orders.select().order_by(orders.c.number)).mappings().all()
    assert rows[-1]["replaced"] == held.files["reference.json"]


def test_the_stamp_changes_with_whatever_it_stands_for(place: Path) -> None:
    """While two publish and two decide, whoever saw one stamp twice saw the same versions and the same decision."""
    repository, seen, done = _open(place), dict[tuple[int, int], tuple[int, int]](), Event()
    _publish(repository, "1", "2")

    def publish(number: int) -> None:
        _publish(_open(place), *(str(v) for v in range(10 * number, 10 * number + 6)))

    def decide(number: int) -> None:
        for k in range(6):
            share = (10 * number + k) / 100
            _open(place).set_weights("fraud", {"1": share, "2": 1 - share}, by="me", why="")

    def look() -> None:
        last = False
        while not last:
            last = done.is_set()  # once more, when nobody disturbs
            before = repository.stamp()
            found = repository.desired().generation, len(repository.manifests())
            if repository.stamp() == before:
                assert seen.setdefault(before, found) == found

    with ThreadPoolExecutor(5) as pool:
        looking = pool.submit(look)
        list(pool.map(publish, (1, 2))), list(pool.map(decide, (1, 2)))
        done.set()
        looking.result()
    assert repository.stamp()[0] == repository.desired().generation == 12
    assert len(repository.manifests()) == 14 and seen


def test_of_two_who_publish_other_content_under_one_version_one_is_told(place: Path) -> None:
    def publish(content: bytes) -> bool:
        try:
            return _open(place).publish(_version(content=content), {"model.onnx": content})
        except Conflict:
            return False

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(publish, [b"%d" % k for k in range(6)])) == 1
    (made,) = _open(place).manifests()
    assert sha256(_open(place).read(made, "model.onnx")).hexdigest() == made.files["model.onnx"]


def test_what_is_read_together_is_of_one_moment(place: Path) -> None:
    repository, done = _open(place), Event()
    _publish(repository, "1", "2")

    def decide() -> None:
        for k in range(1, 12):
            _open(place).set_weights("fraud", {"1": k / 100, "2": 1 - k / 100}, by="me", why="")
        done.set()

    with ThreadPoolExecutor(1) as pool:
        deciding = pool.submit(decide)
        while not done.is_set() and not deciding.done():
            found = repository.desired()
            if found.generation:
                assert found.models["fraud"].weights["1"] == found.generation / 100
        deciding.result()


def test_a_server_that_is_away_is_one_sentence_and_nothing_is_remembered_of_it(
    tmp_path: Path, postgres: Server
) -> None:
    repository = Repository(postgres.database("away"), (tmp_path / "artifacts").as_uri())
    _publish(repository, "1")
    postgres.stop()
    try:
        with pytest.raises(Unavailable, match=r"registry postgresql\+psycopg://gaugeway@127.0.0.1.*refused"):
            repository.stamp()
    finally:
        postgres.start()
    assert repository.newest("fraud") == "1"


def test_a_database_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a URL of sqlite or postgresql, got 'mysql'"):
        Repository("mysql://root@127.0.0.1/x", (tmp_path / "artifacts").as_uri())


def test_no_descriptor_is_left_open(place: Path) -> None:
    _open(place)
    before = sorted(os.listdir("/proc/self/fd"))
    repository = _open(place)
    _publish(repository, "1")
    repository.read(repository.manifest("fraud", "1"), "model.onnx")
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert json.loads(repository.manifest("fraud", "1").encode())["model"] == "fraud"


def test_of_routing_tables_the_next_one_is_kept_and_no_other(place: Path) -> None:
    repository = _open(place)
    assert repository.table() is None
    repository.keep_table(Table(1))
    repository.keep_table(Table(2))
    with pytest.raises(Conflict, match="generation 2"):  # of a controller that was thought dead
        _open(place).keep_table(Table(2))
    found = _open(place).table()
    assert found is not None and found.generation == 2
