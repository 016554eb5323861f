"""The promise of the checks on the null families of drift, that it can be broken, and how soon each sees its fault."""

from collections import Counter
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from loadtests.promise.nulls import NULLS, Null, Stream
from monitors import quality
from monitors.bottom_k import hashes
from monitors.drift.e_detector import Floats
from monitors.quality import Ints, QualityWatch, Rise
from monitors.reference import Kind, marginal
from monitors.repeats import Repeats, sketch
from monitors.slot import ROWS, Counts
from serving.protocol import Array
from tests.monitors.drift.test_e_detector import BLOCKS, A, most

STREAMS = 30  # a law
THRESHOLD = float(np.log(A))
HIGH = float(np.log(1_000))


def _missing(share: float) -> Callable[[np.random.Generator, int], Array]:
    return lambda rng, n: np.where(rng.random(n) < share, np.nan, rng.normal(size=n))


# Beside the families of drift those on the edge of what a check allows, in clusters, and with few reference rows.
FAMILIES = NULLS | {
    "missing on the boundary": Null(_missing(0.1), _missing(0.2), tolerance=0.1, block_rows=1_000),
    "missing in clusters": Null(_missing(0.1), _missing(0.1), cluster_rows=50),
    "missing, small reference": Null(
        _missing(0.1), _missing(0.1), reference_rows=100, block_rows=2_000, tolerance=0.005
    ),
}


def alarms(streams: list[Stream]) -> Counter[str]:
    """Of all streams, by check, side by side as features of one version; a check restarts after each alarm."""
    laws = {f"x{i}": stream.law for i, stream in enumerate(streams)}
    watch, found = QualityWatch(laws, 10_000, streams[0].tolerance), Counter[str]()
    for block in range(BLOCKS):
        cells = {f"x{i}": stream.counts[block] for i, stream in enumerate(streams)}
        watch.judge(Counts(200, cells), float(block), THRESHOLD, quiet_blocks=1)
        state = watch.save()
        found.update(c.name for c, e in zip(watch.checks, state.log_e, strict=True) if e >= THRESHOLD)
        found["all"] += state.evidence >= THRESHOLD
    return found


def streams(name: str) -> list[Stream]:
    rng = np.random.default_rng(20132)
    return [FAMILIES[name].stream(rng, BLOCKS) for _ in range(STREAMS)]


@pytest.mark.parametrize("name", FAMILIES)
def test_false_alarms_stay_below_the_promise(name: str) -> None:
    found = alarms(streams(name))
    assert found.pop("all") <= most(1)
    assert all(times <= most(STREAMS) for times in found.values()), found


def test_bets_that_are_not_divided_break_the_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    class Intolerant(Rise):
        def log_e(self) -> Floats:
            self.tolerance = np.zeros_like(self.tolerance)
            return super().log_e()

    monkeypatch.setattr(quality, "Rise", Intolerant)
    assert alarms(streams("missing on the boundary"))["missing"] > most(STREAMS)


def test_untempered_bets_break_the_promise_on_clusters() -> None:
    loose = [_with(stream, dispersions=(1.0,) * stream.law.size) for stream in streams("missing in clusters")]
    assert alarms(loose)["missing"] > most(STREAMS)


class Trusting(QualityWatch):
    """A mutant: takes a thin sample's word that there are no clusters."""

    def _tempering(self, some: NDArray[np.intp], rows: Ints) -> Floats:
        return np.asarray(np.minimum(rows, self._design_effect[some]), np.float64)


def dense_alarms(kind: type[QualityWatch]) -> int:
    """Of 10 streams of blocks of 20,000 rows, worth 35 (D = 572), a half of which is missing.

    Of each of 1,000 blocks the reference has 8 rows, worth 7; by chance they show no clusters at all.
    """
    rng, found = np.random.default_rng(3), 0
    sample = marginal(np.tile([0.0, np.nan], 4_000), "numeric", block=np.repeat(np.arange(1_000), 8))
    for _ in range(10):
        subject = kind({"x": sample}, 8_000, 0.02)
        for rows in rng.binomial(20_000, rng.beta(17, 17, BLOCKS)).tolist():
            cells = np.zeros(sample.size, np.int64)
            cells[-1], cells[1] = rows, 20_000 - rows
            subject.judge(Counts(20_000, {"x": cells}), 0.0, THRESHOLD, quiet_blocks=1)
            found += subject.save().log_e[0] >= THRESHOLD
    return found


def test_a_thin_sample_without_a_sign_of_clusters_keeps_the_promise_on_dense_blocks() -> None:
    assert dense_alarms(QualityWatch) <= most(10)
    assert dense_alarms(Trusting) > most(10)


def test_a_reference_taken_for_the_truth_breaks_the_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "upper_bound_of_share", lambda k, n, alpha: k / n)
    assert alarms(streams("missing, small reference"))["missing"] > most(STREAMS)


def _with(stream: Stream, **changed: object) -> Stream:
    return Stream(msgspec.structs.replace(stream.law, **changed), stream.counts, stream.tolerance)


RNG_ROWS = 20_000


def watch(kind: Kind = "numeric", values: Array | None = None, **settings: object) -> QualityWatch:
    rng = np.random.default_rng(1)
    values = rng.normal(size=RNG_ROWS) if values is None else values
    return QualityWatch({"x": marginal(values, kind)}, RNG_ROWS, 0.02, **settings)  # type: ignore[arg-type]


def first_alarm(subject: QualityWatch, live: Callable[[np.random.Generator], Array], check: str) -> int | None:
    """In blocks of 200 rows, of 40; the others must stay silent until then."""
    rng = np.random.default_rng(2)
    law = subject.laws["x"]
    for block in range(1, 41):
        subject.judge(Counts(200, {"x": law.count(live(rng))}), 3600.0 * block, HIGH, quiet_blocks=10)
        found = subject.verdict(HIGH).checks["x"]
        if found[check].alarm:
            assert [name for name, one in found.items() if one.alarm] == [check]
            return block
    return None


@pytest.mark.parametrize(
    ("check", "share", "blocks"),
    [("missing", 0.1, 4), ("missing", 0.05, 15), ("below", 0.1, 4), ("above", 0.1, 4), ("constant", 1.0, 4)],
)
def test_a_fault_of_a_number_is_found_and_named(check: str, share: float, blocks: int) -> None:
    value = {"missing": np.nan, "below": -99.0, "above": 99.0, "constant": 0.5}[check]

    def live(rng: np.random.Generator) -> Array:
        return np.where(rng.random(200) < share, value, rng.normal(size=200).clip(-3, 3))

    found = first_alarm(watch(), live, check)
    assert found is not None and found <= blocks


def test_an_unseen_category_is_found_and_named() -> None:
    known = np.array(["a", "b", "c"] * 5_000, object)
    subject = watch("categorical", known)
    found = first_alarm(subject, lambda rng: np.where(rng.random(200) < 0.1, "z", "abc"[0]).astype(object), "unseen")
    assert found is not None


def test_a_shift_is_no_stuck_value_and_values_out_of_range_are_not_either() -> None:
    shifted, above = watch(), watch()
    assert first_alarm(shifted, lambda rng: rng.normal(1.0, size=200).clip(-3, 3), "constant") is None
    assert first_alarm(above, lambda rng: rng.normal(99.0, size=200), "above") is not None
    assert not above.verdict(HIGH).checks["x"]["constant"].alarm


def test_fewer_faults_than_in_the_reference_are_none() -> None:
    rng = np.random.default_rng(3)
    subject = watch(values=_missing(0.5)(rng, RNG_ROWS))
    assert first_alarm(subject, lambda rng: rng.normal(size=200).clip(-3, 3), "missing") is None
    found = subject.verdict(HIGH).checks["x"]["missing"]
    assert found.ratio == 0.0 and abs(found.log_e) < 0.5
    assert 0.49 < found.reference < found.bound < 0.52


def test_one_alarm_of_the_version_speaks_for_all_its_checks() -> None:
    rng = np.random.default_rng(4)
    laws = {f"x{i}": marginal(rng.normal(size=5_000), "numeric") for i in range(50)}
    subject = QualityWatch(laws, 5_000, 0.02)
    for block in range(12):
        cells = {name: law.count(np.where(rng.random(200) < 0.2 * (name == "x7"), np.nan, rng.normal(size=200)))
                 for name, law in laws.items()}  # fmt: skip
        subject.judge(Counts(200, cells), float(block), HIGH, quiet_blocks=10)
    found = subject.verdict(HIGH)
    assert (found.alarm, found.severity, found.blocks) == (True, "ticket", 12)
    assert [(f, c) for f, checks in found.checks.items() for c, v in checks.items() if v.alarm] == [("x7", "missing")]


def test_an_alarm_begins_again_and_clears_after_quiet_blocks() -> None:
    subject, law = watch(), marginal(np.random.default_rng(1).normal(size=RNG_ROWS), "numeric")
    bad, good = np.eye(law.size, dtype=np.int64)[-1] * 200, np.array([0, *[20] * 10, 0, 0])
    states = []
    for block in range(30):
        subject.judge(Counts(200, {"x": bad if block < 10 else good}), float(block), HIGH, quiet_blocks=5)
        states.append((subject.verdict(HIGH).checks["x"]["missing"].alarm, subject.verdict(HIGH).alarm))
    assert states[9] == (True, True) and states[-1] == (False, False)


def test_rows_that_cannot_be_read_are_counted_by_block_whatever_their_number() -> None:
    """What one block shows, whatever its rows, is no alarm; three are."""
    subject, alarm = watch(), []
    for block in range(20):
        subject.judge(Counts(10_000, {ROWS: np.array([10_000])}), float(block), HIGH, quiet_blocks=10)
        alarm.append(subject.verdict(HIGH).checks[ROWS]["unreadable"].alarm)
    assert alarm.index(True) in range(1, 4)
    assert subject.verdict(HIGH).checks[ROWS]["unreadable"].ratio == 1.0


def sketched(contents: Array, seed: int) -> Counts:
    """A block of rows with these contents."""
    rng = np.random.default_rng(seed)
    found = hashes(contents.astype(np.float64), np.zeros(len(contents), np.int64))
    return Counts(len(contents), contents=sketch(found, rng.integers(0, 2**63, len(contents)).astype(np.uint64)))


@pytest.mark.parametrize(("copies", "blocks"), [(0.0, None), (0.01, None), (0.2, 8), (0.5, 4)])
def test_rows_that_are_sent_twice_are_found(copies: float, blocks: int | None) -> None:
    subject = QualityWatch({}, 10_000, 0.02, repeats=Repeats(0.0, 0.005, 2_000.0))
    rng, found = np.random.default_rng(5), None
    for block in range(1, 31):
        contents = np.where(rng.random(2_000) < copies, np.arange(2_000) // 2 * 2, np.arange(2_000)) + 10_000 * block
        subject.judge(sketched(contents, block), 3600.0 * block, HIGH, quiet_blocks=10)
        if found is None and subject.verdict(HIGH).checks[ROWS]["repeated"].alarm:
            found = block
    assert (found is None) if blocks is None else (found is not None and found <= blocks)


def test_more_rows_repeat_by_chance_in_a_denser_block() -> None:
    """One of 250,000 contents, as in the reference; ten times its rows."""
    rng = np.random.default_rng(6)
    subject = QualityWatch({}, 100_000, 0.02, repeats=Repeats(0.01, 0.015, 5_000.0))
    for block in range(8):
        subject.judge(sketched(rng.integers(0, 250_000, 50_000), block), float(block), HIGH, quiet_blocks=10)
    found = subject.verdict(HIGH).checks[ROWS]["repeated"]
    assert not found.alarm and 0.04 < found.ratio < 0.2


blocks_of_rows = st.lists(st.lists(st.integers(0, 100), min_size=13, max_size=13), min_size=1, max_size=12)


@settings(deadline=None, max_examples=40)
@given(blocks=blocks_of_rows, restart=st.integers(0, 12), by_block=st.booleans())
def test_what_was_saved_goes_on_to_the_same_bits(blocks: list[list[int]], restart: int, by_block: bool) -> None:
    straight, broken = watch(by_block=by_block), watch(by_block=by_block)
    for number, cells in enumerate(blocks):
        if number == restart:
            saved = msgspec.msgpack.decode(msgspec.msgpack.encode(broken.save()), type=type(broken.save()))
            broken = watch(by_block=by_block)
            broken.load(saved)
        for subject in (straight, broken):
            subject.judge(Counts(sum(cells), {"x": np.array(cells)}), float(number), HIGH, quiet_blocks=3)
    assert msgspec.msgpack.encode(straight.save()) == msgspec.msgpack.encode(broken.save())
    assert straight.verdict(HIGH) == broken.verdict(HIGH)


def test_state_of_other_checks_is_left_aside() -> None:
    other = QualityWatch({}, 10, 0.02)
    before = other.save()
    other.load(watch().save())
    assert other.save() == before
