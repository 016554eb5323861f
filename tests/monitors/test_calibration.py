"""The promise of the calibration detector on the null families of drift, that it can be broken, and what it says."""

from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from scipy import special, stats

from loadtests import calibration
from loadtests.promise.nulls import NULLS, alarms_of
from monitors.calibration import CalibrationWatch, estimate, log_e
from monitors.drift.e_detector import Floats
from monitors.loss import Calibration, Risk
from monitors.reference import PREDICTION, Profile, build
from monitors.slot import LOSS_UNIT, LabelCounts
from serving.config import Monitors
from serving.protocol import Array
from tests.monitors.drift.test_e_detector import A, most

STREAMS, BLOCKS, ROWS, M = 30, 80, 200, 0.02
HIGH = float(np.log(180))

Bet = Callable[[Floats, Floats, Floats], Floats]


def alarms(name: str, *, shift: float, bet: Bet = log_e) -> int:
    """Of streams whose probabilities come from a family of drift, and whose labels are 1 more often by `shift`.

    Rows of a cluster share the number that decides on their label.
    """
    rng, null = np.random.default_rng(20133), NULLS[name]
    n = STREAMS * BLOCKS * ROWS
    values = null.live(rng, n) if null.kind == "numeric" else rng.normal(size=n)
    p = special.expit(np.nan_to_num(np.asarray(values, np.float64))).clip(0.03, 0.97)
    luck = np.repeat(rng.random(n // null.cluster_rows), null.cluster_rows)
    y, c = ((column.reshape(STREAMS, BLOCKS, ROWS)).mean(2) for column in (luck < p + shift, p))
    return alarms_of((bet(y[:, block], c[:, block], np.full(STREAMS, M)) for block in range(BLOCKS)), A)


@pytest.mark.parametrize("shift", [-M, 0.0, M])
@pytest.mark.parametrize("name", NULLS)
def test_false_alarms_stay_below_the_promise(name: str, shift: float) -> None:
    assert alarms(name, shift=shift) <= STREAMS / 90 * most(90)


def test_bets_on_rows_break_the_promise_on_clusters() -> None:
    def by_rows(y: Floats, c: Floats, m: Floats) -> Floats:
        one, zero = log_e(np.ones_like(y), c, m), log_e(np.zeros_like(y), c, m)
        return ROWS * (y[:, None, None] * one + (1 - y)[:, None, None] * zero)

    assert alarms("clusters", shift=0.0, bet=by_rows) > STREAMS / 90 * most(90)


def test_bets_without_tolerance_break_the_promise_on_the_boundary() -> None:
    intolerant = lambda y, c, m: 20 * log_e(y, c, 0 * m)  # noqa: E731
    assert alarms("normal", shift=M, bet=intolerant) > STREAMS / 90 * most(90)


@pytest.mark.parametrize("truth", [calibration.unchanged, calibration.too_sure])
@pytest.mark.parametrize("weather", calibration.WEATHERS)
def test_false_alarms_with_tables_of_references_that_nothing_was_chosen_on(
    truth: calibration.Truth, weather: float
) -> None:
    """`python -m loadtests.calibration` makes more of them."""
    assert calibration.false_alarms(truth, weather, streams=10) <= stats.poisson.ppf(0.999, 10 * 80 / 20)


def test_labels_that_are_half_as_often_one_again_are_found_within_a_month() -> None:
    change = calibration.CHANGES["half as often again"]
    assert calibration.delay(change, 0.05, streams=11) <= 40


def profile(rows: int = 20_000) -> Profile:
    rng = np.random.default_rng(1)
    p = rng.beta(1, 3, rows).astype(np.float32)
    return build({}, {}, prediction=p, labels=(rng.random(rows) < p) * 1.0, task="classification")


PROFILE = profile()
assert PROFILE.risk is not None
RISK = PROFILE.risk
LOWS = [bin.low for bin in RISK.calibration]


def sealed(p: Array, y: Array) -> LabelCounts:
    counts = LabelCounts(len(p), len(p), int(np.rint(((p - y) ** 2).sum() / LOSS_UNIT)))
    for prediction, label in zip(p.tolist(), y.tolist(), strict=True):
        counts.follow(LOWS, prediction, None, label)
    return counts


def fed(blocks: int, truth: Callable[[Array], Array]) -> CalibrationWatch:
    rng, watch = np.random.default_rng(2), CalibrationWatch(RISK, Monitors())
    for block in range(blocks):
        p = rng.beta(1, 3, 300)
        watch.judge(sealed(p, (rng.random(300) < truth(p)) * 1.0), 3600.0 * (block + 1), HIGH, quiet_blocks=10)
    return watch


def test_probabilities_that_hold_raise_no_alarm_and_the_estimate_is_believable() -> None:
    verdict = fed(40, lambda p: p).verdict(HIGH)
    assert (verdict.state, verdict.severity, verdict.n) == ("ok", "info", 3_000)
    assert verdict.expected == pytest.approx(verdict.realised, abs=0.03)
    cells = PROFILE.features[PREDICTION].count(np.random.default_rng(3).beta(1, 3, 3_000))
    found = estimate(RISK, PROFILE.features[PREDICTION], cells.tolist(), verdict, 0.02)
    assert found.believable and found.mean == pytest.approx(RISK.mean, abs=0.01)


def test_a_changed_world_is_found_and_the_estimate_says_that_it_is_not_believable() -> None:
    """Labels are 1 half as often again; the predictions are as ever, so that the estimate does not see it."""
    verdict = fed(40, lambda p: (1.5 * p).clip(0, 1)).verdict(HIGH)
    assert verdict.alarm and verdict.realised is not None and verdict.expected is not None
    assert verdict.realised > verdict.expected + 0.08
    found = estimate(RISK, PROFILE.features[PREDICTION], PROFILE.features[PREDICTION].counts, verdict, 0.02)
    assert found.mean == pytest.approx(RISK.mean, abs=0.01)
    assert not found.believable and found.doubts[0].startswith("labels contradict the calibrated probabilities: 0.2")


def test_faults_of_the_bins_that_cancel_out_are_found() -> None:
    assert fed(80, lambda p: np.where(p < 0.2, p + 0.12, p - 0.12).clip(0, 1)).verdict(HIGH).alarm


def test_the_offset_of_the_reference_is_no_fault() -> None:
    """A model that says too much, by as much as in its reference, has believable calibrated probabilities."""
    table = (Calibration(0.0, 9_000, 0.5, 0.3, 0.01),)
    risk = Risk(task="classification", mean=0.2, bound=0.21, n=9_000, blocks=0, calibration=table, label_error=0.01)
    watch, rng = CalibrationWatch(risk, Monitors()), np.random.default_rng(4)
    for block in range(60):
        y = int(rng.binomial(200, 0.3))
        watch.judge(LabelCounts(200, 200, 0, [200], [y], [100 << 32]), float(block), HIGH, quiet_blocks=10)
    verdict = watch.verdict(HIGH)
    assert not verdict.alarm and verdict.expected == pytest.approx(0.3)


def test_when_the_estimate_is_not_believed() -> None:
    law, counts = PROFILE.features[PREDICTION], PROFILE.features[PREDICTION].counts
    unchecked = CalibrationWatch(RISK, Monitors()).verdict(HIGH)
    assert estimate(RISK, law, counts, unchecked, 0.02).doubts == (
        "no block of labels has confirmed the calibrated probabilities yet",
    )
    outside = [*counts[:-2], sum(counts), 0]
    (said,) = estimate(RISK, law, outside, fed(3, lambda p: p).verdict(HIGH), 0.02).doubts
    assert said.startswith("0.50 of the predictions lie outside of the range")
    assert estimate(RISK, law, [], unchecked, 0.02).mean is None


@pytest.mark.parametrize(
    ("risk", "why"),
    [
        (None, "has no predictions with labels"),
        (msgspec.structs.replace(RISK, task="regression"), "a regression has no probabilities"),
        (msgspec.structs.replace(RISK, label_error=None), "its profile is of an earlier release"),
    ],
)
def test_why_calibration_is_not_judged(risk: Risk | None, why: str) -> None:
    watch = CalibrationWatch(risk, Monitors())
    watch.judge(LabelCounts(9, 9, 0, [9], [9], [0]), 0.0, HIGH, quiet_blocks=10)
    verdict = watch.verdict(HIGH)
    assert (verdict.state, verdict.blocks) == ("unfit", 0) and why in verdict.note
    assert why in estimate(risk, PROFILE.features[PREDICTION], [1], verdict, 0.02).doubts[0]


def test_a_block_with_too_few_labels_changes_nothing() -> None:
    watch = fed(3, lambda p: p)
    before = msgspec.msgpack.encode(watch.save())
    few = sealed(np.full(10, 0.5), np.ones(10))
    watch.judge(msgspec.structs.replace(few, predictions=100), 1e5, HIGH, quiet_blocks=10)
    assert msgspec.msgpack.encode(watch.save()) == before


def test_what_was_saved_goes_on_to_the_same_bits() -> None:
    straight, broken = CalibrationWatch(RISK, Monitors()), CalibrationWatch(RISK, Monitors())
    rng = np.random.default_rng(5)
    for block in range(12):
        counts = sealed(p := rng.beta(1, 3, 50), (rng.random(50) < p * 1.3) * 1.0)
        for watch in (straight, broken):
            watch.judge(counts, float(block), HIGH, quiet_blocks=3)
        saved = msgspec.msgpack.decode(msgspec.msgpack.encode(broken.save()), type=type(broken.save()))
        broken = CalibrationWatch(RISK, Monitors())
        broken.load(saved)
    assert msgspec.msgpack.encode(straight.save()) == msgspec.msgpack.encode(broken.save())


def test_bins_are_those_of_the_joined_rows() -> None:
    """In any order, and where a later label corrects one: against the rows themselves."""
    rng = np.random.default_rng(6)
    p, first, last = rng.beta(1, 3, 400), rng.integers(0, 2, 400), rng.integers(0, 2, 400)
    parts = [LabelCounts(), LabelCounts()]
    for row in rng.permutation(400).tolist():
        parts[row % 2].follow(LOWS, p[row], None, first[row])
        parts[1 - row % 2].follow(LOWS, p[row], first[row], last[row])
    parts[0].add(parts[1])
    bin_ = np.searchsorted(LOWS, p, side="right") - 1
    assert parts[0].bin_rows == np.bincount(bin_, minlength=len(LOWS)).tolist()
    assert parts[0].bin_labels == np.bincount(bin_, last, len(LOWS)).astype(int).tolist()
    sums = np.array(parts[0].bin_predictions) * LOSS_UNIT
    assert sums == pytest.approx(np.bincount(bin_, p, len(LOWS)), abs=1e-7)


def test_a_bin_with_more_ones_than_rows_counts_as_all_ones() -> None:
    odd, right = (CalibrationWatch(RISK, Monitors()) for _ in range(2))
    rows = [10] * len(LOWS)
    for watch, labels in ((odd, [10**6] * len(LOWS)), (right, rows)):
        watch.judge(LabelCounts(sum(rows), sum(rows), 0, rows, labels, [5 << 32] * len(LOWS)), 0.0, HIGH, 10)
    assert odd.save() == right.save()
    assert np.isfinite(odd.save().s).all() and odd.verdict(HIGH).realised == 1.0


def test_evidence_that_was_saved_as_no_number_begins_again_at_0() -> None:
    watch, saved = CalibrationWatch(RISK, Monitors()), fed(3, lambda p: p).save()
    kept = np.array(saved.s)
    kept[0, 0, 0] = np.nan
    watch.load(msgspec.structs.replace(saved, s=kept.tolist(), log_e=np.nan))
    kept[0, 0, 0] = 0.0
    assert watch.save().s == kept.tolist() and watch.verdict(HIGH).log_e == 0.0
