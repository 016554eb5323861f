import msgspec
import numpy as np
import pytest

from monitors.bottom_k import BottomK, hashes
from monitors.drift.joint import JOINT, JointWatch
from monitors.drift.tempering import thinned
from monitors.monitor import Monitor
from monitors.reference import Profile, build
from monitors.slot import Counts, count
from serving.config import Monitors
from serving.protocol import Array

HOURLY = Monitors(slot_s=3600, block_s=3600, block_rows=100)


def rows(rng: np.random.Generator, n: int, correlation: float) -> dict[str, Array]:
    a, b, c = rng.normal(size=(3, n))
    return {
        "a": a,
        "b": correlation * a + np.sqrt(1 - correlation**2) * b,
        "c": np.where(c > 0, "x", "y").astype(object),
    }


PROFILE = build(rows(np.random.default_rng(1), 10_000, 0.8), {})


def slot(profile: Profile, values: dict[str, Array], number: int) -> Counts:
    """As a node counts the rows of an hour."""
    counts = count(profile, values)
    cells = np.stack([profile.features[name].cells(column) for name, column in values.items()], 1)
    at = 3600.0 * number + np.arange(len(cells))
    counts.sample = BottomK.of(hashes(at, np.zeros(len(cells), np.int64)), cells.astype(np.uint8))
    return counts


def fed(monitor: Monitor, correlations: list[float], first: int = 0) -> Monitor:
    for number, correlation in enumerate(correlations, first):
        values = rows(np.random.default_rng(100 + number), 400, correlation)
        monitor.fold(number, slot(monitor.profile or PROFILE, values, number))
    return monitor


def test_features_that_go_together_differently_raise_an_alarm_that_explains() -> None:
    monitor = fed(Monitor(PROFILE, HOURLY, 2), [0.8] * 10)
    calm = monitor.drift()[JOINT]
    assert (calm.alarm, calm.note, calm.n, calm.blocks) == (False, "", 0, 9)
    verdicts = fed(monitor, [-0.8] * 6, first=10).drift()
    assert [name for name, verdict in verdicts.items() if verdict.alarm] == [JOINT]
    assert verdicts[JOINT].severity == "info" and verdicts[JOINT].since is not None
    assert "combinations of cells" in verdicts[JOINT].promise
    assert monitor.state == "ok"


def test_a_restart_goes_on_to_the_same_bits() -> None:
    one = fed(Monitor(PROFILE, HOURLY, 2), [0.8, 0.8, 0.2, 0.2])
    two = Monitor(PROFILE, HOURLY, 2)
    two.restore(one.encode())
    assert two.drift()[JOINT] == one.drift()[JOINT]
    assert fed(one, [0.2] * 4, first=4).encode() == fed(two, [0.2] * 4, first=4).encode()
    assert one.drift()[JOINT].log_e > 0


def test_state_of_other_features_is_left_aside() -> None:
    watch, narrow = JointWatch(PROFILE, HOURLY), build({"a": np.arange(5e3), "b": np.arange(5e3)}, {})
    before = watch.save()
    watch.load(JointWatch(narrow, HOURLY).save())
    assert msgspec.msgpack.encode(watch.save()) == msgspec.msgpack.encode(before)


@pytest.mark.parametrize(
    ("profile", "note"),
    [
        (msgspec.structs.replace(PROFILE, sample=None), "the profile has no sample of rows"),
        (build(rows(np.random.default_rng(1), 800, 0.8), {}), "reference too small: a sample of 800 rows"),
    ],
)
def test_why_it_is_not_judged(profile: Profile, note: str) -> None:
    monitor = fed(Monitor(profile, HOURLY, 2), [0.8] * 3)
    verdict = monitor.drift()[JOINT]
    assert verdict.note.startswith(note) and (verdict.blocks, verdict.promise) == (0, "")


def test_rows_that_teach_and_rows_that_are_kept_are_of_different_blocks() -> None:
    """Else a cluster would be on both sides, and what was learned of it be taken for the reference."""
    day = np.arange(9_000) // 1_000
    profile = build({"day": day, "x": np.arange(9_000.0)}, {"day": "categorical"}, time=day * 86400.0 + 3600)
    assert profile.sample is not None
    cells = np.frombuffer(profile.sample.cells, np.uint8).reshape(-1, 2)[:, 0]
    taught, kept = set(cells[::2].tolist()), set(cells[1::2].tolist())
    assert (len(taught), len(kept)) == (5, 4) and not taught & kept


def test_rows_of_named_clusters_are_not_judged() -> None:
    by_user = Monitors(slot_s=3600, block_s=3600, block_rows=100, unit="cluster:user")
    assert JointWatch(PROFILE, by_user).verdict(7.0).note.startswith("with monitors.unit = 'cluster:user'")


def test_of_a_single_feature_there_is_none() -> None:
    single = build({"a": np.arange(5e3)}, {})
    assert single.sample is None
    assert JOINT not in Monitor(single, HOURLY, 2).drift()


def test_a_thinned_sample_is_tempered_less_but_not_for_being_small() -> None:
    assert thinned(1.0, 5, 500) == 1.0
    assert thinned(20.0, 128, 12_701) == pytest.approx(1.19)
    assert thinned(20.0, 100, 10) == 20.0
