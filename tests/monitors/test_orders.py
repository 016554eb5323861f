"""What people order of the judge is carried out once, between the same two blocks, whoever dies when."""

from pathlib import Path

import msgspec
import pytest

from monitors.orders import Order
from tests.monitors.test_nodes import AT_ONCE, NOW, RECORDS, Cluster

RESET = Order(1, "reset", "m", "1", NOW, "me", "the sender is repaired")
AT = RECORDS // AT_ONCE * 3 // 4  # the drift began half-way


def write(cluster: Cluster) -> None:
    cluster.write()
    cluster.nodes[0].station.poll(NOW)
    cluster.nodes[0].station.commit(at_once=True)
    cluster.send(0)


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """Where version 1 is in alarm."""
    subject = Cluster(tmp_path, [0] * RECORDS, 1, 3.0)
    for _ in range(AT):
        write(subject)
    assert subject.judge.judged.verdicts["m", "1"].state == "alarm"
    return subject


def test_a_reset_takes_the_evidence_and_the_alarms_of_its_version_alone(cluster: Cluster) -> None:
    before = cluster.judge.judged.verdicts
    cluster.judge.orders.append(RESET)
    cluster.send(0)
    after = cluster.judge.judged.verdicts
    assert after["m", "1"].state == "ok" and after["m", "1"].order == 1
    assert {verdict.log_e for verdict in after["m", "1"].drift.values()} == {0.0}
    assert not any(verdict.alarm for verdict in after["m", "1"].drift.values())
    assert after["m", "1"].which == () and after["m", "1"].risk.log_e == 0.0
    assert after["m", "1"].drift["x0"].psi == before["m", "1"].drift["x0"].psi  # what was counted stays
    assert msgspec.json.encode(after["m", "2"]) == msgspec.json.encode(before["m", "2"])


def test_what_still_holds_is_found_again_and_a_reset_is_carried_out_once(cluster: Cluster) -> None:
    cluster.judge.orders.append(RESET)
    cluster.send(0)
    cluster.finish()
    found = cluster.judge.judged.verdicts["m", "1"]
    assert found.state == "alarm"
    cluster.judge.die()
    cluster.send(0)
    cluster.nodes[0].die()
    cluster.send(0, twice=True)
    assert cluster.judge.judged.verdicts["m", "1"].state == "alarm"


def end(folder: Path, death: str) -> bytes:
    """The verdicts, of version 1 since its reset, with a judge that dies over it."""
    subject = Cluster(folder, [0] * RECORDS, 1, 3.0)
    for _ in range(AT):
        write(subject)
    if death == "before":
        subject.judge.die()
    subject.judge.orders.append(RESET)
    if death in ("while", "twice"):
        subject.send(0, killed=True)
    subject.send(0)
    if death in ("after", "twice"):
        subject.judge.die()
    return subject.finish()


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return end(tmp_path_factory.mktemp("straight"), "never")


@pytest.mark.parametrize("death", ["before", "while", "after", "twice"])
def test_a_judge_that_dies_over_a_reset_changes_no_bit(death: str, straight: bytes, tmp_path: Path) -> None:
    assert end(tmp_path, death) == straight


def test_state_of_an_earlier_release_has_obeyed_nothing(cluster: Cluster) -> None:
    state = cluster.judge._state.all("monitor")["m", "1"]
    *older, order, rebased, adoption, learning = msgspec.msgpack.decode(state)
    assert (order, rebased, adoption, learning) == (0, [], None, None)
    cluster.judge._state.begin()
    cluster.judge._state.put("monitor", {("m", "1"): msgspec.msgpack.encode(older)})
    cluster.judge._state.commit()
    cluster.judge.die()
    cluster.send(0)
    write(cluster)
    assert cluster.judge.judged.verdicts["m", "1"].state == "alarm"
    cluster.judge.orders.append(RESET)
    cluster.send(0)
    assert cluster.judge.judged.verdicts["m", "1"].order == 1


def test_an_order_waits_for_a_version_that_is_not_known_yet(tmp_path: Path) -> None:
    subject = Cluster(tmp_path, [0] * RECORDS, 1, 0.0)
    subject.judge.orders = [Order(1, "reset", "m", "9", NOW, "me", "?"), msgspec.structs.replace(RESET, number=2)]
    subject.send(0)
    for _ in range(8):
        write(subject)
    subject.send(0)
    assert subject.judge.judged.verdicts["m", "1"].order == 2
    assert subject.judge.judged.verdicts["m", "2"].order == 0
