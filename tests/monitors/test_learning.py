"""A version without a reference gets one from its first blocks, the same however its rows came."""

from collections.abc import Sequence
from pathlib import Path
from random import Random

import msgspec
import numpy as np
import pytest

from monitors.aggregator import Verdicts
from monitors.court import RETRY_S
from monitors.learning import ROWS, Learning, SavedLearning, learns
from monitors.orders import Order
from monitors.parcel import Receipt
from monitors.reference import build
from monitors.slot import Counts
from monitors.station import Station
from monitors.whole_rows import MOST, WholeRows
from serving import record
from serving.config import Monitors
from serving.errors import Unavailable
from serving.manifest import Feature, Manifest
from serving.record import Record
from serving.ring import RingWriter
from tests.monitors.cluster import Judge
from tests.monitors.traffic import START, Registry, manifest, profile, stream

SETTINGS = Monitors(
    event_time="request", slot_s=3600, block_s=3 * 3600, block_rows=50, lateness_s=600, label_horizon_s=4 * 3600,
    false_pages_per_90_days=18, learn_blocks=5,
)  # fmt: skip
NOW = START + 10**8
BARE = msgspec.structs.replace(manifest("1"), files={"model.onnx": "0" * 64})
RECORDS, AT_ONCE = 1_200, 60  # 40 hours, two at once; what changes does so after 20


class Site:
    """Nodes that may die, and their judge, which may too."""

    def __init__(self, folder: Path, nodes: int, registry: Registry | None = None) -> None:
        self.registry = registry or Registry(BARE)
        self.folders = [folder / str(k) for k in range(nodes)]
        self.rings = [RingWriter(one / "rings" / "worker-0.ring", 2**22) for one in self.folders]
        self.stations = [self.opened(k) for k in range(nodes)]
        self.judge = Judge(SETTINGS, self.registry)

    def opened(self, k: int) -> Station:
        folder = self.folders[k]
        return Station(
            SETTINGS, "n", folder / "rings", folder / "monitors.db", self.registry.manifest, self.registry.read
        )

    def die(self, k: int) -> None:
        self.stations[k]._journal.close()
        self.stations[k] = self.opened(k)

    def write(self, records: Sequence[Record], rng: Random) -> None:
        for found in records:
            self.rings[rng.randrange(len(self.rings))].append(record.encode(found), found.rows)

    def turn(self, k: int, *, killed: bool = False) -> None:
        station = self.stations[k]
        station.poll(NOW)
        station.commit(at_once=True)
        live = [one.node for one in self.stations]
        for receipt in self.judge.step([station.delivery], live, NOW, killed=killed):
            assert isinstance(receipt, Receipt)
            station.receive(receipt)

    @property
    def found(self) -> Verdicts:
        return self.judge.judged.verdicts["m", "1"]


def run(folder: Path, nodes: int, shift: float, seed: int = 0) -> Site:
    site, rng = Site(folder, nodes), Random(seed)
    records, _ = stream(RECORDS, spacing_s=120, shift=shift, versions=("1",), of=BARE)
    for first in range(0, RECORDS, AT_ONCE):
        site.write(records[first : first + AT_ONCE], rng)
        for k in rng.sample(range(nodes), nodes):
            site.turn(k)
        if seed and rng.random() < 0.3:
            site.turn(rng.randrange(nodes), killed=True)
            site.die(rng.randrange(nodes))
        for _ in range(4):  # until all is sealed, judged and heard of
            for k in range(nodes):
                site.turn(k)
    return site


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return run(tmp_path_factory.mktemp("straight"), 1, 3.0)


def test_until_it_has_learned_it_says_how_far_it_is_and_never_ok(tmp_path: Path) -> None:
    site, rng = Site(tmp_path, 1), Random(0)
    records, _ = stream(RECORDS, spacing_s=120, versions=("1",), of=BARE)
    said = []
    for first in range(0, RECORDS, AT_ONCE):
        site.write(records[first : first + AT_ONCE], rng)
        site.turn(0)
        site.turn(0)
        said.append((site.found.state, next((n for n in site.found.notes if n.startswith("learning: ")), "")))
    states = [state for state, _ in said]
    assert states == sorted(states, key=["learning", "no_data", "ok"].index) and set(states) >= {"learning", "ok"}
    notes, told = list(dict.fromkeys(note for _, note in said)), [*(f"learning: {k} of 5 blocks" for k in range(6)), ""]
    assert notes == [note for note in told if note in notes] and {told[1], told[3], ""} <= set(notes)


def test_what_changes_after_it_has_learned_is_found_and_nothing_before(straight: Site, tmp_path: Path) -> None:
    assert straight.found.state == "alarm" and straight.found.drift["_all"].since is not None
    assert straight.found.drift["_all"].since > START + RECORDS / 2 * 120
    quiet = run(tmp_path, 1, 0.0).found
    assert quiet.state == "ok" and quiet.drift["_all"].blocks > 4
    assert not any(one.alarm for one in quiet.drift.values())


def test_it_says_of_which_rows_and_charges_for_their_number(straight: Site) -> None:
    (order,) = straight.judge.orders
    assert not straight.judge._state.all("learned")  # any more
    assert (order.kind, order.by, order.why) == ("learn", "the monitors", "monitors.learn_blocks is 5")
    rows = straight.found.laws["x0"].rows
    assert order.rows.startswith(f"{rows} rows of live traffic, drawn at random from 5 blocks, ")
    assert order.rows.endswith("; what was wrong from the start is not seen")
    assert f"the reference are {order.rows} (order 1)" in straight.found.notes
    assert 700 < rows < 1_200 and straight.found.laws["x0"].block_rows > 0
    assert "risk is not judged: the reference has no labels" in straight.found.notes


@pytest.mark.parametrize(("nodes", "seed"), [(1, 1), (2, 2), (3, 3)])
def test_any_nodes_interleavings_and_deaths_learn_the_same_to_the_bit(
    nodes: int, seed: int, straight: Site, tmp_path: Path
) -> None:
    site = run(tmp_path, nodes, 3.0, seed)
    assert [order.reference for order in site.judge.orders] == [order.reference for order in straight.judge.orders]
    assert msgspec.json.encode(site.found) == msgspec.json.encode(straight.found)


def test_a_reference_that_people_bring_meanwhile_comes_first(straight: Site, tmp_path: Path) -> None:
    site, rng, mine = Site(tmp_path, 1), Random(0), profile(seed=4)
    records, _ = stream(RECORDS, spacing_s=120, versions=("1",), of=BARE)
    order = Order(1, "rebase", "m", "1", NOW, "me", "here it is", site.registry.store(mine.encode()), "4000 rows")
    learned = msgspec.structs.replace(straight.judge.orders[0], number=2)
    site.registry.profiles |= straight.registry.profiles
    site.write(records[:AT_ONCE], rng)
    site.turn(0)
    assert site.found.state == "learning"
    site.judge.orders += [order, learned]
    for _ in range(3):
        site.turn(0)
    assert site.found.order == 2 and site.found.laws["x0"] == mine.features["x0"]
    assert "the reference are 4000 rows (order 1)" in site.found.notes


def test_a_judge_that_has_not_read_what_was_ordered_orders_nothing(tmp_path: Path) -> None:
    site, rng, mine = Site(tmp_path, 1), Random(0), profile(seed=4)
    records, _ = stream(RECORDS, spacing_s=120, versions=("1",), of=BARE)
    site.write(records, rng)
    site.turn(0)
    assert "learning: 5 of 5 blocks" in site.found.notes and not site.judge.orders
    digest = site.registry.store(mine.encode())
    site.judge.orders.append(Order(1, "rebase", "m", "1", NOW, "me", "here it is", digest, "4000 rows"))
    site.judge.die()
    for _ in range(3):
        site.turn(0)
    assert [order.kind for order in site.judge.orders] == ["rebase"]
    assert site.found.laws["x0"] == mine.features["x0"]


def again(learning: Learning, of: Manifest, settings: Monitors) -> Learning:
    """As it was stored, under these settings."""
    saved, restored = msgspec.msgpack.encode(learning.save()), Learning(of, settings)
    restored.load(msgspec.msgpack.decode(saved, type=SavedLearning), msgspec.msgpack.encode(learning._state.rows))
    return restored


ALONE = msgspec.structs.replace(BARE, features=(Feature("x0", "x", 0),), prediction=None)


def learned(slot: int, rows: int, rng: np.random.Generator, one: float | None = None) -> Counts:
    """Rows of a slot, which may all have one value."""
    values = rng.normal(size=rows) if one is None else np.full(rows, one)
    hashes = rng.integers(0, 2**64, rows, dtype=np.uint64)
    return Counts(rows, learned=WholeRows.of(slot, hashes, [values.tolist()]))


class Full(Registry):
    """Where nothing can be stored for a while."""

    full = True
    asked = 0

    def store(self, data: bytes) -> str:
        self.asked += 1
        if self.full:
            raise Unavailable("artifacts at s3://here: cannot be reached")
        return super().store(data)


def test_what_cannot_be_stored_is_neither_made_nor_sent_at_every_turn(
    straight: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Full(BARE)
    site = Site(tmp_path, 1, registry)
    records, _ = stream(RECORDS, spacing_s=120, shift=3.0, versions=("1",), of=BARE)
    site.write(records, Random(0))
    for _ in range(4):
        site.turn(0)
    assert registry.asked == 1 and not site.judge.orders
    monkeypatch.setattr("monitors.learning.build", None)  # what was made is kept
    registry.full = False
    site.judge.step([site.stations[0].delivery], [site.stations[0].node], NOW + RETRY_S)
    assert [order.reference for order in site.judge.orders] == [straight.judge.orders[0].reference]


@pytest.mark.parametrize(("rows", "burst", "blocks"), [(50, 50, 24), (400, 4_000, 12)])
def test_a_sample_by_which_nothing_could_be_judged_is_no_reference(rows: int, burst: int, blocks: int) -> None:
    """It is too small, or nearly all of it of one slot."""
    settings, rng = Monitors(slot_s=3600, block_s=3600, block_rows=1, learn_blocks=6), np.random.default_rng(1)
    learning, said = Learning(ALONE, settings), set[str]()
    for slot in range(blocks):
        learning.fold(slot, learned(slot, burst, rng, 9.0) if slot == 2 else learned(slot, rows, rng))
        learning = again(learning, ALONE, settings)
        said.add(learning.progress)
    few = "; by those of the first 6 no feature can be judged"
    assert {"learning: 5 of 6 blocks", f"learning: 6 of 12 blocks{few}"} <= said
    learning.advance(blocks)
    assert learning.done and learning.progress == f"learning: {blocks} of {blocks} blocks"
    assert not learning.profile.features["x0"].unfit


def test_what_was_learned_in_blocks_of_another_length_is_left_aside() -> None:
    settings, rng = Monitors(slot_s=3600, block_s=86400, block_rows=1, learn_blocks=9), np.random.default_rng(1)
    learning = Learning(ALONE, settings)
    for slot in range(60):
        learning.fold(slot, learned(slot, 50, rng))
    assert again(learning, ALONE, settings).blocks == 2
    for other in ({"block_s": 7200.0}, {"slot_s": 1800.0}):
        anew = again(learning, ALONE, msgspec.structs.replace(settings, **other))
        assert (anew.blocks, anew.rows) == (0, 0) and anew.news()


def test_the_rows_are_written_if_they_changed_and_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    settings, rng = Monitors(slot_s=3600, block_s=86400, block_rows=1, learn_blocks=9), np.random.default_rng(1)
    learning = Learning(ALONE, settings)
    monkeypatch.setattr("monitors.learning.BYTES", 2_000)
    assert msgspec.msgpack.decode(learning.news()) == []
    learning.fold(1, learned(1, 50, rng))
    assert len(msgspec.msgpack.decode(learning.news())) == learning.rows == 50
    assert not learning.news() and not learning.save().rows
    for slot in range(2, 9):
        learning.fold(slot, learned(slot, 50, rng))
    assert 2_000 <= sum(map(len, msgspec.msgpack.decode(learning.news()))) < 2_030
    top = WholeRows.of(9, np.array([2**64 - 1], np.uint64), [[1.0]])
    learning.fold(9, Counts(1, learned=top))
    assert not learning.news()


@pytest.mark.parametrize("crowd", [1_000, 3_000])
def test_the_sample_is_of_all_slots_alike_and_becomes_what_publish_makes_of_it(crowd: int) -> None:
    """One slot has so many rows that with 3,000 its bound is below that of the sample."""
    settings = Monitors(slot_s=3600, block_s=86400, block_rows=1, learn_blocks=4)
    rng, learning = np.random.default_rng(1), Learning(ALONE, settings)
    values, hashes = rng.normal(size=40_000).astype(np.float32), rng.permutation(40_000).astype(np.uint64)
    slots = np.concatenate([np.full(crowd, 5), rng.integers(0, 96, 40_000 - crowd)])
    for slot in range(96):
        mine = slots == slot
        rows = WholeRows.of(slot, hashes[mine], [values[mine].astype(np.float64).tolist()])
        learning.fold(slot, Counts(int(mine.sum()), learned=rows))
    assert not learning.done
    restored = again(learning, ALONE, settings)
    bound = min(np.sort(hashes[slots == 5])[MOST - 1], ROWS - 1)
    drawn = np.lexsort((hashes, slots))
    drawn = drawn[hashes[drawn] <= bound]
    for one in (learning, restored):
        one.advance(96)
        assert one.done and one.rows == len(drawn)
    assert (len(drawn) == ROWS) == (crowd == 1_000)
    made = build({"x0": values[drawn]}, {"x0": "numeric"}, time=slots[drawn] * 3600.0 + 1800.0, task="classification")
    assert learning.profile == restored.profile == msgspec.structs.replace(made, repeats=None)


def test_who_learns() -> None:
    assert learns(BARE, SETTINGS)
    assert not learns(manifest("1"), SETTINGS)
    assert not learns(msgspec.structs.replace(BARE, features=()), SETTINGS)
    assert not learns(BARE, Monitors())
    assert not learns(BARE, msgspec.structs.replace(SETTINGS, unit="cluster:x0"))
