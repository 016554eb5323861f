"""One row of each cluster: whoever counted which rows, and with it the promise holds on clusters of any size."""

import sqlite3

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from loadtests.promise.nulls import Stream, alarms, limit
from monitors.bottom_k import ABSENT, hashes
from monitors.budget import ALL
from monitors.clusters import MOST, Clusters, decode, keys, one_a_cluster
from monitors.labels import LabelStore
from monitors.ledger import Ledger
from monitors.monitor import Monitor
from monitors.reference import Chosen, Part, marginal, of_parts
from monitors.slot import Counts
from serving.config import Monitors
from tests.monitors.test_ledger import ingest
from tests.monitors.traffic import FEATURES, START, profile, record

CLUSTERED = Monitors(event_time="request", slot_s=3600, block_s=3600, block_rows=1, unit="cluster:x0")
A = 20.0

rows = st.lists(st.tuples(st.integers(0, 900), st.integers(0, 2**64 - 1), st.integers(0, 255)), min_size=1, max_size=60)


def clusters(found: list[tuple[int, int, int]]) -> Clusters:
    table = np.array(found, np.uint64).reshape(-1, 3)
    return Clusters.of(table[:, 0], table[:, 1], table[:, 2:].astype(np.uint8))


@settings(deadline=None)
@given(parts=st.lists(rows, min_size=1, max_size=5), seed=st.integers(0, 99))
def test_however_rows_are_cut_the_smallest_row_of_each_cluster_stays(
    parts: list[list[tuple[int, int, int]]], seed: int
) -> None:
    merged = clusters(parts[seed % len(parts)])
    for number in np.random.default_rng(seed).permutation(len(parts)):
        merged = merged.merged(clusters(parts[number]))
    smallest: dict[int, tuple[int, int]] = {}
    for cluster, row, cell in (one for part in parts for one in part):
        smallest[cluster] = min(smallest.get(cluster, (row, cell)), (row, cell))
    assert merged.cells[:, 0].tolist() == [smallest[cluster][1] for cluster in sorted(smallest)]
    assert decode(merged.encode(), len(merged)) == merged


def test_of_many_clusters_some_stay_each_as_likely_as_another() -> None:
    number = np.arange(20 * MOST)
    cluster, row = keys(number.astype(np.float64)), hashes(number.astype(np.float64), number)
    kept = Clusters.of(cluster, row, (number % 4).astype(np.uint8)[:, None])
    assert len(kept) == MOST and (cluster <= np.uint64(kept.bound)).sum() == MOST
    assert stats.chisquare(np.bincount(kept.cells[:, 0])).pvalue > 0.001


def test_of_a_cluster_each_row_is_as_likely_as_another() -> None:
    cluster = np.repeat(np.arange(400), 5)
    row = hashes(np.full(2_000, START), np.arange(2_000))
    kept = Clusters.of(keys(cluster), row, np.tile(np.arange(5), 400).astype(np.uint8)[:, None])
    assert len(kept) == 400 and stats.chisquare(np.bincount(kept.cells[:, 0])).pvalue > 0.001


def test_names_of_clusters_are_numbers_or_text() -> None:
    assert len({*keys(np.array([0.0, -0.0, 1.5, np.nan, -np.nan])).tolist()}) == 3
    text = keys(np.array(["a", b"a", "b", ""], object)).tolist()
    assert text[0] == text[1] and len(set(text)) == 3


def test_nodes_that_see_the_same_cluster_keep_one_row_of_it() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(600, FEATURES)).astype(np.float32)
    x[:, 0] = rng.integers(0, 40, 600)
    records = [record([f"r{k}"], x[k : k + 1], [START + k]) for k in range(600)]
    whole, *parts = [Ledger(CLUSTERED, LabelStore(sqlite3.connect(":memory:"), 10**6)) for _ in range(4)]
    ingest(whole, records)
    for number, part in enumerate(parts):
        ingest(part, records[number::3])
    (once,) = whole.seal(START + 10**5).slots
    merged = Counts()
    for part in parts:
        (slot,) = part.seal(START + 10**5).slots
        merged.add(slot.counts)
    assert merged == once.counts
    found = once.counts.one_a_cluster(profile().features)
    assert found.rows == 600
    assert {name: int(cells.sum()) for name, cells in found.cells.items()} == dict.fromkeys(profile().features, 40)


def test_a_monitor_judges_clusters() -> None:
    monitor = Monitor(profile(), CLUSTERED, 3)
    cells = np.full((7, len(profile().features)), ABSENT, np.uint8)
    cells[:, 1:] = 3
    for slot in range(3):
        found = Clusters.of(np.arange(7, dtype=np.uint64), np.arange(7, dtype=np.uint64), cells)
        monitor.fold(slot, Counts(500, {"x0": np.array([500])}, clusters=found))
    drift = monitor.drift()
    absent, *known = sorted(profile().features)
    assert (drift[absent].n, {drift[name].n for name in known}, drift[ALL].blocks) == (0, {14}, 2)
    assert "counting one row of each x0 and block" in monitor.promise()


@pytest.fixture(scope="module")
def users() -> list[tuple[Stream, Stream]]:
    """Streams of 80 blocks of 2,000 rows, 50 equal ones a user: by row, and by user. Nobody measured that."""
    rng, found = np.random.default_rng(6), []
    for _ in range(40):
        law = marginal(rng.normal(size=20_000), "numeric")
        users = law.cells(rng.normal(size=(80, 40))).astype(np.uint8)
        cells = np.repeat(users, 50, axis=1)
        by_user = []
        for block in cells:
            row = hashes(rng.random(2_000), np.arange(2_000))
            sample = Clusters.of(keys(np.arange(2_000) // 50), row, block[:, None])
            by_user.append(sample.counts({"x": law})["x"])
        by_row = [np.bincount(block, minlength=law.size) for block in cells]
        found.append((Stream(law, np.array(by_row), 0.02), Stream(law, np.array(by_user), 0.02)))
    return found


def test_clusters_as_units_keep_the_promise_where_rows_do_not(users: list[tuple[Stream, Stream]]) -> None:
    most = limit(40 * 80, A)
    assert alarms([user for _, user in users], A) <= most < alarms([row for row, _ in users], A)


@settings(deadline=None)
@given(parts=st.lists(rows, min_size=1, max_size=5), cuts=st.lists(st.integers(0, 300), max_size=4))
def test_of_a_reference_the_rows_are_those_that_live_counts(
    parts: list[list[tuple[int, int, int]]], cuts: list[int]
) -> None:
    """By block; however its rows are cut into parts."""
    table = np.array([one for part in parts for one in part], np.uint64)
    user, block = table[:, 0] % np.uint64(7), (table[:, 2] % np.uint64(3)).astype(np.int64)
    time, number = block + 0.5, np.arange(len(table))
    pieces = np.split(number, sorted(cut for cut in cuts if cut < len(table)))
    found = one_a_cluster((user[piece], time[piece], block[piece]) for piece in pieces)
    drawn = hashes(time, number)
    smallest = {key: min(np.flatnonzero((user == key[0]) & (block == key[1])).tolist(), key=drawn.__getitem__)
                for key in zip(user.tolist(), block.tolist(), strict=True)}  # fmt: skip
    assert found.tolist() == sorted(smallest.values())


def test_a_reference_has_the_clusters_that_live_keeps() -> None:
    user = keys(np.arange(3 * MOST))
    found = one_a_cluster([(user, np.zeros(len(user)), np.zeros(len(user), np.int64))])
    live = Clusters.of(user, hashes(np.zeros(len(user)), np.arange(len(user))), np.zeros((len(user), 1), np.uint8))
    assert len(found) == MOST and set(np.flatnonzero(user <= np.uint64(live.bound)).tolist()) == set(found.tolist())


@pytest.fixture(scope="module")
def sized() -> list[tuple[Stream, Stream]]:
    """Users with a value above the median have ten rows, others one. Live ones are counted once: the law is of all
    reference rows, and of one row of each user and block.
    """
    rng, found = np.random.default_rng(7), []
    for _ in range(20):
        value = rng.normal(size=6_000)
        user = np.repeat(np.arange(6_000), np.where(value > 0, 10, 1))
        part = Part({"x": value[user], "user": user.astype(float)}, time=user // 100 + 0.5)
        chosen = one_a_cluster([(keys(user), part.clock, part.blocks(1.0))])
        once = Chosen("user", chosen, part.of(chosen), chosen)
        laws = [
            of_parts(part, np.arange(part.rows), [part], {"x": "numeric"}, block_s=1.0, chosen=how).features["x"]
            for how in (None, once)
        ]
        live = rng.normal(size=(80, 40))
        streams = [Stream(law, np.stack([law.count(block) for block in live]), 0.02) for law in laws]
        found.append((streams[0], streams[1]))
    return found


def test_a_reference_counted_as_live_rows_are_keeps_the_promise(sized: list[tuple[Stream, Stream]]) -> None:
    most = limit(20 * 80, A)
    assert alarms([once for _, once in sized], A) <= most < alarms([every for every, _ in sized], A)
    assert all(once.law.rows == 6_000 for _, once in sized)
