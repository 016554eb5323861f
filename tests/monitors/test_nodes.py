"""The verdicts of several nodes are those of one that reads the same records, to the bit, whoever dies when."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from monitors.labels import Label
from monitors.parcel import Receipt
from monitors.station import Station
from serving import record
from serving.config import Monitors
from serving.manifest import Segment
from serving.record import Record
from serving.ring import RingWriter
from tests.monitors.cluster import Judge
from tests.monitors.traffic import START, Registry, manifest, profile, stream

SETTINGS = Monitors(
    event_time="request", slot_s=3600, block_s=3 * 3600, block_rows=50, lateness_s=600, label_horizon_s=4 * 3600,
    false_pages_per_90_days=18,
)  # fmt: skip
NOW = START + 10**8
DIVIDED = msgspec.structs.replace(manifest("1"), segments=(Segment("x0", edges=(-0.5, 0.5)),), kpi_range=(0.0, 1.0))
SHIFTED = msgspec.structs.replace(profile(seed=2, shift=3.0), risk=profile().risk)
REGISTRY = Registry(DIVIDED, manifest("2"), profiles=[SHIFTED])
RECORDS = 800
AT_ONCE = 10  # records of 2 minutes: labels come two hours after their prediction and two before its seal


class Node:
    """One node: its ring, its station, which may die."""

    def __init__(self, folder: Path, registry: Registry) -> None:
        self._folder, self._registry = folder, registry
        self.ring = RingWriter(folder / "rings" / "worker-0.ring", 2**22)
        self.station = self._opened()

    def die(self) -> None:
        self.station._journal.close()  # what was not committed is gone
        self.station = self._opened()

    def _opened(self) -> Station:
        return Station(
            SETTINGS, "n", self._folder / "rings", self._folder / "monitors.db",
            self._registry.manifest, self._registry.read,
        )  # fmt: skip


class Cluster:
    """Nodes, a judge, and traffic that is written in its order, each record to one node."""

    def __init__(
        self, folder: Path, owners: Sequence[int], nodes: int, shift: float, registry: Registry = REGISTRY
    ) -> None:
        records, labels = _traffic(shift)
        self._left, self._due = list(zip(records, owners, strict=True)), list(labels)
        self._owner = {found.ids[0]: owner for found, owner in self._left}
        self.nodes = [Node(folder / str(k), registry) for k in range(nodes)]
        self.judge = Judge(SETTINGS, registry)

    def write(self) -> bool:
        """The next records, and the labels that are due by then. False: there are none left."""
        part, self._left = self._left[:AT_ONCE], self._left[AT_ONCE:]
        for found, owner in part:
            self.nodes[owner].ring.append(record.encode(found), found.rows)
        if part:
            clock = part[-1][0].event_times[0]
            ready = [label for label in self._due if label.time <= clock]
            self._due = self._due[len(ready) :]
            for k, node in enumerate(self.nodes):
                if mine := [label for label in ready if self._owner[label.id] == k]:
                    node.station.label(mine, NOW)
                    node.station.commit(at_once=True)  # it is answered
        return bool(self._left)

    def send(self, k: int, *, twice: bool = False, killed: bool = False, unheard: bool = False) -> None:
        """A node brings away what it committed, or the judge dies over it, or dies before the node hears of it."""
        station = self.nodes[k].station
        deliveries = [station.delivery] * (2 if twice else 1)
        receipts = self.judge.step(deliveries, [node.station.node for node in self.nodes], NOW, killed=killed)
        if unheard:
            self.judge.die()
        elif receipts:
            assert isinstance(receipts[-1], Receipt)
            station.receive(receipts[-1])

    def step(self, what: str, k: int) -> None:
        """One of `STEPS`, at node `k`."""
        if what == "write":
            self.write()
        elif what == "poll":
            self.nodes[k].station.poll(NOW)
        elif what == "commit":
            self.nodes[k].station.commit(at_once=True)
        elif what == "die":
            self.nodes[k].die()
        else:
            self.send(k, twice=what == "twice", killed=what == "killed", unheard=what == "unheard")

    def settle(self) -> None:
        """All that is written is read and judged, and all nodes have heard of it."""
        for _ in range(4):
            for k in range(len(self.nodes)):
                for what in ("poll", "commit", "send"):
                    self.step(what, k)

    def finish(self) -> bytes:
        while self.write():
            pass
        self.settle()
        found = self.nodes[0].station.report(NOW, self.judge.judged).document
        assert found is not None and found.settled
        return msgspec.json.encode(found)


@cache
def _traffic(shift: float) -> tuple[list[Record], list[Label]]:
    records, labels = stream(RECORDS, spacing_s=120, shift=shift)
    return records, sorted(labels, key=lambda label: label.time)


@cache
def _of_one_node(shift: float) -> bytes:
    with TemporaryDirectory() as folder:
        return Cluster(Path(folder), [0] * RECORDS, 1, shift).finish()


STEPS = ("write", "poll", "poll", "commit", "send", "send", "twice", "killed", "unheard", "die")


@pytest.mark.parametrize("nodes", [2, 3, 7])
@settings(
    max_examples=3,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
)
@given(rng=st.randoms(use_true_random=False), shares=st.lists(st.integers(1, 9), min_size=7, max_size=7))
def test_nodes_in_any_interleaving_give_the_verdicts_of_one_to_the_bit(
    nodes: int, rng: Random, shares: list[int]
) -> None:
    with TemporaryDirectory() as folder:
        cluster = Cluster(Path(folder), rng.choices(range(nodes), shares[:nodes], k=RECORDS), nodes, 3.0)
        for _ in range(100 * nodes):
            what, k = rng.choice(STEPS), rng.randrange(nodes)
            cluster.step(what, k)
        assert cluster.finish() == _of_one_node(3.0)


@pytest.mark.parametrize(("shift", "state"), [(0.0, "ok"), (3.0, "alarm")])
def test_what_is_compared_says_something(shift: float, state: str) -> None:
    found = msgspec.json.decode(_of_one_node(shift))["models"]["m"]["1"]
    assert found["state"] == state
    assert all(found["drift"][name]["blocks"] > 1 for name in ("_all", "_joint")) and found["risk"]["blocks"] > 0


def test_a_node_without_traffic_holds_nobody_back(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, [0] * RECORDS, 3, 3.0)
    assert cluster.finish() == _of_one_node(3.0)
