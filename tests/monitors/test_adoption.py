"""A reference that comes while traffic goes on: whoever takes it up when, the verdicts are those of one node."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest

from monitors.aggregator import Verdicts
from monitors.court import RETRY_S
from monitors.orders import Order
from monitors.parcel import Receipt
from serving.errors import Unavailable
from serving.manifest import Manifest
from tests.monitors.cluster import Judge
from tests.monitors.test_nodes import DIVIDED, NOW, RECORDS, REGISTRY, SETTINGS, SHIFTED, STEPS, Cluster
from tests.monitors.traffic import Registry, manifest, profile

REBASE = Order(1, "rebase", "m", "1", NOW, "me", "the winter is over", SHIFTED.digest, "4000 rows of winter.parquet")
RESET = Order(2, "reset", "m", "1", NOW, "me", "and again")
AT = 60  # of 80 batches; the drift began at the 40th


def begun(folder: Path, owners: Sequence[int], nodes: int, registry: Registry = REGISTRY) -> Cluster:
    """Where version 1 drifts."""
    cluster = Cluster(folder, owners, nodes, 3.0, registry)
    for _ in range(AT):
        cluster.write()
    cluster.settle()
    return cluster


def document(cluster: Cluster) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(cluster.finish())
    return found


def later(cluster: Cluster) -> None:
    """The next turn of the judge is after a while."""
    station = cluster.nodes[0].station
    cluster.judge.step([station.delivery], [station.node], NOW + RETRY_S)


def verdicts(cluster: Cluster) -> Verdicts:
    return cluster.judge.judged.verdicts["m", "1"]


@cache
def of_one_node() -> bytes:
    with TemporaryDirectory() as folder:
        cluster = begun(Path(folder), [0] * RECORDS, 1)
        cluster.judge.orders.append(REBASE)
        cluster.settle()
        return cluster.finish()


@pytest.mark.parametrize("nodes", [2, 3])
def test_nodes_that_take_up_a_reference_at_different_times_give_one_verdict_to_the_bit(
    nodes: int, tmp_path: Path
) -> None:
    rng = Random(nodes)
    cluster = begun(tmp_path, rng.choices(range(nodes), k=RECORDS), nodes)
    cluster.judge.orders.append(REBASE)
    cluster.send(0)
    cluster.send(0)  # it is carried out
    for what in rng.choices(STEPS[1:], k=20 * nodes):
        cluster.step(what, rng.randrange(nodes - 1))
    for _ in range(2):  # 40 minutes, in which the last node has not heard; it holds two slots of an hour later
        cluster.write()
        for k in range(nodes):
            cluster.step("poll", k)
    cluster.settle()
    for what in rng.choices(STEPS, k=30 * nodes):
        cluster.step(what, rng.randrange(nodes))
    assert cluster.finish() == of_one_node()


def test_drift_is_of_the_new_reference_and_harm_of_the_old(tmp_path: Path) -> None:
    cluster = begun(tmp_path, [0] * RECORDS, 1)
    before = verdicts(cluster)
    assert before.drift["_all"].alarm and before.risk.n > 0
    cluster.judge.orders += [REBASE, RESET]
    cluster.send(0)
    assert verdicts(cluster).order == 0  # the profile is read before the next step
    cluster.send(0)
    ordered = verdicts(cluster)
    assert (ordered.order, ordered.drift["_all"].blocks, ordered.risk.n) == (2, 0, before.risk.n)
    assert "the reference are 4000 rows of winter.parquet (order 1)" in ordered.notes
    assert ordered.laws["x0"] == SHIFTED.features["x0"]
    told = document(cluster)
    after, other = told["models"]["m"]["1"], told["models"]["m"]["2"]
    assert after["drift"]["_all"]["blocks"] >= 1 and not any(one["alarm"] for one in after["drift"].values())
    assert after["risk"]["blocks"] > before.risk.blocks and other["drift"]["_all"]["alarm"]
    assert told["dropped_rows"]["superseded"] == 0


def test_rows_of_who_hears_of_it_too_late_are_left_out_and_counted(tmp_path: Path) -> None:
    cluster = begun(tmp_path, [k // 2 % 2 for k in range(RECORDS)], 2)
    cluster.judge.orders.append(REBASE)
    cluster.send(0)
    cluster.send(0)  # it is carried out, and the other node has not heard
    for _ in range(6):  # two hours
        cluster.write()
        for k in (0, 1):
            cluster.step("poll", k)
            cluster.step("commit", k)
    cluster.settle()
    told = document(cluster)
    assert 0 < told["dropped_rows"]["superseded"] < 100
    drift = told["models"]["m"]["1"]["drift"]["_all"]
    assert drift["blocks"] >= 1 and not drift["alarm"]


def end(folder: Path, death: str) -> bytes:
    cluster = begun(folder, [0] * RECORDS, 1)
    cluster.judge.orders.append(REBASE)
    if death == "read":
        cluster.send(0, killed=True)
    cluster.send(0)
    if death == "judged":
        cluster.send(0, killed=True)
        cluster.send(0)
    cluster.send(0)
    if death == "heard":
        cluster.nodes[0].station.poll(NOW)
        cluster.nodes[0].die()
    cluster.settle()
    if death == "counted":
        cluster.nodes[0].die()
        cluster.judge.die()
    return cluster.finish()


@pytest.mark.parametrize("death", ["read", "judged", "heard", "counted"])
def test_a_death_between_any_two_steps_changes_no_bit(death: str, tmp_path: Path) -> None:
    assert end(tmp_path, death) == of_one_node()


class Away(Registry):
    """Where the profile that an order brings cannot be read for a while."""

    away = True
    asked = 0

    def read(self, found: Manifest, name: str) -> bytes:
        if self.away and found.files[name] == SHIFTED.digest:
            self.asked += 1
            raise Unavailable("artifacts at s3://here: cannot be reached")
        return super().read(found, name)


def test_an_order_waits_for_its_profile_and_those_after_it_for_the_order(tmp_path: Path) -> None:
    registry = Away(DIVIDED, manifest("2"), profiles=[SHIFTED])
    cluster = begun(tmp_path, [0] * RECORDS, 1, registry)
    cluster.judge.orders += [REBASE, RESET]
    for _ in range(3):
        cluster.send(0)
    assert verdicts(cluster).order == 0 and verdicts(cluster).drift["_all"].alarm
    assert registry.asked == 1  # it is not asked at every turn
    registry.away = False
    later(cluster)
    assert verdicts(cluster).order == 2


def test_a_profile_that_is_lost_holds_back_none_that_comes_after_it(tmp_path: Path) -> None:
    registry, newer = Away(DIVIDED, manifest("2"), profiles=[SHIFTED]), profile(seed=5)
    cluster = begun(tmp_path, [0] * RECORDS, 1, registry)
    cluster.judge.orders += [REBASE, RESET]
    for _ in range(3):
        cluster.send(0)
    assert verdicts(cluster).order == 0
    digest = registry.store(newer.encode())
    cluster.judge.orders.append(msgspec.structs.replace(REBASE, number=3, reference=digest, rows="what came after"))
    cluster.send(0)
    cluster.send(0)
    assert verdicts(cluster).order == 3 and verdicts(cluster).laws["x0"] == newer.features["x0"]
    assert "the reference are what came after (order 3)" in verdicts(cluster).notes


def test_a_node_that_cannot_read_a_profile_goes_on_with_the_one_it_has(tmp_path: Path) -> None:
    registry = Away(DIVIDED, manifest("2"), profiles=[SHIFTED])
    cluster = begun(tmp_path, [0] * RECORDS, 1, registry)
    registry.away = False
    cluster.judge.orders.append(REBASE)
    cluster.send(0)
    station = cluster.nodes[0].station
    (receipt,) = cluster.judge.step([station.delivery], [station.node], NOW)
    assert isinstance(receipt, Receipt) and receipt.adoptions[0].reference == SHIFTED.digest
    registry.away = True
    station.receive(receipt)
    station.poll(NOW)
    assert [version.later for version in station.catalogue.known] == [(), ()]
    registry.away = False
    cluster.settle()
    cluster.nodes[0].die()
    later = {one.manifest.version: one.later for one in cluster.nodes[0].station.catalogue.known}
    assert [edition.profile for edition in later["1"]] == [SHIFTED] and later["2"] == ()


def superseded(cluster: Cluster) -> int:
    return cluster.judge.judged.superseded_rows


def go_on(cluster: Cluster) -> None:
    """Three hours of traffic."""
    for _ in range(9):
        cluster.write()
    cluster.settle()


@pytest.mark.parametrize("copied", [False, True])
def test_nodes_follow_a_registry_that_was_restored_from_a_copy(copied: bool, tmp_path: Path) -> None:
    """The copy is of before all orders, or of before the second: that reference is gone, and so is its number."""
    coarse = profile(seed=4, rows=700, shift=3.0)  # of fewer cells
    registry = Registry(DIVIDED, manifest("2"), profiles=[SHIFTED, coarse])
    cluster, copy = Cluster(tmp_path, [0] * RECORDS, 1, 3.0, registry), Judge(SETTINGS, registry)
    go_on(cluster)
    if copied:
        cluster.judge.orders.append(REBASE)
        go_on(cluster)
        copy.orders = [REBASE]
        cluster.judge._state.sql.backup(copy._state.sql)
        copy.die()
    cluster.judge.orders.append(msgspec.structs.replace(REBASE, number=2, reference=coarse.digest))
    go_on(cluster)
    assert verdicts(cluster).order == 2 and superseded(cluster) == 0
    cluster.judge = copy
    go_on(cluster)
    go_on(cluster)
    lost, blocks = superseded(cluster), verdicts(cluster).drift["_all"].blocks
    assert lost > 0
    go_on(cluster)
    assert superseded(cluster) == lost and verdicts(cluster).drift["_all"].blocks > blocks
    cluster.judge.orders.append(msgspec.structs.replace(REBASE, number=2))
    cluster.settle()
    go_on(cluster)
    go_on(cluster)
    assert verdicts(cluster).order == 2 and verdicts(cluster).drift["_all"].blocks > 0
    assert superseded(cluster) == lost and verdicts(cluster).laws["x0"] == SHIFTED.features["x0"]


def test_a_rebase_on_live_rows_is_of_the_cells_of_its_reference(tmp_path: Path) -> None:
    cluster = begun(tmp_path, [0] * RECORDS, 1)
    cluster.judge.orders.append(msgspec.structs.replace(REBASE, reference="", rows=""))
    cluster.send(0)
    assert any(note.startswith("order 1 changed no reference") for note in verdicts(cluster).notes)
    cluster.judge.orders.append(msgspec.structs.replace(REBASE, number=2))
    cluster.settle()
    assert verdicts(cluster).order == 2 and verdicts(cluster).laws["x0"] == SHIFTED.features["x0"]
    assert not any("order 1" in note for note in verdicts(cluster).notes)
    cluster.judge.die()
    cluster.send(0)
    assert verdicts(cluster).laws["x0"] == SHIFTED.features["x0"]
