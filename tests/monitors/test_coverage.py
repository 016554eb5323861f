import msgspec
import numpy as np
import pytest

from monitors.coverage import FIRST_BLOCKS, CoverageWatch
from monitors.slot import LabelCounts
from tests.monitors.drift.test_e_detector import A, most

HIGH = float(np.log(2_000))
ROWS = 200


def fed(shares: list[float], threshold: float = HIGH) -> list[CoverageWatch]:
    """The watch after each block; `shares` of the rows are labelled."""
    watch, after = CoverageWatch(0.02), []
    for block, share in enumerate(shares):
        watch.judge(LabelCounts(ROWS, round(ROWS * share)), float(block), threshold, quiet_blocks=10)
        copy = CoverageWatch(0.02)
        copy.load(msgspec.msgpack.decode(msgspec.msgpack.encode(watch.save()), type=type(watch.save())))
        after.append(copy)
    return after


@pytest.mark.parametrize(("coverage", "blocks"), [(0.0, 4), (0.5, 6), (0.8, 14)])
def test_labels_that_stop_or_thin_out_raise_an_alarm(coverage: float, blocks: int) -> None:
    after = fed([0.97] * 20 + [coverage] * 20)
    states = [watch.verdict(HIGH).state for watch in after]
    assert states[:FIRST_BLOCKS] == ["no_data"] * FIRST_BLOCKS and set(states[FIRST_BLOCKS:20]) == {"ok"}
    assert states.index("alarm") - 19 <= blocks
    verdict = after[-1].verdict(HIGH)
    assert verdict.severity == "ticket" and verdict.newest == coverage and verdict.usual == pytest.approx(0.97)


def test_a_version_that_nobody_labels_has_no_alarm() -> None:
    verdict = fed([0.0] * 40)[-1].verdict(HIGH)
    assert (verdict.state, verdict.usual, verdict.newest) == ("no_data", None, None)
    assert verdict.note == "10 more blocks with labels say what is usual"


def test_the_first_blocks_are_judged_against_and_never_judged() -> None:
    verdict = fed([0.9] + [0.0] * (FIRST_BLOCKS - 2))[-1].verdict(HIGH)
    assert (verdict.state, verdict.alarm, verdict.blocks) == ("no_data", False, 0)


def test_labels_that_came_at_random_cannot_be_seen_to_stop() -> None:
    verdict = fed([1.0] + [0.0] * 19)[-1].verdict(HIGH)
    assert verdict.state == "unfit" and verdict.note.endswith("varied too much to see a change")


def test_more_labels_than_ever_are_no_fault() -> None:
    assert fed([0.6, 0.7] * 6 + [1.0] * 30)[-1].verdict(HIGH).state == "ok"


def test_false_alarms_stay_below_the_promise() -> None:
    """Days on which all rows share one chance of a label, at A = 20."""
    rng, found = np.random.default_rng(1), 0
    for _ in range(20):
        watch, since = CoverageWatch(0.02), None
        for block, share in enumerate(rng.beta(40, 4, 80 + FIRST_BLOCKS)):
            watch.judge(LabelCounts(ROWS, int(rng.binomial(ROWS, share))), float(block), float(np.log(A)), 1)
            alarm = watch.verdict(float(np.log(A))).since
            found, since = found + (alarm is not None and alarm != since), alarm
    assert found <= most(20)


def test_a_smaller_tolerance_begins_where_a_larger_one_could_judge_nothing() -> None:
    blind, watch = CoverageWatch(1.0), CoverageWatch(0.02)
    for block in range(FIRST_BLOCKS):
        blind.judge(LabelCounts(ROWS, 194), float(block), HIGH, quiet_blocks=10)
    assert blind.verdict(HIGH).state == "unfit" and blind.save().s == []
    watch.load(blind.save())
    watch.judge(LabelCounts(ROWS, 194), float(FIRST_BLOCKS), HIGH, quiet_blocks=10)
    assert watch.verdict(HIGH).state == "ok"
