import msgspec
import numpy as np
import pytest

from loadtests.promise.nulls import NULLS, Stream
from monitors import selftest
from monitors.bottom_k import hashes
from monitors.drift.e_detector import Bettor, Floats
from monitors.panel import Panel
from monitors.reference import PREDICTION, marginal
from monitors.selftest import SelfTestWatch, chosen, half
from monitors.slot import HALF
from serving.manifest import Feature
from tests.monitors.drift.test_e_detector import BLOCKS
from tests.monitors.traffic import profile


def fed(stream: Stream, blocks: int = BLOCKS, fair: float = 0.5) -> SelfTestWatch:
    watch, rng = SelfTestWatch(stream.law, stream.tolerance), np.random.default_rng(1)
    for cells in stream.counts[:blocks]:
        watch.judge(cells, rng.binomial(cells, fair))
    return watch


@pytest.mark.parametrize("name", NULLS)
def test_a_sound_monitor_passes_on_every_family(name: str) -> None:
    found = fed(NULLS[name].stream(np.random.default_rng(7), BLOCKS)).verdict()
    assert (found.halves, found.shift, found.missed) == ("passed", "passed", 0)
    assert found.found >= 5


def test_drift_is_no_fault_of_the_monitor() -> None:
    law = marginal(np.random.default_rng(1).normal(size=20_000), "numeric")
    moved = np.random.default_rng(2).multinomial(200, np.roll(law.theta, 5), BLOCKS)
    found = fed(Stream(law, moved, 0.02)).verdict()
    assert (found.halves, found.shift) == ("passed", "passed")


STREAM = NULLS["normal"].stream(np.random.default_rng(7), BLOCKS)


def test_rows_of_one_half_that_are_lost_by_their_value_fail_the_halves() -> None:
    """A third of those in one cell."""
    stream, rng = NULLS["reference of 10,000"].stream(np.random.default_rng(7), BLOCKS), np.random.default_rng(1)
    watch = SelfTestWatch(stream.law, stream.tolerance)
    for cells in stream.counts:
        bits = rng.binomial(cells, 0.5)
        lost = bits // 3 * (np.arange(len(bits)) == 5)
        watch.judge(cells - lost, bits - lost)
    assert watch.verdict().halves == "failed"


class Generous(Bettor):
    def log_e(self) -> Floats:
        return np.abs(super().log_e())


class Blind(Bettor):
    def log_e(self) -> Floats:
        self.q = self.theta
        return super().log_e()


@pytest.mark.parametrize(("mutant", "halves", "shift"), [(Generous, "failed", "passed"), (Blind, "passed", "failed")])
def test_a_broken_detector_fails(
    mutant: type[Bettor], halves: str, shift: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selftest, "Bettor", mutant)
    found = fed(STREAM).verdict()
    assert (found.halves, found.shift) == (halves, shift)


def test_without_rows_or_a_law_nothing_is_said() -> None:
    watch = SelfTestWatch(None, 0.02)
    watch.judge(None, None)
    watch.judge(np.array([3]), np.array([1]))
    assert (watch.verdict().halves, watch.verdict().shift) == ("no_data", "no_data")
    assert chosen(None) is None and chosen(profile()) == PREDICTION


def test_what_was_saved_goes_on_to_the_same_bits() -> None:
    straight, broken, rng = fed(STREAM, 0), fed(STREAM, 0), np.random.default_rng(3)
    for cells in STREAM.counts[:10]:
        bits = rng.binomial(cells, 0.5)
        for watch in (straight, broken):
            watch.judge(cells, bits)
        saved = msgspec.msgpack.decode(msgspec.msgpack.encode(broken.save()), type=type(broken.save()))
        broken = fed(STREAM, 0)
        broken.load(saved)
    assert msgspec.msgpack.encode(straight.save()) == msgspec.msgpack.encode(broken.save())


def test_bits_are_fair_for_rows_of_a_request_and_requests_of_a_moment() -> None:
    rows = np.arange(20_000)
    for times, numbers in ((np.full(20_000, 1.7e9), rows), (1.7e9 + rows * 1e-6, np.zeros_like(rows))):
        bits = half(hashes(times, numbers))
        assert abs(int(bits.sum()) - 10_000) < 500
        assert abs(int((bits[1:] & bits[:-1]).sum()) - 5_000) < 400


def test_half_of_the_rows_are_counted_again_whoever_counts_them() -> None:
    rng = np.random.default_rng(1)
    x, times = rng.normal(size=(9_000, 2)).astype(np.float32), 1.7e9 + np.arange(9_000) / 100
    laws = {f"x{k}": marginal(x[:, k], "numeric") for k in range(2)}
    panel = Panel(laws, [Feature(f"x{k}", "x", k) for k in range(2)], "x1")
    bits, place = half(hashes(times, np.zeros(9_000, np.int64))), np.arange(9_000) % 2
    for slot, counts in enumerate(panel.count({"x": x}, place, 2, bits)):
        mine = (place == slot) & bits
        assert counts.cells[HALF].tolist() == laws["x1"].count(x[mine, 1]).tolist()
        assert counts.rows == 4_500 and set(counts.cells) == {"x0", "x1", HALF}
    assert set(panel.count({"x": x}, place, 2)[0].cells) == {"x0", "x1"}
